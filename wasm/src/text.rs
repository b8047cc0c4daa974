//! Text to ids and back, and conversations as text.

use std::path::Path;
use std::sync::Arc;

use bonsai_runtime::gguf::Metadata;
use bonsai_runtime::tensor::Bytes;
use bonsai_runtime::tokenizer::{Characters, Tokenizer};
use bonsai_runtime::{ChatOptions, ChatTemplate, Error, Message, Tool};
use serde::Deserialize;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::error::Result;
use crate::settings;

/// How a conversation becomes text. What is left out is as the runtime has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Chat {
    add_generation_prompt: Option<bool>,
    thinking: Option<bool>,
    tools: Vec<Tool>,
    plain: bool,
}

impl Chat {
    fn options(self) -> ChatOptions {
        ChatOptions {
            add_generation_prompt: self.add_generation_prompt.unwrap_or(true),
            thinking: self.thinking,
            tools: self.tools,
        }
    }
}

/// A model's tokenizer and chat template.
#[wasm_bindgen]
pub struct Text {
    tokenizer: Arc<Tokenizer>,
    vocab: usize,
}

#[wasm_bindgen]
impl Text {
    /// Out of what [`Model::header`](crate::Model::header) gave, and the model's `vocab`. Takes a quarter of a second
    /// for 150,000 tokens.
    #[wasm_bindgen(constructor)]
    pub fn new(header: Vec<u8>, vocab: usize) -> Result<Self> {
        let metadata = Metadata::from_header(Bytes::from(header), Path::new("model.gguf"))?;
        let missing = || Error::Unsupported("a model without a tokenizer".into());
        let tokenizer = metadata.tokenizer(vocab)?.ok_or_else(missing)?;
        Ok(Self { tokenizer: Arc::new(tokenizer.into_tokenizer()?), vocab })
    }

    /// Whether the model has a chat template.
    #[wasm_bindgen(getter, js_name = hasTemplate)]
    pub fn has_template(&self) -> bool {
        self.tokenizer.chat_template().is_some()
    }

    /// Ids of a text. Special tokens written in it become their ids.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode(text)?)
    }

    /// Ids of a text by strangers: special tokens written in it stay plain text.
    #[wasm_bindgen(js_name = encodePlain)]
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode_plain(text)?)
    }

    /// The text of ids. For ids that come one by one there is [`TextStream`].
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        Ok(self.tokenizer.decode(ids)?)
    }

    /// A conversation as the text to feed, by the model's own chat template. `messages` is a JSON array of objects with
    /// `role` and `content`. Settings are JSON: `thinking` (true or false; left out, the template decides), `tools` (an
    /// array of JSON schemas), `addGenerationPrompt` (true if left out), and `plain`: true for a plain format where the
    /// model has no template, which otherwise is an error.
    pub fn chat(&self, messages: &str, settings: Option<String>) -> Result<String> {
        let settings: Chat = settings::parse(settings.as_deref())?;
        let template = match ChatTemplate::of(&self.tokenizer)? {
            Some(template) => template,
            None if settings.plain => ChatTemplate::plain(),
            None => return Err(Error::Template("this model came without one".into()).into()),
        };
        Ok(template.render(&Message::list_from_json(messages)?, &settings.options())?)
    }
}

/// Ids in, whole characters out: a character whose bytes are spread over several tokens comes with the last of them.
#[wasm_bindgen]
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    vocab: usize,
    characters: Characters,
}

#[wasm_bindgen]
impl TextStream {
    /// An empty text.
    #[wasm_bindgen(constructor)]
    pub fn new(text: &Text) -> Self {
        Self { tokenizer: text.tokenizer.clone(), vocab: text.vocab, characters: Characters::default() }
    }

    /// Adds a token; gives the text that is now certain.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let bytes = self.tokenizer.token_bytes(id);
        Ok(self.characters.push(bytes.ok_or(Error::Token { id, vocab: self.vocab })?))
    }

    /// Ends the text: gives U+FFFD for what cannot become a character any more, and begins a new one.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.characters).finish()
    }
}
