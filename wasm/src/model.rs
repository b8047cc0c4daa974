//! A model out of bytes, and what is known about it.

use std::path::Path;

use bonsai_runtime::cpu::isa::Isa;
use bonsai_runtime::cpu::threads::Threads;
use bonsai_runtime::tensor::Bytes;
use bonsai_runtime::{Error, gguf};
use js_sys::Uint8Array;
use sha2::{Digest, Sha256};
use wasm_bindgen::prelude::wasm_bindgen;

use crate::error::{Result, argument};
use crate::session::Session;
use crate::settings;

/// What error messages call the file.
pub(crate) const NAME: &str = "model.gguf";

/// A GGUF file on its way into WebAssembly's memory, piece by piece, so that JavaScript need not hold all of it.
#[wasm_bindgen]
pub struct Loader {
    bytes: Vec<u8>,
    length: usize,
    /// Of the bytes up to `hashed`.
    hash: Sha256,
    hashed: usize,
}

#[wasm_bindgen]
impl Loader {
    /// Room for a file of `length` bytes.
    #[wasm_bindgen(constructor)]
    pub fn new(length: usize) -> Result<Self> {
        let mut bytes = Vec::new();
        let too_large = |_| Error::Memory(format!("{} MiB for the model", length >> 20));
        bytes.try_reserve_exact(length).map_err(too_large)?;
        Ok(Self { bytes, length, hash: Sha256::new(), hashed: 0 })
    }

    /// Appends a piece of the file. This is the only copy of it that is ever made here.
    pub fn push(&mut self, piece: &Uint8Array) -> Result<()> {
        let from = self.bytes.len();
        self.room(piece.length() as usize)?;
        piece.copy_to(&mut self.bytes[from..]);
        self.filled();
        Ok(())
    }

    /// Appends `size` zeros and returns where they lie in WebAssembly's memory, for JavaScript to read a file into. Then
    /// it has to call [`Loader::filled`].
    pub fn room(&mut self, size: usize) -> Result<*const u8> {
        let from = self.bytes.len();
        if size > self.length - from {
            return Err(argument(format!("more than the {} bytes that were announced", self.length)));
        }
        self.bytes.resize(from + size, 0);
        Ok(self.bytes[from..].as_ptr())
    }

    /// What [`Loader::room`] gave holds the file now.
    pub fn filled(&mut self) {
        self.hash.update(&self.bytes[self.hashed..]); // they are in the processor's cache now
        self.hashed = self.bytes.len();
    }

    /// SHA-256 of the file so far, in hex.
    pub fn sha256(&self) -> String {
        self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
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
    inner: bonsai_runtime::Model,
    name: Option<String>,
    header: Bytes,
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
    /// `bytes`, `layers`, `vocab`, `context` and `eos`.
    pub fn info(&self) -> String {
        let config = self.inner.config();
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
        });
        info.to_string()
    }

    /// The file up to the data of its tensors, copied: what `Text` is made of.
    pub fn header(&self) -> Vec<u8> {
        self.header.to_vec()
    }

    /// Where the file lies in WebAssembly's memory, for another engine to read.
    pub fn address(&self) -> *const u8 {
        self.header.as_ptr()
    }

    /// Logits that a GPU must find.
    #[wasm_bindgen(js_name = testLogits)]
    pub fn test_logits(&self) -> Result<Vec<f32>> {
        Ok(self.inner.test_logits()?)
    }

    /// Starts a conversation. Settings are JSON: `context`, `exact`, `kv` (`"f32"`, `"f16"`, `"int16"`, `"int8"`, `"int4"`),
    /// and `sampling` as [`Session::sampling`] takes it.
    pub fn session(&self, settings: Option<String>) -> Result<Session> {
        Session::new(&self.inner, settings::parse(settings.as_deref())?)
    }

    fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        let size = bytes.len();
        let bytes = Bytes::from(bytes);
        let (file, container) = gguf::open_without_tokenizer(&bytes, Path::new(NAME))?;
        let name = container.metadata().str("general.name")?.map(str::to_owned);
        let header = bytes.slice(0..container.header_bytes());
        Ok(Self { inner: bonsai_runtime::Model::from_file(file)?, name, header, size })
    }
}

/// What computes, for people.
fn backend() -> String {
    let threads = Threads::default_count();
    format!("cpu, wasm {}, {threads} thread{}", Isa::detect().name(), if threads == 1 { "" } else { "s" })
}
