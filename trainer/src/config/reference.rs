//! What every setting means, for people: the comments of [`RunConfig`], so that the program, the document and the code say
//! the same.

use std::fmt::Write as _;

use serde::Serialize;

use super::RunConfig;
use crate::error::{Error, Result};

/// Spellings from here on are similar enough to be a slip (Jaro-Winkler similarity, 0 to 1).
const SIMILAR: f64 = 0.85;

/// Settings that belong together.
#[derive(Debug, Serialize)]
pub struct Section {
    /// What they are about.
    pub heading: &'static str,
    /// In the order of the run file.
    pub settings: Vec<Setting>,
}

/// One setting.
#[derive(Debug, Serialize)]
pub struct Setting {
    /// As `--set` and the run file spell it.
    pub name: &'static str,
    /// As the run file spells it.
    pub default: String,
    /// Sentences.
    pub meaning: String,
}

/// The settings whose names or meanings, or the heading over them, hold these words; all for none.
pub fn sections(about: &str) -> Vec<Section> {
    let mut sections = all();
    for section in sections.iter_mut().filter(|section| !holds(section.heading, about)) {
        section.settings.retain(|setting| setting.is_about(about));
    }
    sections.retain(|section| !section.settings.is_empty());
    sections
}

fn all() -> Vec<Section> {
    let defaults: toml::Table = RunConfig::default().to_toml().parse().expect("it was written by to_toml");
    let (_, fields) = include_str!("../config.rs").split_once("pub struct RunConfig {").expect("it is there");
    let mut sections: Vec<Section> = Vec::new();
    let mut meaning = String::new();
    for line in fields.lines().map(str::trim).take_while(|&line| line != "}") {
        if let Some(comment) = line.strip_prefix("/// ") {
            let space = if meaning.is_empty() { "" } else { " " };
            meaning = meaning + space + comment;
        } else if let Some(heading) = line.strip_prefix("// ") {
            sections.push(Section { heading, settings: Vec::new() });
        } else if let Some((name, _)) = line.strip_prefix("pub ").and_then(|field| field.split_once(':')) {
            let meaning = std::mem::take(&mut meaning);
            // The number of processes is a field, but no setting.
            if let (Some(default), Some(section)) = (defaults.get(name), sections.last_mut()) {
                section.settings.push(Setting { name, default: default.to_string(), meaning });
            }
        }
    }
    sections
}

/// The same as lines for a terminal.
pub fn listing(about: &str) -> String {
    let mut out = String::new();
    for Section { heading, settings } in sections(about) {
        let _ = writeln!(out, "{}{heading}", if out.is_empty() { "" } else { "\n" });
        for Setting { name, default, meaning } in settings {
            let _ = writeln!(out, "  {name} = {default}");
            for line in lines(&meaning, 100) {
                let _ = writeln!(out, "      {line}");
            }
        }
    }
    out
}

/// docs/settings.md.
pub fn document() -> String {
    let mut out = String::from(
        "# Settings of a run\n\nWhat `--set NAME=VALUE` and the file of `--config` take, with the defaults; a run writes its own as `run.toml`. \
         In a terminal: `bonsai-trainer settings`, or `bonsai-trainer settings teacher` for those that have to do with a word. What to choose, and \
         what it gave: [training.md](training.md).\n\nThis file is made from the comments of `trainer/src/config.rs`.\n",
    );
    for section in all() {
        let _ =
            write!(out, "\n## {}\n\n| setting | default | meaning |\n| --- | --- | --- |\n", section.heading);
        for Setting { name, default, meaning } in section.settings {
            let _ = writeln!(out, "| `{name}` | `{default}` | {meaning} |");
        }
    }
    out
}

/// Refuses names that are no setting's, and says which are near.
pub(super) fn check_names<'a>(mut names: impl Iterator<Item = &'a String>) -> Result<()> {
    let known: Vec<Setting> = all().into_iter().flat_map(|section| section.settings).collect();
    let Some(stranger) = names.find(|&name| known.iter().all(|setting| setting.name != name)) else {
        return Ok(());
    };
    let near = match near(stranger, &known)[..] {
        [] => String::new(),
        ref near => format!(", but there is {}", near.join(", ")),
    };
    Err(Error::Config(format!(
        "there is no setting '{stranger}'{near} (`bonsai-trainer settings` explains all)"
    )))
}

/// What may have been meant, likeliest first: names that hold the stranger's words or are one of them, or are spelt alike;
/// for several words that find nothing, what has to do with them.
fn near(stranger: &str, known: &[Setting]) -> Vec<&'static str> {
    let holds = |long: &str, short: &str| format!("_{long}_").contains(&format!("_{short}_"));
    let score = |name: &str| match holds(name, stranger) || holds(stranger, name) {
        true => 1.0,
        false => strsim::jaro_winkler(name, stranger),
    };
    let mut slips: Vec<_> = known.iter().map(|setting| (score(setting.name), setting.name)).collect();
    slips.retain(|&(score, _)| score >= SIMILAR);
    slips.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut near: Vec<_> = slips.into_iter().map(|(_, name)| name).collect();
    if near.is_empty() && stranger.contains(['_', '-']) {
        near =
            known.iter().filter(|setting| setting.is_about(stranger)).map(|setting| setting.name).collect();
    }
    near.truncate(3);
    near
}

impl Setting {
    /// Whether name or meaning hold these words, in that order.
    fn is_about(&self, words: &str) -> bool {
        holds(self.name, words) || holds(&self.meaning, words)
    }
}

/// Whether a text holds these words, in that order.
fn holds(text: &str, words: &str) -> bool {
    let plain = |text: &str| text.to_lowercase().replace(['_', '-'], " ");
    plain(text).contains(&plain(words))
}

/// Words in lines of at most `width` bytes.
fn lines(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => *line = format!("{line} {word}"),
            _ => lines.push(word.into()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_explained() {
        let table: toml::Table = RunConfig::default().to_toml().parse().unwrap();
        let all: Vec<Setting> = all().into_iter().flat_map(|section| section.settings).collect();
        let mut names: Vec<&str> = all.iter().map(|setting| setting.name).collect();
        names.sort_unstable();
        let mut expected: Vec<&str> = table.keys().map(String::as_str).collect();
        expected.sort_unstable();
        assert_eq!(names, expected);
        let (_, fields) = include_str!("../config.rs").split_once("pub struct RunConfig {").unwrap();
        let fields =
            fields.lines().take_while(|&line| line != "}").filter(|line| line.starts_with("    pub "));
        assert_eq!(
            names.len(),
            fields.count() - 1,
            "a setting needs a default that TOML can write; ranks is none"
        );
        assert!(
            all.iter().all(|setting| setting.meaning.ends_with('.') && !setting.meaning.contains('|')),
            "{all:?}"
        );
        assert!(super::all().iter().all(|section| !section.settings.is_empty()));
        let micro = all.iter().find(|setting| setting.name == "micro_batch").unwrap();
        assert_eq!((micro.default.as_str(), &micro.meaning[..22]), ("0", "Sequences in memory at"));
    }

    #[test]
    fn words_find_settings_and_slips_are_understood() {
        let listed = listing("learning rate");
        assert!(listed.contains("\n  lr = 0.0\n") && listed.contains("  muon_lr = 0.02\n"), "{listed}");
        for name in ["warmup", "decay", "lr_floor"] {
            assert!(listed.contains(&format!("  {name} = ")), "by the heading: {listed}");
        }
        assert!(!listed.contains("seq_len") && listing("xyzzy").is_empty());
        let refused = |key: &str| check_names([key.to_owned()].iter()).unwrap_err().to_string();
        assert!(refused("bach_size").contains("but there is batch_size"));
        assert!(
            refused("learning_rate").contains("but there is lr, muon_lr"),
            "{}",
            refused("learning_rate")
        );
        assert!(refused("max_steps").contains("but there is steps"), "{}", refused("max_steps"));
        assert!(refused("top_k").contains("but there is teacher_top_k ("), "{}", refused("top_k"));
        for stranger in ["xyzzy", "bs", ""] {
            assert!(refused(stranger).contains(&format!("'{stranger}' (")), "{}", refused(stranger));
        }
        assert!(check_names(["lr".to_owned()].iter()).is_ok());
    }

    /// `BONSAI_WRITE_SETTINGS=1 cargo test -p bonsai-trainer --lib reference` writes it.
    #[test]
    fn the_document_is_what_the_code_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/settings.md");
        if std::env::var_os("BONSAI_WRITE_SETTINGS").is_some() {
            std::fs::write(path, document()).unwrap();
        }
        assert!(std::fs::read_to_string(path).unwrap() == document(), "write it again: see this test");
    }
}
