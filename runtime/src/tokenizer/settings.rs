//! What `tokenizer_config.json` and `chat_template.jinja` add to a tokenizer.json: the roles of some tokens, and
//! the template of conversations.

use std::path::Path;

use serde_json::{Value, json};

use super::Tokenizer;
use crate::error::{Error, Result};

/// Roles of tokens and the chat template.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) padding: Option<u32>,
    pub(super) add_bos: bool,
    pub(super) chat_template: Option<String>,
}

impl Tokenizer {
    /// Reads the files beside a tokenizer.json, as far as they are there.
    pub(super) fn read_settings(&mut self, directory: &Path) -> Result<()> {
        let path = directory.join("tokenizer_config.json");
        if let Some(text) = read_if_there(&path)? {
            let config: Value =
                serde_json::from_str(&text).map_err(|e| Error::format(&path, e.to_string()))?;
            self.apply(&config);
        }
        if let Some(template) = read_if_there(&directory.join("chat_template.jinja"))? {
            self.settings.chat_template = Some(template);
        }
        Ok(())
    }

    fn apply(&mut self, config: &Value) {
        let id = |key: &str| token_text(&config[key]).and_then(|text| self.token_id(text));
        let (bos, eos, padding) = (id("bos_token"), id("eos_token"), id("pad_token"));
        self.settings = Settings {
            bos: bos.or(self.settings.bos),
            eos,
            padding,
            add_bos: config["add_bos_token"].as_bool().unwrap_or(self.settings.add_bos),
            chat_template: template(&config["chat_template"]).map(str::to_owned),
        };
    }

    /// Takes another chat template, which [`save`](Self::save) writes, too.
    pub fn set_chat_template(&mut self, template: &str) {
        self.settings.chat_template = Some(template.to_owned());
    }

    /// The tokenizer_config.json that transformers reads beside [`to_json`](Self::to_json).
    pub fn to_config_json(&self) -> String {
        let token = |id: Option<u32>| id.and_then(|id| self.inner.id_to_token(id));
        let mut config = json!({
            "add_bos_token": self.settings.add_bos,
            "add_prefix_space": false,
            "bos_token": token(self.settings.bos),
            "clean_up_tokenization_spaces": false,
            "eos_token": token(self.settings.eos),
            "errors": "replace",
            "pad_token": token(self.settings.padding),
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": null,
        });
        if let Some(template) = &self.settings.chat_template {
            config["chat_template"] = template.as_str().into();
        }
        format!("{config:#}\n")
    }
}

fn read_if_there(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
}

/// A token is written as text, or as an object with its text under "content".
fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

/// A template is text, or a list of named ones of which "default" is meant.
fn template(value: &Value) -> Option<&str> {
    let named = |list: &'_ Vec<Value>| list.iter().position(|entry| entry["name"] == "default");
    match value {
        Value::Array(list) => list[named(list)?]["template"].as_str(),
        other => other.as_str(),
    }
}
