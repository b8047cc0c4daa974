//! One shard of tokens: a file of little-endian ids, mapped into memory.

use std::ops::Range;
use std::path::{Path, PathBuf};

use bonsai_runtime::tensor::Bytes;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How an id is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Two bytes.
    U16,
    /// Four bytes.
    U32,
}

impl Dtype {
    /// The smallest type for a vocabulary.
    pub fn for_vocab(vocab: usize) -> Self {
        if vocab <= 1 << 16 { Self::U16 } else { Self::U32 }
    }

    /// Bytes of one id.
    pub fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }

    /// `ids` as little-endian bytes. They are below the vocabulary that the type was chosen for.
    pub(super) fn bytes_of(self, ids: &[u32]) -> Vec<u8> {
        match self {
            Self::U16 => ids.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect(),
            Self::U32 => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
        }
    }

    fn decode(self, bytes: &[u8], out: &mut [u32]) {
        match self {
            Self::U16 => {
                let pairs = bytes.as_chunks::<2>().0;
                out.iter_mut().zip(pairs).for_each(|(id, pair)| *id = u16::from_le_bytes(*pair).into());
            }
            Self::U32 => {
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
