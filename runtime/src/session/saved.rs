//! A conversation as bytes, to go on with it later without feeding it again.
//!
//! Little-endian: `BONSAIKV`, version (u32), fingerprint of the model (u64), format of the cache (u8), exact (u8), two
//! zeros, number of tokens (u32), the tokens (u32 each); for each layer the keys and values of all tokens but the last;
//! a checksum of all that (u64). The last token is fed again on the way back, which gives its logits.

use super::{Model, Session};
use crate::cpu::{Cache, KvFormat};
use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"BONSAIKV";
const VERSION: u32 = 1;
/// Everything before the tokens.
const HEADER: usize = 28;
const CHECKSUM: usize = 8;
/// Bytes of each of three places in a matrix that tell models apart.
const SAMPLE: usize = 4096;

impl Session {
    /// The conversation so far, some [`KvFormat::bytes_per_token`] for each token. It holds what was said: keep it as
    /// safe as that.
    pub fn save(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let size = self.saved_size(self.tokens.len());
        out.try_reserve_exact(size)
            .map_err(|_| Error::Memory(format!("{} MiB for a saved session", size >> 20)))?;
        out.extend_from_slice(&self.saved_header());
        out.extend_from_slice(&(self.tokens.len() as u32).to_le_bytes());
        self.tokens.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
        let kept = self.tokens.len().saturating_sub(1);
        self.caches_to_save()?.iter().for_each(|cache| cache.save(kept, &mut out));
        let sum = checksum(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        Ok(out)
    }

    /// Goes on with a conversation that [`save`](Self::save) wrote, in place of the present one, and returns the logits
    /// that follow its last token (none if it was empty). Bytes that are damaged, of another model, or of a session with
    /// other settings are an error, and leave this session as it was. Bytes made by strangers cannot harm the program,
    /// but can put any words into the conversation.
    pub fn restore(&mut self, saved: &[u8]) -> Result<&[f32]> {
        self.caches_to_save()?;
        let tokens = self.check_saved(saved)?;
        let Some((&last, kept)) = tokens.split_last() else {
            self.reset();
            return Ok(&[]);
        };
        self.engine.reserve(tokens.len())?;
        let mut rest = &saved[HEADER + 4 * tokens.len()..saved.len() - CHECKSUM];
        for cache in self.engine.caches_mut().unwrap_or_default() {
            rest = cache.load(kept.len(), rest);
        }
        (self.tokens, self.answered) = (kept.to_vec(), false);
        self.prompt(&[last])
    }

    fn caches_to_save(&self) -> Result<&[Cache]> {
        let message = || Error::Unsupported("saving a session that computes on a GPU".into());
        self.engine.caches().ok_or_else(message)
    }

    /// The tokens of a saved conversation, once everything about it is sound.
    fn check_saved(&self, saved: &[u8]) -> Result<Vec<u32>> {
        let wrong = |message: &str| Error::format("saved session", message);
        let damaged = || wrong("is damaged or incomplete");
        let body = saved.len().checked_sub(CHECKSUM).filter(|&n| n >= HEADER).ok_or_else(damaged)?;
        let (body, sum) = saved.split_at(body);
        if !body.starts_with(MAGIC) {
            return Err(wrong("is not a saved session"));
        }
        if body[8..12] != VERSION.to_le_bytes() {
            return Err(wrong("was written by another version of this program"));
        }
        if sum != checksum(body).to_le_bytes() {
            return Err(damaged());
        }
        let header = self.saved_header();
        if body[12..20] != header[12..20] {
            return Err(wrong("belongs to another model"));
        }
        if body[20..24] != header[20..24] {
            return Err(wrong("belongs to a session with another KV format or another mode (exact or fast)"));
        }
        let (count, body) = body[HEADER - 4..].split_at(4);
        let count = u32::from_le_bytes(count.try_into().map_err(|_| damaged())?) as usize;
        if count > self.context {
            return Err(Error::ContextFull { capacity: self.context });
        }
        if self.saved_size(count) != saved.len() {
            return Err(damaged());
        }
        let (ids, _) = body[..4 * count].as_chunks();
        let tokens: Vec<u32> = ids.iter().map(|id| u32::from_le_bytes(*id)).collect();
        let vocab = self.vocab();
        match tokens.iter().find(|&&id| id as usize >= vocab) {
            Some(&id) => Err(Error::Token { id, vocab }),
            None => Ok(tokens),
        }
    }

    /// Everything before the number of tokens.
    fn saved_header(&self) -> [u8; HEADER - 4] {
        let mut header = [0; HEADER - 4];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..20].copy_from_slice(&self.model.fingerprint().to_le_bytes());
        header[20] = match self.engine.kv_format() {
            KvFormat::F32 => 0,
            KvFormat::F16 => 1,
            KvFormat::Int8 => 2,
            KvFormat::Int4 => 3,
            KvFormat::Int16 => 4,
        };
        header[21] = self.engine.exact().into();
        header
    }

    fn saved_size(&self, tokens: usize) -> usize {
        let positions = tokens.saturating_sub(1);
        let cache = self.engine.kv_format().saved_bytes(self.model.config(), positions);
        HEADER + 4 * tokens + cache + CHECKSUM
    }
}

impl Model {
    /// A number that tells models apart: of the shape, and of bytes at the beginning, middle and end of each matrix.
    fn fingerprint(&self) -> u64 {
        let mut facts = format!("{:?}", self.config()).into_bytes();
        for matrix in self.matrices() {
            let (bytes, size) = (&matrix.bytes[..], matrix.bytes.len().min(SAMPLE));
            for from in [0, (bytes.len() - size) / 2, bytes.len() - size] {
                facts.extend_from_slice(&checksum(&bytes[from..from + size]).to_le_bytes());
            }
        }
        checksum(&facts)
    }
}

/// FNV-1a over words of 64 bits instead of bytes, the last one filled up with zeros. It finds damage, not malice.
fn checksum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let mix = |sum: u64, word: &[u8; 8]| {
        (sum.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(0x100_0000_01b3)
    };
    words.iter().chain([&last, &(bytes.len() as u64).to_le_bytes()]).fold(0xcbf2_9ce4_8422_2325, mix)
}
