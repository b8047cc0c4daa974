//! Which names of a template are namespaces, and that nothing is done with them but `name.attribute`.
//!
//! A namespace is the one value of Jinja that can be changed, so the only one that can be made to hold itself. The
//! engine then compares and prints it until the stack overflows, which no budget stops. Chat templates never hand a
//! namespace on; one that does is refused before it runs.

/// A piece of code between `{{ }}` or `{% %}`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Token<'a> {
    Name(&'a str),
    Sign(char),
    Text,
}

/// Says what is wrong with the namespaces of a template.
pub(super) fn check(source: &str) -> Result<(), String> {
    let tokens = tokens(source)?;
    let around = |at: usize| (at.checked_sub(1).map(|at| tokens[at]), tokens.get(at + 1).copied());
    let mut names = Vec::new();
    for at in (0..tokens.len()).filter(|&at| tokens[at] == Token::Name("namespace")) {
        match (at.checked_sub(3).map(|first| &tokens[first..at]), around(at).1) {
            (Some(&[Token::Name("set"), Token::Name(name), Token::Sign('=')]), Some(Token::Sign('('))) => {
                names.push(name);
            }
            _ if around(at).0 == Some(Token::Sign('.')) => {}
            _ => return Err("a namespace is used other than in 'set NAME = namespace(...)'".into()),
        }
    }
    for (at, token) in tokens.iter().enumerate() {
        let Token::Name(name) = *token else { continue };
        if names.contains(&name) && !is_attribute_access(around(at)) {
            return Err(format!("the namespace '{name}' is used other than by '{name}.attribute'"));
        }
    }
    Ok(())
}

fn is_attribute_access((before, after): (Option<Token>, Option<Token>)) -> bool {
    let defined = (before, after) == (Some(Token::Name("set")), Some(Token::Sign('=')));
    let of_another = before == Some(Token::Sign('.'));
    defined || of_another || after == Some(Token::Sign('.'))
}

/// The code of a template, text and comments left out.
fn tokens(source: &str) -> Result<Vec<Token<'_>>, String> {
    let (mut tokens, mut rest) = (Vec::new(), source);
    while let Some(at) = rest.find('{') {
        rest = &rest[at + 1..];
        match rest.as_bytes().first() {
            Some(b'#') => rest = rest[1..].split_once("#}").map_or("", |(_, after)| after),
            Some(b'{') => rest = code(&rest[1..], "}}", &mut tokens)?,
            Some(b'%') => rest = code(&rest[1..], "%}", &mut tokens)?,
            _ => {}
        }
    }
    Ok(tokens)
}

/// Takes code up to its end apart; gives what follows.
fn code<'a>(mut rest: &'a str, end: &str, tokens: &mut Vec<Token<'a>>) -> Result<&'a str, String> {
    let first = tokens.len();
    // A dict may end in the two letters that end an expression, as in {{ {"a": {}}}}: the engine counts brackets, too.
    let mut open = 0usize;
    while let Some(c) = rest.chars().next() {
        if open == 0 && rest.starts_with(end) {
            return Ok(&rest[end.len()..]);
        }
        let length = match c {
            '"' | '\'' => quoted(rest, c),
            c if is_name(c) => rest.find(|c| !is_name(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        match c {
            '{' | '[' | '(' => open += 1,
            '}' | ']' | ')' => open = open.saturating_sub(1),
            _ => {}
        }
        let piece = &rest[..length];
        rest = &rest[length..];
        match c {
            c if c.is_whitespace() => {}
            '"' | '\'' => tokens.push(Token::Text),
            c if is_name(c) => tokens.push(Token::Name(piece)),
            c => tokens.push(Token::Sign(c)),
        }
        let opening = &tokens[first..];
        if opening.last() == Some(&Token::Name("raw")) && opening.iter().all(|t| is_dash_or_raw(*t)) {
            return Err("a raw block: chat templates need none, and this one is not followed".into());
        }
    }
    Ok(rest)
}

fn is_dash_or_raw(token: Token) -> bool {
    matches!(token, Token::Name("raw") | Token::Sign('-' | '+'))
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Bytes of a string in quotes, both of them included.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn namespaces_as_templates_use_them_pass() {
        for source in [
            "{%- set ns = namespace(found=false) %}{% set ns.found = true %}{{ ns.found ~ 'ns' }} ns",
            "{{ 'namespace ns' }}{# {% set a = namespace %} #}{% set a = namespace() %}{{ a . b }}",
            "{{ {'a': {'b': 1}}}}{% set ns = namespace(a=\"it's\") %}{{ x.ns }}{{ x.namespace }}",
            "no code { % }",
        ] {
            assert_eq!(check(source), Ok(()), "{source}");
        }
    }

    #[test]
    fn namespaces_that_are_handed_on_are_refused() {
        for use_ in [
            "{% set ns.x = ns %}",
            "{% set ns.x = [ns] %}",
            "{{ f(ns) }}",
            "{{ ns }}",
            "{{ ns|items }}",
            "{{ ns['x'] }}",
            "{{ 'it\\'s' ~ ns }}",
            "{{ {'a': {}}}}{{ ns }}",
            "{# '#}{{ ns }}",
            "{% set f = namespace %}",
            "{% set ns.x = namespace() %}",
            "{% with a = namespace() %}{% endwith %}",
            "{{ [namespace()] }}",
            "{%- raw %}{#{% endraw %}{{ ns }}",
        ] {
            let source = format!("{{% set ns = namespace() %}}{use_}");
            assert!(check(&source).is_err(), "{source}");
        }
    }
}
