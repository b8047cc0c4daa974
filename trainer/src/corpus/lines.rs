//! JSON lines: a document a line, a text or a conversation.

use std::collections::HashMap;
use std::io::BufRead;
use std::path::Path;

use bonsai_runtime::Error as RuntimeError;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::input::Documents;
use super::{Document, compressed};
use crate::error::{Error, Result};

/// Fields that hold conversations, where there is no field of the name that was asked for.
pub(super) const CONVERSATIONS: [&str; 2] = ["messages", "conversations"];

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Gives the documents of a file.
pub(super) fn read(path: &Path, column: &str, sink: Documents<'_>) -> Result<()> {
    let mut reader = compressed::open(path)?;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(RuntimeError::io(path))? == 0 {
            break;
        }
        if number == 1 && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let place = || format!("{}: line {number}", path.display());
        let found =
            document(&line, column, place).map_err(|reason| bad_line(path, number, &reason, column))?;
        found.map_or(Ok(()), &mut *sink)?;
    }
    Ok(())
}

/// The document of a line, if it has one.
fn document(line: &[u8], column: &str, place: impl Fn() -> String) -> Result<Option<Document>, String> {
    let told = |error: serde_json::Error| {
        let error = error.to_string();
        error.split(" at line ").next().unwrap_or_default().to_owned() // serde counts within our one line
    };
    let fields: HashMap<String, &RawValue> = serde_json::from_slice(line).map_err(told)?;
    let field = [column].into_iter().chain(CONVERSATIONS).find_map(|name| fields.get(name));
    let Some(raw) = field.map(|raw| raw.get()) else { return Err(missing(column, &fields)) };
    match raw.as_bytes().first() {
        Some(b'"') => Ok(Some(serde_json::from_str::<String>(raw).map_err(told)?.into())),
        Some(b'[') => {
            let messages = conversation(serde_json::from_str(raw).map_err(told)?)?;
            Ok(messages.map(|text| Document { text, conversation: Some(place()) }))
        }
        _ if raw == "null" => Ok(None),
        _ => Err("the field is neither a text nor a list of messages".into()),
    }
}

/// Says which fields there are in the place of the one that was asked for.
fn missing(column: &str, fields: &HashMap<String, &RawValue>) -> String {
    let mut names: Vec<&str> = fields.keys().map(String::as_str).collect();
    names.sort_unstable();
    match names[..] {
        [] => format!("there is no field \"{column}\""),
        _ => {
            format!("there is no field \"{column}\", only {}: name one with --text-column", names.join(", "))
        }
    }
}

fn bad_line(path: &Path, number: usize, reason: &str, column: &str) -> Error {
    let message = format!(
        "line {number}: {reason}; every line must be a JSON object with a \"{column}\" string or with \"messages\""
    );
    Error::Data { path: path.to_path_buf(), message }
}

/// Messages as [`Document::text`] has them. Those of ShareGPT (`from`, `value`) get the usual names. `None` where the
/// assistant says nothing, so that there is nothing to learn.
pub(super) fn conversation(messages: Vec<Value>) -> Result<Option<String>, String> {
    let mut list = Vec::with_capacity(messages.len());
    for (at, message) in messages.into_iter().enumerate() {
        let Value::Object(message) = message else { return Err(format!("message {at} is no object")) };
        list.push(usual_names(message).ok_or_else(|| format!("message {at} has no \"role\""))?);
    }
    let says = |message: &Map<String, Value>| {
        message["role"] == "assistant" && content(message).is_some_and(|text| !text.trim().is_empty())
    };
    let speaks = list.iter().any(says);
    Ok(speaks.then(|| Value::Array(list.into_iter().map(Value::Object).collect()).to_string()))
}

fn content(message: &Map<String, Value>) -> Option<&str> {
    message.get("content").and_then(Value::as_str)
}

/// A message with `role` and `content`. Templates ask whether a field is there: one that is null is not.
fn usual_names(mut message: Map<String, Value>) -> Option<Map<String, Value>> {
    message.retain(|_, value| !value.is_null());
    if let Some(from) = message.remove("from") {
        let role = match from.as_str()? {
            "human" => "user",
            "gpt" => "assistant",
            other => other,
        };
        let value = message.remove("value")?;
        message.insert("role".into(), role.into());
        message.insert("content".into(), value);
    }
    message.get("role")?.is_string().then_some(message)
}

/// What the messages of a conversation say.
pub(super) fn contents(messages: &str) -> Vec<String> {
    let list: Vec<Map<String, Value>> = serde_json::from_str(messages).unwrap_or_default();
    list.iter().filter_map(content).map(str::to_owned).collect()
}
