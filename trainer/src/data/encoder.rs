//! Documents as tokens, and which of them are targets.

use bonsai_runtime::{Error as RuntimeError, Tokenizer};

use super::tokens::Dtype;
use crate::corpus::{Document, END_OF_TEXT};
use crate::dialogue::Dialogue;
use crate::error::{Error, Result};

/// Turns documents into tokens.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    /// For conversations.
    dialogue: Option<Dialogue>,
    /// The token that ends a document.
    pub eos: u32,
    /// How its tokens are stored.
    pub dtype: Dtype,
}

/// Tokens that are all targets, or all context that the model only reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// What the tokens stand for.
    pub ids: Vec<u32>,
    /// Whether the model learns to write them.
    pub target: bool,
}

impl<'a> Encoder<'a> {
    /// An encoder for texts and, if there are any, for `conversations`, by the tokenizer's chat template.
    pub fn new(tokenizer: &'a Tokenizer, conversations: bool) -> Result<Self> {
        // A chat model ends its turns with a token of its own; what ends a document is this one.
        let eos = tokenizer.token_id(END_OF_TEXT).or(tokenizer.eos()).ok_or_else(|| {
            RuntimeError::Tokenizer(format!(
                "it has no end-of-text token: add {END_OF_TEXT} to its special tokens"
            ))
        })?;
        let dialogue = conversations.then(|| Dialogue::of(tokenizer)).transpose()?;
        Ok(Self { tokenizer, dialogue, eos, dtype: Dtype::new(tokenizer.vocab_size(), conversations) })
    }

    /// The chat template, if there are conversations.
    pub fn template(&self) -> Option<&str> {
        self.dialogue.as_ref().map(Dialogue::template)
    }

    /// The tokens of a document, its end included, and the bytes of its text.
    pub fn encode(&self, document: &Document) -> Result<(Vec<Piece>, usize)> {
        let Some(place) = &document.conversation else {
            let mut ids = self.tokenizer.encode_plain(&document.text)?; // a "<|im_end|>" in the text is text
            ids.push(self.eos);
            return Ok((vec![Piece { ids, target: true }], document.text.len()));
        };
        let dialogue = self.dialogue.as_ref().expect("made for conversations");
        let segments = dialogue
            .segments(&document.text)
            .map_err(|message| Error::Data { path: place.into(), message })?;
        let mut pieces = Vec::with_capacity(segments.len() + 1);
        // Each segment by itself: an answer begins where generating would begin.
        for segment in &segments {
            let mut ids = self.tokenizer.encode(&segment.text)?;
            if !pieces.is_empty() && self.tokenizer.add_bos() && ids.first() == self.tokenizer.bos().as_ref()
            {
                ids.remove(0);
            }
            pieces.push(Piece { ids, target: segment.target });
        }
        pieces.push(Piece { ids: vec![self.eos], target: dialogue.ends_with_text() });
        Ok((pieces, segments.iter().map(|segment| segment.text.len()).sum()))
    }
}
