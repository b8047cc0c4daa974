//! Documents, and their division into training and validation text.
//!
//! The division is by content, never by position: equal texts are always on the same side, because a document that is
//! trained on and validated on makes the validation loss a lie.
//!
//! Text that does not fit into memory is gone through from file to file, as often as needed: a [`Source`] gives its
//! documents one by one, and what is remembered of each is a hash and a length.

mod columns;
mod compressed;
mod files;
mod input;
mod lines;
mod text;
mod zstd_pages;

use crate::error::{Error, Result};
use crate::random::mix;

pub use files::Corpus;
pub use input::{Input, plain_text};
pub use text::PASSAGE;

/// Separates documents in plain text.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// A text or a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The text; of a conversation, its messages as a JSON array of objects with `role` and `content`.
    pub text: String,
    /// Where a conversation was found, for messages about it. `None` for plain text.
    pub conversation: Option<String>,
}

impl From<String> for Document {
    fn from(text: String) -> Self {
        Self { text, conversation: None }
    }
}

impl Document {
    /// What people wrote: the text, or what the messages say, line after line.
    pub fn into_words(self) -> String {
        match self.conversation {
            None => self.text,
            Some(_) => lines::contents(&self.text).join("\n"),
        }
    }
}

/// Which text a document belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What is trained on.
    Train,
    /// What the loss is validated on.
    Valid,
}

/// What is known about a source before it is tokenized.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Facts {
    /// Bytes of all documents that the source gives.
    pub bytes: u64,
    /// Bytes of those set aside for validation, where a share of several documents was asked for.
    pub valid_bytes: u64,
    /// Some documents are conversations.
    pub conversations: bool,
    /// The share of the bytes that was asked for as validation; `None` for a validation text of its own.
    pub valid_fraction: Option<f64>,
    /// Chooses among divisions.
    pub seed: u64,
    /// Training documents that were dropped because the validation text has them, too.
    pub dropped: usize,
    /// Hash of all documents in their order: tells one text from another.
    pub fingerprint: u64,
}

/// Receives the documents of a source; an error of its ends the reading.
pub type Sink<'a> = &'a mut (dyn FnMut(Side, Document) -> Result<()> + 'a);

/// Documents that can be gone through again and again, in the same order.
pub trait Source: Sync {
    /// What is known of it.
    fn facts(&self) -> Facts;

    /// Gives every document to `sink`.
    fn each(&self, sink: Sink<'_>) -> Result<()>;
}

/// Training and validation documents in memory, that share no text.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// What is trained on.
    pub train: Vec<String>,
    /// What the loss is validated on.
    pub valid: Vec<String>,
    /// The share of the bytes that was asked for as validation; `None` for a validation text of its own.
    pub valid_fraction: Option<f64>,
    /// Chooses among divisions.
    pub seed: u64,
    /// Training documents that were dropped because the validation text has them, too.
    pub dropped: usize,
    /// The text was a single document and was cut in two: its end is the validation text.
    pub cut: bool,
}

impl Source for Split {
    fn facts(&self) -> Facts {
        let texts = || self.train.iter().chain(&self.valid);
        Facts {
            bytes: texts().map(|text| text.len() as u64).sum(),
            valid_bytes: self.valid.iter().map(|text| text.len() as u64).sum(),
            conversations: false,
            valid_fraction: self.valid_fraction,
            seed: self.seed,
            dropped: self.dropped,
            fingerprint: texts().fold(self.train.len() as u64, |sum, text| mix(sum) ^ hash(text, self.seed)),
        }
    }

    fn each(&self, sink: Sink<'_>) -> Result<()> {
        for (side, texts) in [(Side::Train, &self.train), (Side::Valid, &self.valid)] {
            texts.iter().try_for_each(|text| sink(side, text.clone().into()))?;
        }
        Ok(())
    }
}

/// Divides documents in memory as [`Corpus::scan`] divides files. A single document is cut in two.
pub fn split(documents: Vec<String>, valid_fraction: f64, seed: u64) -> Result<Split> {
    check_fraction(valid_fraction)?;
    let hashed = documents.iter().map(|text| (hash(text, seed), text.len())).collect();
    let Some(last) = last_of_valid(hashed, valid_fraction) else {
        return cut(&documents, valid_fraction, seed);
    };
    let (train, valid) = documents.into_iter().partition(|text| hash(text, seed) > last);
    Ok(Split { train, valid, valid_fraction: Some(valid_fraction), seed, dropped: 0, cut: false })
}

fn check_fraction(valid_fraction: f64) -> Result<()> {
    if valid_fraction > 0.0 && valid_fraction < 1.0 {
        return Ok(());
    }
    Err(Error::Config(format!("the validation fraction is {valid_fraction}: choose one between 0 and 1")))
}

/// The largest hash of a validation document: about `valid_fraction` of the bytes belong to documents whose seeded
/// hashes are smallest, so that neither order nor repetition matters. At least one text is on each side; `None` where
/// there is one text only.
fn last_of_valid(mut hashed: Vec<(u64, usize)>, valid_fraction: f64) -> Option<u64> {
    hashed.sort_unstable();
    let (first, largest) = (hashed.first()?.0, hashed.last()?.0);
    if first == largest {
        return None;
    }
    let wanted = valid_fraction * hashed.iter().map(|(_, length)| length).sum::<usize>() as f64;
    let mut bytes = 0;
    let mut last = 0;
    for (hash, length) in hashed {
        let repeated = hash == last; // copies stay together
        if hash == largest || (bytes as f64 >= wanted && bytes > 0 && !repeated) {
            break;
        }
        last = hash;
        bytes += length;
    }
    Some(last)
}

/// Divides what is one document, or copies of one, where a paragraph ends near the fraction; failing that a line, or
/// a word.
fn cut(documents: &[String], valid_fraction: f64, seed: u64) -> Result<Split> {
    let text = documents.first().map_or("", |text| text.trim());
    let valid = (valid_fraction * text.len() as f64) as usize;
    let wanted = text.len() - valid;
    let nearest = |mark: &str, most: usize| {
        let ends = text.match_indices(mark).map(|(at, mark)| at + mark.len());
        let end = ends.min_by_key(|end| end.abs_diff(wanted))?;
        (end.abs_diff(wanted) <= most).then_some(end)
    };
    let near = (valid / 2).max(80); // about a line
    let end = nearest("\n\n", near).or_else(|| nearest("\n", near)).or_else(|| nearest(" ", usize::MAX));
    match end.or_else(|| nearest("\n", usize::MAX)).map(|end| text.split_at(end)) {
        Some((train, valid)) if train.trim() != valid.trim() => {
            let (train, valid) = (vec![train.to_owned()], vec![valid.to_owned()]);
            Ok(Split { train, valid, valid_fraction: Some(valid_fraction), seed, dropped: 0, cut: true })
        }
        _ => Err(Error::Text(
            "the text is a single document and cannot be divided into training and validation: add documents, \
             put blank lines between paragraphs, or name a validation file"
                .into(),
        )),
    }
}

/// FNV-1a of the text without the white space around it, seeded and mixed.
fn hash(text: &str, seed: u64) -> u64 {
    mix(fnv1a(text.trim().as_bytes()) ^ mix(seed.wrapping_add(1)))
}

/// The 64-bit FNV-1a hash.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    fnv1a_from(FNV_START, bytes)
}

/// What [`fnv1a_from`] begins with.
pub(crate) const FNV_START: u64 = 0xCBF2_9CE4_8422_2325;

/// Goes on with a hash where earlier bytes ended.
pub(crate) fn fnv1a_from(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}
