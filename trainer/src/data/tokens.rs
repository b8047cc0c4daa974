//! One shard of tokens: a file of little-endian ids, mapped into memory.

use std::ops::Range;
use std::path::{Path, PathBuf};

use bonsai_runtime::tensor::Bytes;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::order::IGNORE;
use crate::error::{Error, Result};

/// How an id is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// Two bytes.
    U16,
    /// Four bytes.
    U32,
    /// Two bytes, of which the highest bit says that the token is no target.
    MaskedU16,
    /// Four bytes, of which the highest bit says that the token is no target.
    MaskedU32,
}

impl Dtype {
    /// The smallest type for a vocabulary, with room for the mark of a token that is no target if it is `masked`.
    pub fn new(vocab: usize, masked: bool) -> Self {
        match masked {
            false if vocab <= 1 << 16 => Self::U16,
            false => Self::U32,
            true if vocab <= 1 << 15 => Self::MaskedU16,
            true => Self::MaskedU32,
        }
    }

    /// Bytes of one id.
    pub fn bytes(self) -> usize {
        match self {
            Self::U16 | Self::MaskedU16 => 2,
            Self::U32 | Self::MaskedU32 => 4,
        }
    }

    /// Whether some tokens are no targets.
    pub fn is_masked(self) -> bool {
        self.mark() != 0
    }

    /// The bit of a token that is no target; 0 where all tokens are targets.
    fn mark(self) -> u32 {
        match self {
            Self::U16 | Self::U32 => 0,
            Self::MaskedU16 => 1 << 15,
            Self::MaskedU32 => 1 << 31,
        }
    }

    /// `ids` as little-endian bytes. They are below the vocabulary that the type was chosen for.
    pub(super) fn bytes_of(self, ids: &[u32], target: bool) -> Vec<u8> {
        let mark = if target { 0 } else { self.mark() };
        let marked = ids.iter().map(|id| id | mark);
        match self.bytes() {
            2 => marked.flat_map(|id| (id as u16).to_le_bytes()).collect(),
            _ => marked.flat_map(u32::to_le_bytes).collect(),
        }
    }

    /// What is stored, marks included.
    fn decode(self, bytes: &[u8], out: &mut [u32]) {
        match self.bytes() {
            2 => {
                let pairs = bytes.as_chunks::<2>().0;
                out.iter_mut().zip(pairs).for_each(|(id, pair)| *id = u16::from_le_bytes(*pair).into());
            }
            _ => {
                let quads = bytes.as_chunks::<4>().0;
                out.iter_mut().zip(quads).for_each(|(id, quad)| *id = u32::from_le_bytes(*quad));
            }
        }
    }
}

/// Tokens on disk.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    map: Bytes,
    dtype: Dtype,
}

impl Tokens {
    /// Maps the shard at `path`.
    pub fn open(path: &Path, dtype: Dtype) -> Result<Self> {
        let map = Bytes::map(path)?;
        let size = map.len();
        if size == 0 || !size.is_multiple_of(dtype.bytes()) {
            let message = format!(
                "{size} bytes are not a row of {}-byte tokens: prepare the data again",
                dtype.bytes()
            );
            return Err(Error::Data { path: path.to_path_buf(), message });
        }
        Ok(Self { path: path.to_path_buf(), map, dtype })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.map.len() / self.dtype.bytes()
    }

    /// Whether there are none; never true for an opened shard.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copies the tokens of `range` to `out`, which has the same length. Panics outside the shard.
    pub fn read(&self, range: Range<usize>, out: &mut [u32]) {
        self.stored(range, out);
        let mark = self.dtype.mark();
        if mark != 0 {
            out.iter_mut().for_each(|id| *id &= !mark);
        }
    }

    /// The same for targets: [`IGNORE`] stands for tokens that are none.
    pub fn read_targets(&self, range: Range<usize>, out: &mut [u32]) {
        self.stored(range, out);
        let mark = self.dtype.mark();
        out.iter_mut().filter(|id| **id & mark != 0).for_each(|id| *id = IGNORE);
    }

    fn stored(&self, range: Range<usize>, out: &mut [u32]) {
        assert_eq!(range.len(), out.len(), "one slot for each token");
        let width = self.dtype.bytes();
        self.dtype.decode(&self.map[range.start * width..range.end * width], out);
    }

    /// Reads everything once and makes sure that every id is below `vocab`.
    pub fn check(&self, vocab: usize) -> Result<()> {
        const BLOCK: usize = 1 << 16;
        let bad = (0..self.len().div_ceil(BLOCK)).into_par_iter().find_map_first(|block| {
            let start = block * BLOCK;
            let mut ids = vec![0; BLOCK.min(self.len() - start)];
            self.read(start..start + ids.len(), &mut ids);
            ids.iter().position(|&id| id as usize >= vocab).map(|at| (start + at, ids[at]))
        });
        match bad {
            None => Ok(()),
            Some((at, id)) => Err(Error::Data {
                path: self.path.clone(),
                message: format!(
                    "token {at} is {id}, but the vocabulary has only {vocab}: the data belongs to another tokenizer, \
                     prepare it again"
                ),
            }),
        }
    }
}
