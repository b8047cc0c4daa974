//! A model out of bytes, what is known about it, and its tokenizer.

use std::path::Path;

use bonsai_runtime::cpu::isa::Isa;
use bonsai_runtime::gguf::Gguf;
use bonsai_runtime::tensor::Bytes;
use bonsai_runtime::tokenizer::{Characters, Tokenizer};
use bonsai_runtime::{ChatTemplate, Error, Message, ModelFile};
use js_sys::Uint8Array;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::error::{Result, argument};
use crate::session::Session;
use crate::settings;

/// What error messages call the file.
const NAME: &str = "model.gguf";

/// A GGUF file on its way into WebAssembly's memory, piece by piece, so that JavaScript need not hold all of it.
#[wasm_bindgen]
pub struct Loader {
    bytes: Vec<u8>,
    length: usize,
}

#[wasm_bindgen]
impl Loader {
    /// Room for a file of `length` bytes.
    #[wasm_bindgen(constructor)]
    pub fn new(length: usize) -> Result<Self> {
        let mut bytes = Vec::new();
        let too_large = |_| Error::Memory(format!("{} MiB for the model", length >> 20));
        bytes.try_reserve_exact(length).map_err(too_large)?;
        Ok(Self { bytes, length })
    }

    /// Appends a piece of the file. This is the only copy of it that is ever made here.
    pub fn push(&mut self, piece: &Uint8Array) -> Result<()> {
        let (from, size) = (self.bytes.len(), piece.length() as usize);
        if size > self.length - from {
            return Err(argument(format!("more than the {} bytes that were announced", self.length)));
        }
        self.bytes.resize(from + size, 0);
        piece.copy_to(&mut self.bytes[from..]);
        Ok(())
    }

    /// Opens the model.
    pub fn finish(self) -> Result<Model> {
        if self.bytes.len() < self.length {
            let (found, expected) = (self.bytes.len(), self.length);
            let message = format!("{found} of {expected} bytes arrived: the file is incomplete");
            return Err(Error::format(NAME, message).into());
        }
        Model::from_bytes(self.bytes)
    }
}

/// A loaded model. It lives on as long as its sessions, `free()` or not.
#[wasm_bindgen]
pub struct Model {
    pub(crate) inner: bonsai_runtime::Model,
    name: Option<String>,
    size: usize,
}

#[wasm_bindgen]
impl Model {
    /// A model from all bytes of a GGUF file, which are copied once.
    #[wasm_bindgen(constructor)]
    pub fn new(bytes: &Uint8Array) -> Result<Self> {
        let mut loader = Loader::new(bytes.length() as usize)?;
        loader.push(bytes)?;
        loader.finish()
    }

    /// What is known about it, as JSON: `name` (null if the file says none), `description`, `backend`, `parameters`,
    /// `bytes`, `layers`, `vocab`, `context`, `eos`, `tokenizer` and `chatTemplate` (whether it has one).
    pub fn info(&self) -> Result<String> {
        let config = self.inner.config();
        let tokenizer = self.inner.tokenizer()?;
        let info = serde_json::json!({
            "name": self.name,
            "description": self.inner.description(),
            "backend": backend(),
            "parameters": config.parameters(),
            "bytes": self.size,
            "layers": config.layers,
            "vocab": config.vocab,
            "context": config.context,
            "eos": config.eos,
            "tokenizer": tokenizer.is_some(),
            "chatTemplate": tokenizer.is_some_and(|tokenizer| tokenizer.chat_template().is_some()),
        });
        Ok(info.to_string())
    }

    /// Ids of a text. Special tokens written in it become their ids.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer()?.encode(text)?)
    }

    /// Ids of a text by strangers: special tokens written in it stay plain text.
    #[wasm_bindgen(js_name = encodePlain)]
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer()?.encode_plain(text)?)
    }

    /// The text of ids. For ids that come one by one there is [`TextStream`].
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        Ok(self.tokenizer()?.decode(ids)?)
    }

    /// A conversation as the text to feed, by the model's own chat template. `messages` is a JSON array of objects with
    /// `role` and `content`. Settings are JSON: `thinking` (true or false; left out, the template decides), `tools` (an
    /// array of JSON schemas), `addGenerationPrompt` (true if left out), and `plain`: true for a plain format where the
    /// model has no template, which otherwise is an error.
    pub fn chat(&self, messages: &str, settings: Option<String>) -> Result<String> {
        let settings: settings::Chat = settings::parse(settings.as_deref())?;
        let template = match ChatTemplate::of(self.tokenizer()?)? {
            Some(template) => template,
            None if settings.plain => ChatTemplate::plain(),
            None => return Err(Error::Template("this model came without one".into()).into()),
        };
        Ok(template.render(&Message::list_from_json(messages)?, &settings.options())?)
    }

    /// Starts a conversation. Settings are JSON: `context`, `exact`, `kv` (`"f16"`, `"int8"`, `"f32"`), and `sampling`
    /// as [`Session::sampling`] takes it.
    pub fn session(&self, settings: Option<String>) -> Result<Session> {
        Session::new(&self.inner, settings::parse(settings.as_deref())?)
    }
}

impl Model {
    /// See [`Model::new`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        let size = bytes.len();
        let bytes = Bytes::from(bytes);
        let inner = bonsai_runtime::Model::from_file(ModelFile::from_bytes(&bytes, Path::new(NAME))?)?;
        let container = Gguf::from_bytes(bytes, Path::new(NAME))?;
        let name = container.metadata().str("general.name")?.map(str::to_owned);
        Ok(Self { inner, name, size })
    }

    pub(crate) fn tokenizer(&self) -> Result<&Tokenizer> {
        let missing = || Error::Unsupported("a model without a tokenizer".into());
        Ok(self.inner.tokenizer()?.ok_or_else(missing)?)
    }
}

/// What computes, for people.
fn backend() -> String {
    format!("cpu, wasm {}, 1 thread", Isa::detect().name())
}

/// Ids in, whole characters out: a character whose bytes are spread over several tokens comes with the last of them.
#[wasm_bindgen]
pub struct TextStream {
    model: bonsai_runtime::Model,
    characters: Characters,
}

#[wasm_bindgen]
impl TextStream {
    /// An empty text.
    #[wasm_bindgen(constructor)]
    pub fn new(model: &Model) -> Result<Self> {
        model.tokenizer()?;
        Ok(Self { model: model.inner.clone(), characters: Characters::default() })
    }

    /// Adds a token; gives the text that is now certain.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let vocab = self.model.config().vocab;
        let bytes = self.model.tokenizer()?.and_then(|tokenizer| tokenizer.token_bytes(id));
        Ok(self.characters.push(bytes.ok_or(Error::Token { id, vocab })?))
    }

    /// Ends the text: gives U+FFFD for what cannot become a character any more, and begins a new one.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.characters).finish()
    }
}
