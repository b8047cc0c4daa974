//! Learns a byte-level BPE: the tokenizer of a model that is trained from scratch.
//!
//! Text is cut into words as Qwen2 does it (NFC, then its regular expression); the most frequent pair of
//! neighbours inside words becomes a token, again and again. All 256 bytes are tokens from the start, so any
//! text can be encoded. Ids: the bytes, then the merges as they were found, then the special tokens.

use bonsai_runtime::Tokenizer;
use bonsai_runtime::tokenizer::{Vocabulary, token_type};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::error::{Error, Result};

/// What to learn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BpeOptions {
    /// Number of ids, special tokens and the 256 bytes included. A small corpus may give fewer.
    pub vocab_size: usize,
    /// Special tokens; they get the highest ids.
    pub specials: Vec<String>,
    /// The special token that ends a text.
    pub eos: String,
    /// How often a pair must occur to become a token.
    pub min_frequency: u64,
}

impl Default for BpeOptions {
    fn default() -> Self {
        let specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(String::from);
        Self { vocab_size: 4096, eos: specials[0].clone(), specials: specials.into(), min_frequency: 2 }
    }
}

impl BpeOptions {
    fn check(&self) -> Result<()> {
        let least = 256 + self.specials.len();
        // Ids are held to 2^24 everywhere; see `Config::check`.
        if self.vocab_size < least || self.vocab_size > 1 << 24 {
            let (size, most) = (self.vocab_size, 1 << 24);
            return Err(Error::Config(format!("a vocabulary of {size} tokens: choose {least} to {most}")));
        }
        if !self.specials.contains(&self.eos) {
            return Err(Error::Config(format!("{:?} ends texts, so add it to the special tokens", self.eos)));
        }
        Ok(())
    }
}

/// Learns a tokenizer from texts. Deterministic: the same texts and options give the same tokenizer, byte for
/// byte, for any number of threads. Special tokens written in the texts are left out.
pub fn learn<I, S>(texts: I, options: &BpeOptions) -> Result<Tokenizer>
where
    I: Iterator<Item = S> + Send,
    S: AsRef<str> + Send,
{
    options.check()?;
    learn_from(&mut texts.flat_map(|text| pieces(text.as_ref(), &options.specials)), options)
}

/// Apart from [`learn`], which every crate that calls it compiles again, to keep the learner out of that.
fn learn_from(pieces: &mut (dyn Iterator<Item = String> + Send), options: &BpeOptions) -> Result<Tokenizer> {
    let mut learner = Tokenizer::from_vocabulary(Vocabulary::of_bytes())?.into_inner();
    let mut trainer = TrainerWrapper::BpeTrainer(
        BpeTrainer::builder()
            .vocab_size(options.vocab_size - options.specials.len())
            .min_frequency(options.min_frequency)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .show_progress(false)
            .build(),
    );
    learner.train(&mut trainer, pieces).map_err(failed)?;
    let learned = Tokenizer::from_inner(learner)?.vocabulary()?;
    if learned.merges.is_empty() && options.vocab_size > 256 + options.specials.len() {
        return Err(Error::Text(
            "no pair of characters occurs often enough to learn from: give the tokenizer more text".into(),
        ));
    }
    Ok(Tokenizer::from_vocabulary(with_specials(learned, options))?)
}

fn with_specials(mut vocabulary: Vocabulary, options: &BpeOptions) -> Vocabulary {
    let first = vocabulary.tokens.len() as u32; // at most 2^24, checked
    vocabulary.eos =
        options.specials.iter().zip(first..).find(|(text, _)| **text == options.eos).map(|(_, id)| id);
    vocabulary.padding = vocabulary.eos;
    vocabulary.token_types.extend(options.specials.iter().map(|_| token_type::CONTROL));
    vocabulary.tokens.extend_from_slice(&options.specials);
    vocabulary
}

/// Cuts a text at special tokens, and into parts of about 64 KiB: the crate needs some 50 bytes of memory for
/// each byte of a part. It cuts only where a line ends and the next one begins with a visible character,
/// because no word reaches across.
fn pieces(text: &str, specials: &[String]) -> Vec<String> {
    const PART: usize = 64 << 10;
    let mut parts = vec![text];
    for special in specials {
        parts = parts.into_iter().flat_map(|part| part.split(special.as_str())).collect();
    }
    let mut pieces = Vec::new();
    for part in parts {
        let mut start = 0;
        for end in part.match_indices('\n').map(|(at, _)| at + 1) {
            if end - start >= PART && part[end..].chars().next().is_some_and(|c| !c.is_whitespace()) {
                pieces.push(part[start..end].to_owned());
                start = end;
            }
        }
        pieces.push(part[start..].to_owned());
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

fn failed(error: tokenizers::Error) -> Error {
    Error::Config(format!("the tokenizer cannot be learned: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_specials_and_between_lines() {
        let specials = BpeOptions::default().specials;
        assert_eq!(pieces("a<|endoftext|>b<|im_end|>", &specials), ["a", "b"]);
        let line = "x".repeat(999) + "\n";
        let long = line.repeat(100) + "\n\n  indented\n" + &line;
        let parts = pieces(&long, &specials);
        assert_eq!((parts.len(), parts.concat()), (2, long));
        assert_eq!(parts[0].len(), 66_000);
    }
}
