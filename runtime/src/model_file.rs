//! An opened, checked model, whatever file it came from: shape, tokenizer, tensors.

use std::collections::HashMap;
use std::path::Path;

use crate::config::Config;
use crate::cpu::threads::{self, Threads};
use crate::error::Result;
use crate::pages::Pages;
use crate::tensor::{Bytes, Format, StoredTensor};
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

    /// Copies all tensors from the file into huge pages, with all cores. Opening then takes a moment longer, and where
    /// memory is what limits a token, tokens come faster; the file's own pages are let go.
    pub fn copy_tensors(&mut self) -> Result<()> {
        const ALIGNMENT: usize = 64; // a cache line
        const PIECE: usize = 4 << 20;
        let mut tensors: Vec<&mut StoredTensor> = self.tensors.values_mut().collect();
        let sizes = tensors.iter().map(|tensor| tensor.bytes.len().next_multiple_of(ALIGNMENT));
        let mut pages = Pages::new(sizes.sum())?;
        let (mut free, mut tasks) = (pages.bytes_mut(), Vec::new());
        for tensor in &tensors {
            let place = free.split_off_mut(..tensor.bytes.len().next_multiple_of(ALIGNMENT));
            let place = place.expect("room for the sum of all sizes");
            tasks.extend(place.chunks_mut(PIECE).zip(tensor.bytes.chunks(PIECE)));
        }
        let copy = |(to, from): (&mut [u8], &[u8])| to[..from.len()].copy_from_slice(from);
        Threads::new(None)?.run(|| threads::for_each(tasks, copy));
        let (pages, mut at) = (Bytes::from(pages), 0);
        for tensor in &mut tensors {
            let len = tensor.bytes.len();
            tensor.bytes = pages.slice(at..at + len);
            at += len.next_multiple_of(ALIGNMENT);
        }
        Ok(())
    }

    /// Weights that share a scale in the packed tensors, if any is packed.
    pub fn group(&self) -> Option<usize> {
        let packed = |tensor: &StoredTensor| matches!(tensor.format, Format::Ternary(_));
        self.tensors.values().find(|tensor| packed(tensor)).map(|tensor| tensor.format.group())
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
