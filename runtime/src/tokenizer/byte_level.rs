//! The byte-level alphabet of GPT-2: every byte has one visible character, so that any token can be written as
//! text. Printable Latin-1 bytes are themselves; the 68 others are U+0100, U+0101, ... in order.

use std::sync::LazyLock;

static CHARS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = 0x100_u32;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if is_itself(byte) {
            return char::from(byte);
        }
        next += 1;
        char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER) // U+0100 to U+0143: never replaced
    })
});

/// Index: character code minus U+0100.
static BYTES: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..=255).filter(|byte| !is_itself(*byte)).collect::<Vec<u8>>());

fn is_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// The character that spells `byte`.
pub(super) fn char_of(byte: u8) -> char {
    CHARS[usize::from(byte)]
}

fn byte_of(spelling: char) -> Option<u8> {
    match u8::try_from(u32::from(spelling)) {
        Ok(byte) => is_itself(byte).then_some(byte),
        Err(_) => BYTES.get((u32::from(spelling) - 0x100) as usize).copied(),
    }
}

/// The bytes of every token, one after the other: 0.6 MB for 151,669 tokens.
#[derive(Clone, Default)]
pub(super) struct TokenBytes {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl TokenBytes {
    /// Room for `tokens` tokens.
    pub(super) fn with_capacity(tokens: usize) -> Self {
        Self { bytes: Vec::with_capacity(8 * tokens), ends: Vec::with_capacity(tokens) }
    }

    /// Adds a token in byte-level spelling; one that uses other characters stands for its own text, as in the
    /// Hugging Face decoder.
    pub(super) fn push_spelling(&mut self, spelling: &str) {
        let start = self.bytes.len();
        for c in spelling.chars() {
            let Some(byte) = byte_of(c) else {
                self.bytes.truncate(start);
                return self.push_text(spelling);
            };
            self.bytes.push(byte);
        }
        self.ends.push(self.bytes.len());
    }

    /// Adds a token that stands for its own text. Hugging Face's decoder takes the text of an added token for
    /// byte-level spelling where it can be read so, and turns "<ü>" into "<\u{fffd}>"; here it stays itself.
    pub(super) fn push_text(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
        self.ends.push(self.bytes.len());
    }

    /// Adds empty tokens up to a total of `tokens`.
    pub(super) fn pad_to(&mut self, tokens: usize) {
        if self.ends.len() < tokens {
            self.ends.resize(tokens, self.bytes.len());
        }
    }

    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of token `id`.
    pub(super) fn get(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let end = *self.ends.get(id)?;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        Some(&self.bytes[start..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character_and_comes_back() {
        let known = [(b' ', 'Ġ'), (b'\n', 'Ċ'), (b'a', 'a'), (0xad, 'Ń'), (0, 'Ā'), (0xff, 'ÿ')];
        assert!(known.iter().all(|(byte, c)| char_of(*byte) == *c));
        assert!((0..=255).all(|byte| byte_of(char_of(byte)) == Some(byte)));
        let mut chars: Vec<char> = (0..=255).map(char_of).collect();
        chars.sort_unstable();
        chars.dedup();
        assert_eq!(chars.len(), 256);
        assert_eq!([byte_of('\u{ad}'), byte_of(' '), byte_of('日'), byte_of('\u{144}')], [None; 4]);
    }

    #[test]
    fn tokens_keep_their_bytes() {
        let mut table = TokenBytes::default();
        table.push_spelling("Ġhi");
        table.push_spelling("日");
        table.push_text("é");
        table.pad_to(4);
        assert_eq!((table.get(0), table.get(1)), (Some(&b" hi"[..]), Some("日".as_bytes())));
        assert_eq!((table.get(2), table.get(3)), (Some("é".as_bytes()), Some(&b""[..])));
        assert_eq!((table.len(), table.get(4)), (4, None));
    }
}
