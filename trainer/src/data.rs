//! Prepared data: shards of tokens on disk, and the batches that are cut from them.
//!
//! A prepared directory holds `train.bin` and `valid.bin` (raw little-endian ids, each document followed by the
//! end-of-text token), `tokenizer.json`, and `meta.json`, which is written last and marks the directory as complete.

mod order;
mod tokens;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use bonsai_runtime::{Error as RuntimeError, Tokenizer};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use order::{Batch, IGNORE, Order, valid_windows, windows_per_epoch};
pub use tokens::{Dtype, Tokens};

use crate::corpus::{END_OF_TEXT, Split, fnv1a};
use crate::error::{Error, Result};
use crate::files;

/// Documents that are encoded before any is written: bounds the memory for tokens that wait.
const ROUND: usize = 4096;

const META: &str = "meta.json";

/// Size of one shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Documents.
    pub documents: usize,
    /// Tokens, with one end of text for each document.
    pub tokens: usize,
    /// Bytes of text, for bits per byte.
    pub bytes: usize,
}

/// What `meta.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// How an id is stored.
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
    ["train.bin", "train.part", "valid.bin", "valid.part", META, "meta.json.new"].contains(&name)
}

/// Encodes both sides of `split` into shards under `directory`. `progress` is told how many documents of how many are
/// done, from several threads.
pub fn prepare(
    split: &Split,
    tokenizer: &Tokenizer,
    directory: &Path,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Meta> {
    let encoder = Encoder::new(tokenizer)?;
    let fingerprint = fingerprint(tokenizer)?;
    claim(directory, &fingerprint)?;
    let total = split.train.len() + split.valid.len();
    let done = AtomicUsize::new(0);
    let tell = || progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
    let meta = Meta {
        dtype: encoder.dtype,
        vocab: tokenizer.vocab_size(),
        eos: encoder.eos,
        tokenizer: fingerprint,
        train: encoder.write(&split.train, &directory.join("train.bin"), &tell)?,
        valid: encoder.write(&split.valid, &directory.join("valid.bin"), &tell)?,
        valid_fraction: split.valid_fraction,
        seed: split.seed,
        dropped: split.dropped,
    };
    tokenizer.save(directory)?;
    let json = serde_json::to_string_pretty(&meta).expect("numbers and texts");
    files::write(directory, META, &json)?;
    Ok(meta)
}

/// Makes `directory`, or takes over one of the same tokenizer; it counts as incomplete from here on.
fn claim(directory: &Path, fingerprint: &str) -> Result<()> {
    if read_meta(directory)?.is_some_and(|meta| meta.tokenizer != fingerprint) {
        let message =
            "holds data of another tokenizer: choose another --out, or delete the directory first".into();
        return Err(Error::Data { path: directory.to_path_buf(), message });
    }
    fs::create_dir_all(directory).map_err(RuntimeError::io(directory))?;
    let mark = directory.join(META);
    if mark.exists() { Ok(fs::remove_file(&mark).map_err(RuntimeError::io(&mark))?) } else { Ok(()) }
}

/// Turns documents into shards.
struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    eos: u32,
    dtype: Dtype,
}

impl<'a> Encoder<'a> {
    fn new(tokenizer: &'a Tokenizer) -> Result<Self> {
        // A chat model ends its turns with a token of its own; what ends a document is this one.
        let eos = tokenizer.token_id(END_OF_TEXT).or(tokenizer.eos()).ok_or_else(|| {
            Error::Config(format!(
                "the tokenizer has no end-of-text token: add {END_OF_TEXT} to its special tokens"
            ))
        })?;
        Ok(Self { tokenizer, eos, dtype: Dtype::for_vocab(tokenizer.vocab_size()) })
    }

    /// Writes the shard at `path`: all threads encode, one writes in order.
    fn write(&self, documents: &[String], path: &Path, tell: &(impl Fn() + Sync)) -> Result<Count> {
        let part = path.with_extension("part");
        let mut file =
            BufWriter::with_capacity(1 << 20, File::create(&part).map_err(RuntimeError::io(&part))?);
        let mut count = Count { documents: documents.len(), ..Count::default() };
        for round in documents.chunks(ROUND) {
            let encoded: Result<Vec<Vec<u8>>> =
                round.par_iter().map(|text| self.encode(text, tell)).collect();
            for (text, ids) in round.iter().zip(encoded?) {
                file.write_all(&ids).map_err(RuntimeError::io(&part))?;
                count.bytes += text.len();
                count.tokens += ids.len() / self.dtype.bytes();
            }
        }
        let file = file.into_inner().map_err(|error| RuntimeError::io(&part)(error.into_error()))?;
        file.sync_all().map_err(RuntimeError::io(&part))?;
        fs::rename(&part, path).map_err(RuntimeError::io(path))?;
        Ok(count)
    }

    fn encode(&self, text: &str, tell: &impl Fn()) -> Result<Vec<u8>> {
        let mut ids = self.tokenizer.encode_plain(text)?; // a "<|im_end|>" in the text is text
        ids.push(self.eos);
        tell();
        Ok(self.dtype.bytes_of(&ids))
    }
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
