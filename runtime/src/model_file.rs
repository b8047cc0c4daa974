//! An opened, checked model, whatever file it came from: shape, tokenizer, tensors.

use std::collections::HashMap;
use std::path::Path;

use crate::config::Config;
use crate::error::Result;
use crate::tensor::{Bytes, StoredTensor};
use crate::tokenizer::{LazyTokenizer, Tokenizer};
use crate::{checkpoint, gguf};

/// A model as it lies on disk or in memory. Tensors are named by [`Config::tensors`] (Hugging Face names) and
/// all of them are there, with the shapes of that table.
pub struct ModelFile {
    /// The shape.
    pub config: Config,
    /// `None` for a checkpoint that came without one. Built when it is first asked for.
    pub tokenizer: Option<LazyTokenizer>,
    /// Every tensor of `config.tensors()`.
    pub tensors: HashMap<String, StoredTensor>,
    /// One sentence for people: container, version, number formats and how they were recognised.
    pub description: String,
}

impl ModelFile {
    /// Opens a GGUF file, or a Hugging Face directory (config.json, safetensors, tokenizer.json).
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() { checkpoint::open(path) } else { gguf::open(path) }
    }

    /// The tokenizer, if there is one. The first call builds it.
    pub fn tokenizer(&self) -> Result<Option<&Tokenizer>> {
        self.tokenizer.as_ref().map(LazyTokenizer::get).transpose()
    }

    /// Opens a GGUF file that is already in memory; `name` is for error messages.
    pub fn from_bytes(bytes: &Bytes, name: &Path) -> Result<Self> {
        gguf::open_bytes(bytes, name)
    }
}
