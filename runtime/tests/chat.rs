//! Chat templates: what transformers renders, and what templates by strangers must not do.

#![cfg(feature = "chat")]
#![allow(clippy::unwrap_used, reason = "clippy does not count helpers as parts of tests")]

use std::time::{Duration, Instant};

use bonsai_runtime::{ChatOptions, ChatTemplate, ErrorCode, Message, Result, Tool};
use serde::Deserialize;
use serde_json::value::RawValue;

/// 32 conversations as transformers 5.23 renders them with Qwen3's template.
#[derive(Deserialize)]
struct Cases<'a> {
    template: String,
    #[serde(borrow)]
    cases: Vec<Case<'a>>,
}

#[derive(Deserialize)]
struct Case<'a> {
    name: String,
    #[serde(borrow)]
    messages: &'a RawValue,
    tools: Option<&'a RawValue>,
    add_generation_prompt: bool,
    enable_thinking: Option<bool>,
    rendered: String,
}

fn render(source: &str) -> Result<String> {
    let messages = [Message::new("user", "hello")];
    ChatTemplate::new(source)?.render(&messages, &ChatOptions::default())
}

#[test]
fn conversations_are_what_transformers_renders() {
    let Cases { template, cases } = serde_json::from_str(include_str!("chat/cases.json")).unwrap();
    let template = ChatTemplate::new(template).unwrap();
    assert_eq!(cases.len(), 32);
    for case in cases {
        let tools = case.tools.map(|tools| Tool::list_from_json(tools.get()).unwrap());
        let options = ChatOptions {
            add_generation_prompt: case.add_generation_prompt,
            thinking: case.enable_thinking,
            tools: tools.unwrap_or_default(),
        };
        let messages = Message::list_from_json(case.messages.get()).unwrap();
        assert_eq!(template.render(&messages, &options).unwrap(), case.rendered, "{}", case.name);
    }
}

#[test]
fn hostile_templates_end_in_an_error() {
    let grow = |step: &str| {
        format!(
            "{{% set ns = namespace(x='ab') %}}{{% for i in range(9999) %}}{step}{{% endfor %}}{{{{ ns.x|length }}}}"
        )
    };
    let long = "'abcdefgh' * 1000000";
    for source in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}".into(),
        "{% for i in range(100000) %}some text that is rather long, so that the output is\n{% endfor %}"
            .repeat(9),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".into(),
        grow("{% set ns.x = ns.x ~ ns.x %}"),
        grow("{% set ns.x = ns.x * 2 %}"),
        grow("{% set ns.x = ns.x.replace('a', ns.x) %}"),
        grow("{% set ns.x = [ns.x, ns.x]|join %}"),
        grow("{% set ns.x = ''.join([ns.x, ns.x, ns.x]) %}"),
        grow("{% set ns.x = [ns.x, ns.x]|tojson %}"),
        grow("{% set ns.x = [ns.x, ns.x] %}").replace("|length", ""),
        grow("{% set ns.x = [ns.x, ns.x] %}").replace("length", "tojson"),
        grow("{% set ns.x = (ns.x ~ 'abab').split('a') %}{% set ns.x = ns.x|join('abab') %}"),
        format!("{{% set x = {long} %}}{{{{ [x] * 1000000 }}}}"),
        format!("{{% set x = {long} %}}{{{{ x.split('a')|length }}}}"),
        format!("{{% set x = {long} %}}{{{{ ''.join([x] * 10000) }}}}"),
        "{{ '{:>9999999999}'.format(1) }}".into(),
        "{{ '%9999999999d'|format(1) }}".into(),
        "{{ [1]|pprint }}".into(),
        "{{ '{' * 100000 }}".replace("'{'", &"[".repeat(100_000)),
        "{{ ".to_string() + &"(".repeat(100_000),
        "x".repeat(300 << 10),
    ] {
        let start = Instant::now();
        let error =
            render(&source).err().unwrap_or_else(|| panic!("no error: {}", &source[..source.len().min(120)]));
        assert_eq!(error.code(), ErrorCode::Template, "{error}");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?} for {source}", start.elapsed());
    }
}

#[test]
fn values_as_deep_as_the_budget_allows_do_no_harm() {
    for nested in ["[ns.x]", "{'a': ns.x}"] {
        for end in [
            "{{ ns.x == [ns.x] }}",
            "{{ ns.x }}",
            "{{ {ns.x: 1} }}",
            "{{ [ns.x, ns.x]|sort }}",
            "{{ ns.x|tojson }}",
        ] {
            for count in [1000, 5_000, 20_000, 99_999] {
                let grown = format!(
                    "{{% set ns = namespace(x=1) %}}{{% for i in range({count}) %}}{{% set ns.x = {nested} %}}{{% endfor %}}"
                );
                let _ = render(&(grown + end)); // an error or a text: but it comes back
            }
        }
    }
}

#[test]
fn templates_see_the_conversation_and_nothing_else() {
    for source in [
        "{% include '/etc/passwd' %}",
        "{% extends 'base' %}",
        "{{ open('/etc/passwd') }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ strftime_now('%Y') }}",
    ] {
        assert_eq!(render(source).map_err(|e| e.code()), Err(ErrorCode::Template), "{source}");
    }
}

#[test]
fn templates_can_refuse_and_say_why() {
    let error = render("line\n{{ raise_exception('roles must alternate') }}").unwrap_err();
    assert_eq!(error.to_string(), "chat template: line 2: roles must alternate");
    assert!(render("{% if %}").unwrap_err().to_string().starts_with("chat template: line 1: "));
}

#[test]
fn json_is_pythons() {
    let text = r#"[{"role": "user", "content": "", "z": {"b": [1, 2.50, 1e-7, true, null, []], "a": "é\u0001<'\"", "c": {}}}]"#;
    let messages = Message::list_from_json(text).unwrap();
    let render =
        |source: &str| ChatTemplate::new(source).unwrap().render(&messages, &ChatOptions::default()).unwrap();
    assert_eq!(
        render("{{ messages[0].z | tojson }}"),
        r#"{"b": [1, 2.5, 1e-07, true, null, []], "a": "é\u0001<'\"", "c": {}}"#
    );
    assert_eq!(
        render("{{ messages[0].z.b[:2] | tojson(indent=2, ensure_ascii=False) }}"),
        "[\n  1,\n  2.5\n]"
    );
}

#[test]
fn messages_must_be_objects() {
    for json in ["", "{}", "[1]", "[[]]", "[\"x\"]", &"[".repeat(100_000)] {
        assert_eq!(Message::list_from_json(json).unwrap_err().code(), ErrorCode::Argument, "{json:.20}");
    }
    assert!(Message::list_from_json("[]").unwrap().is_empty());
}

#[test]
fn the_plain_format_has_names_and_colons() {
    let messages = [Message::new("system", "Be brief."), Message::new("user", "Hi\nthere")];
    let text = ChatTemplate::plain().render(&messages, &ChatOptions::default()).unwrap();
    assert_eq!(text, "System: Be brief.\nUser: Hi\nthere\nAssistant:");
}
