//! Streaming: token ids in, whole characters out.

use super::{HfDecodeStream, Tokenizer, failed};
use crate::error::{Error, Result};

/// Turns ids into text one by one. A character whose bytes are spread over several tokens comes out with the
/// last of them. All pieces and [`finish`](Self::finish) together are what [`Tokenizer::decode`] gives.
pub struct Decoder<'t> {
    tokenizer: &'t Tokenizer,
    characters: Characters,
    /// Only for a tokenizer whose tokens are not bytes.
    window: Option<Window<'t>>,
}

/// Bytes in, whole characters out: a [`Decoder`] for who has the bytes of tokens and cannot keep a borrow.
#[derive(Debug, Clone, Default)]
pub struct Characters {
    /// Bytes of a character that is not complete yet: at most three between two calls.
    pending: Vec<u8>,
}

impl Characters {
    /// Adds bytes; gives the text that is now certain.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let whole = self.pending.len() - incomplete_tail(&self.pending);
        let text = String::from_utf8_lossy(&self.pending[..whole]).into_owned();
        self.pending.drain(..whole);
        text
    }

    /// Ends the text: what is held back cannot become a character any more and gives U+FFFD.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// Text of tokens that depends on their neighbours, by decoding again and again (SentencePiece and the like).
struct Window<'t> {
    stream: HfDecodeStream<'t>,
    ids: Vec<u32>,
    sent_bytes: usize,
}

impl<'t> Decoder<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer) -> Self {
        let window = tokenizer.bytes.is_none().then(|| Window {
            stream: tokenizer.inner.decode_stream(false),
            ids: Vec::new(),
            sent_bytes: 0,
        });
        Self { tokenizer, characters: Characters::default(), window }
    }

    /// Adds one token; gives the text that is now certain (often a word, sometimes nothing).
    /// Takes time proportional to the token's length. An id outside of the vocabulary changes nothing.
    pub fn push(&mut self, id: u32) -> Result<String> {
        if let Some(window) = &mut self.window {
            return window.push(id, self.tokenizer.vocab_size());
        }
        let vocab = self.tokenizer.vocab_size();
        let bytes = self.tokenizer.token_bytes(id).ok_or(Error::Token { id, vocab })?;
        Ok(self.characters.push(bytes))
    }

    /// Ends the text: what is held back cannot become a character any more and gives U+FFFD.
    pub fn finish(self) -> String {
        match self.window {
            Some(window) => {
                let all = self.tokenizer.inner.decode(&window.ids, false).unwrap_or_default();
                all.get(window.sent_bytes..).unwrap_or_default().to_owned()
            }
            None => self.characters.finish(),
        }
    }
}

impl Window<'_> {
    fn push(&mut self, id: u32, vocab: usize) -> Result<String> {
        if id as usize >= vocab {
            return Err(Error::Token { id, vocab });
        }
        self.ids.push(id);
        let text = self.stream.step(id).map_err(failed)?.unwrap_or_default();
        self.sent_bytes += text.len();
        Ok(text)
    }
}

/// Number of bytes at the end that may still become one character: 0 to 3.
///
/// `from_utf8_lossy` replaces each maximal valid prefix of a character by one U+FFFD, so cutting exactly where
/// such a prefix begins, and nowhere else, keeps the pieces equal to the whole.
fn incomplete_tail(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Err(error) = std::str::from_utf8(rest) {
        match error.error_len() {
            None => return rest.len() - error.valid_up_to(),
            Some(bad) => rest = &rest[error.valid_up_to() + bad..],
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_beginning_of_a_character_is_held_back() {
        let cases: [(&[u8], usize); 9] = [
            (b"", 0),
            (b"abc", 0),
            (&[0xe6, 0x97], 2),
            (&[b'a', 0xf0, 0x9f, 0x98], 3),
            (&[0xe6, 0x97, 0xa5], 0),
            (&[0xff, 0xe6], 1),
            (&[0x80], 0),
            (&[0xed, 0xa0], 0), // a surrogate: never valid
            (&[0xe6, b'a', 0xc3], 1),
        ];
        for (bytes, held) in cases {
            assert_eq!(incomplete_tail(bytes), held, "{bytes:?}");
        }
    }
}
