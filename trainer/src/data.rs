//! Prepared data: shards of tokens on disk, and the batches that are cut from them.
//!
//! A prepared directory holds `train.bin` and `valid.bin` (raw little-endian ids, each document followed by the
//! end-of-text token), `tokenizer.json`, and `meta.json`, which is written last and marks the directory as complete.

mod encoder;
mod order;
mod shard;
mod tokens;
mod writer;

use std::fs;
use std::path::Path;

use bonsai_runtime::{Error as RuntimeError, Tokenizer};
use serde::{Deserialize, Serialize};

pub use encoder::{Encoder, Piece};
pub use order::{Batch, IGNORE, Order, valid_windows, windows_per_epoch};
pub use tokens::{Dtype, Tokens};
pub use writer::{Progress, prepare};

use crate::corpus::fnv1a;
use crate::error::{Error, Result};

const META: &str = "meta.json";

/// Where an unfinished preparation is.
const PROGRESS: &str = "progress.json";

/// Locked while somebody prepares.
const LOCK: &str = "LOCK";

/// Size of one shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Documents.
    pub documents: usize,
    /// Tokens, with one end of text for each document.
    pub tokens: usize,
    /// Bytes of text, for bits per byte; of a conversation, as the chat template renders it.
    pub bytes: usize,
}

/// What `meta.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// How an id is stored, and whether tokens are marked that are no targets.
    pub dtype: Dtype,
    /// Ids are below this.
    pub vocab: usize,
    /// The end-of-text token.
    pub eos: u32,
    /// FNV-1a of the tokenizer, in hexadecimal.
    pub tokenizer: String,
    /// Size of `train.bin`.
    pub train: Count,
    /// Size of `valid.bin`.
    pub valid: Count,
    /// Share of the bytes that was set aside for validation; `None` if the validation text came on its own.
    pub valid_fraction: Option<f64>,
    /// Seed of the division.
    pub seed: u64,
    /// Training documents that were dropped because they are in the validation text, too.
    pub dropped: usize,
    /// Hashes of text, tokenizer and chat template: the same ones are not prepared again.
    #[serde(default)]
    pub text: String,
}

/// A prepared directory, opened.
#[derive(Debug)]
pub struct Dataset {
    /// What is trained on.
    pub train: Tokens,
    /// What the loss is validated on.
    pub valid: Tokens,
    /// Sizes and origin.
    pub meta: Meta,
}

impl Dataset {
    /// Opens what [`prepare`] wrote, and reads it through once to see that every id is in the vocabulary.
    pub fn open(directory: &Path) -> Result<Self> {
        let meta = read_meta(directory)?.ok_or_else(|| Error::Data {
            path: directory.to_path_buf(),
            message: "no meta.json: this is no prepared directory, or its preparation was interrupted; prepare it again"
                .into(),
        })?;
        let open = |name: &str, count: Count| {
            let tokens = Tokens::open(&directory.join(name), meta.dtype)?;
            if tokens.len() != count.tokens {
                let message =
                    format!("{} tokens where meta.json says {}: prepare again", tokens.len(), count.tokens);
                return Err(Error::Data { path: tokens.path().to_path_buf(), message });
            }
            tokens.check(meta.vocab)?;
            Ok(tokens)
        };
        Ok(Self { train: open("train.bin", meta.train)?, valid: open("valid.bin", meta.valid)?, meta })
    }

    /// Whether `directory` looks like one that [`Dataset::open`] can open.
    pub fn is_prepared(directory: &Path) -> bool {
        directory.join(META).is_file()
    }

    /// Refuses a tokenizer other than the one that the data was prepared with.
    pub fn check_tokenizer(&self, tokenizer: &Tokenizer) -> Result<()> {
        if fingerprint(tokenizer)? == self.meta.tokenizer {
            return Ok(());
        }
        Err(Error::Data {
            path: self.train.path().to_path_buf(),
            message:
                "prepared with another tokenizer: use the tokenizer.json beside it, or prepare the text again"
                    .into(),
        })
    }
}

/// True for a file that [`prepare`] writes, the tokenizer's aside, or leaves when it is interrupted.
pub fn owns(name: &str) -> bool {
    let shards = ["train.bin", "train.part", "valid.bin", "valid.part"];
    shards.contains(&name)
        || [META, PROGRESS].contains(&name.strip_suffix(".new").unwrap_or(name))
        || name == LOCK
}

/// FNV-1a of the tokenizer.json, in hexadecimal: tells tokenizers apart, protects against nothing.
pub fn fingerprint(tokenizer: &Tokenizer) -> Result<String> {
    Ok(format!("{:016x}", fnv1a(tokenizer.to_json()?.as_bytes())))
}

fn read_meta(directory: &Path) -> Result<Option<Meta>> {
    let path = directory.join(META);
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read(&path).map_err(RuntimeError::io(&path))?;
    let meta = serde_json::from_slice(&text).map_err(|error| Error::Data {
        path,
        message: format!("{error}: delete the directory and prepare the data again"),
    })?;
    Ok(Some(meta))
}
