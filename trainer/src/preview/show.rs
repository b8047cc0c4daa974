//! Samples as text for people.

use std::fmt::Write;
use std::io::IsTerminal;

use super::{Sample, Token};

/// White on two greens: what the model learns to write.
const TARGET: [&str; 2] = ["\x1b[97;48;5;22m", "\x1b[97;48;5;28m"];
/// White on two greys: what it only reads.
const CONTEXT: [&str; 2] = ["\x1b[97;48;5;236m", "\x1b[97;48;5;241m"];
const RESET: &str = "\x1b[0m";

/// Whether standard output shows colours.
pub(super) fn colored() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// All samples, and how much of them is learnt.
pub(super) fn show(samples: &[Sample], ids: bool, colored: bool) -> String {
    let mut out = String::new();
    for sample in samples {
        let _ = writeln!(out, "=== {}", sample.title);
        if colored {
            in_color(&sample.tokens, ids, &mut out)
        } else {
            in_brackets(&sample.tokens, ids, &mut out)
        }
    }
    let tokens = || samples.iter().flat_map(|sample| &sample.tokens);
    let targets = tokens().filter(|token| token.target).count();
    let _ = writeln!(out, "=== {targets} of {} tokens are targets", tokens().count());
    out
}

fn in_color(tokens: &[Token], ids: bool, out: &mut String) {
    for (at, token) in tokens.iter().enumerate() {
        let colors = if token.target { TARGET } else { CONTEXT };
        // A color that is on where a line ends would fill the rest of it.
        let text = label(token, ids).replace('\n', &format!("{RESET}\n{}", colors[at % 2]));
        let _ = write!(out, "{}{text}{RESET}", colors[at % 2]);
        end(token, out);
    }
    finish_line(out);
}

fn in_brackets(tokens: &[Token], ids: bool, out: &mut String) {
    let mut begun = None; // whether the tokens before are targets
    for token in tokens {
        match begun {
            Some(target) if target == token.target => out.push('│'),
            Some(false) => out.push(']'),
            _ => (),
        }
        if !token.target && begun != Some(false) {
            out.push('[');
        }
        out.push_str(&label(token, ids));
        begun = Some(token.target);
        if token.ends_document {
            out.push_str(if token.target { "" } else { "]" });
            begun = None;
        }
        end(token, out);
    }
    out.push_str(if begun == Some(false) { "]" } else { "" });
    finish_line(out);
}

/// Its text with visible ends of lines, and its id if asked for.
fn label(token: &Token, ids: bool) -> String {
    let visible = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    let text: String = token.text.chars().map(visible).collect::<String>().replace('\n', "⏎\n");
    match text.strip_suffix('\n') {
        _ if !ids => text,
        Some(line) => format!("{line}({})\n", token.id),
        None => format!("{text}({})", token.id),
    }
}

fn end(token: &Token, out: &mut String) {
    if token.ends_document {
        out.push_str("\n--- the document ends\n");
    }
}

fn finish_line(out: &mut String) {
    if !out.ends_with('\n') {
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_end_where_lines_end_and_hide_nothing() {
        let token =
            |text: &str, target| Token { id: 7, text: text.into(), target, ends_document: text == "E" };
        let sample = Sample {
            title: "t".into(),
            tokens: vec![token("a\n", false), token("\u{1b}b", true), token("E", true)],
        };
        let shown = show(&[sample], false, true);
        assert_eq!(
            shown.matches('\u{1b}').count(),
            2 * 4,
            "three tokens and a second line; no escapes of theirs: {shown}"
        );
        assert!(shown.lines().all(|line| !line.contains('\u{1b}') || line.ends_with(RESET)), "{shown:?}");
        let plain: String =
            shown.split('\u{1b}').map(|part| part.split_once('m').map_or(part, |(_, text)| text)).collect();
        assert_eq!(plain, "=== t\na⏎\n\u{fffd}bE\n--- the document ends\n=== 2 of 3 tokens are targets\n");
    }
}
