//! A shard that is being written: appended to, and known by its length and hash up to where it was last synced.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bonsai_runtime::Error as RuntimeError;
use serde::{Deserialize, Serialize};

use super::Count;
use super::encoder::Piece;
use super::tokens::Dtype;
use crate::corpus::{FNV_START, fnv1a_from};
use crate::error::Result;

/// What a shard has on disk for sure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) count: Count,
    /// FNV-1a of its bytes.
    hash: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self { count: Count::default(), hash: FNV_START }
    }
}

/// A shard under its temporary name.
pub(super) struct Shard {
    part: PathBuf,
    file: BufWriter<File>,
    kept: Kept,
}

impl Shard {
    /// Opens the shard that will be `path`, with what `kept` says; anything beyond it is cut off. `None` if these are
    /// not the bytes that were written.
    pub(super) fn open(path: &Path, dtype: Dtype, kept: Kept) -> Result<Option<Self>> {
        let part = path.with_extension("part");
        if !part.exists() && path.exists() {
            fs::rename(path, &part).map_err(RuntimeError::io(path))?; // stopped between the last renames
        }
        let options = File::options().read(true).write(true).create(true).truncate(false).open(&part);
        let mut file = options.map_err(RuntimeError::io(&part))?;
        let length = (kept.count.tokens * dtype.bytes()) as u64;
        if hash_of(&mut file, length).map_err(RuntimeError::io(&part))? != Some(kept.hash) {
            return Ok(None);
        }
        let end = file.set_len(length).and_then(|()| file.seek(SeekFrom::End(0)));
        end.map_err(RuntimeError::io(&part))?;
        Ok(Some(Self { part, file: BufWriter::with_capacity(1 << 20, file), kept }))
    }

    /// Adds the tokens of a document.
    pub(super) fn push(&mut self, pieces: &[Piece], text: usize, dtype: Dtype) -> Result<()> {
        for piece in pieces {
            let bytes = dtype.bytes_of(&piece.ids, piece.target);
            self.file.write_all(&bytes).map_err(RuntimeError::io(&self.part))?;
            self.kept.hash = fnv1a_from(self.kept.hash, &bytes);
            self.kept.count.tokens += piece.ids.len();
        }
        self.kept.count.documents += 1;
        self.kept.count.bytes += text;
        Ok(())
    }

    /// Makes sure that all of it is on disk.
    pub(super) fn sync(&mut self) -> Result<Kept> {
        let sync = self.file.flush().and_then(|()| self.file.get_ref().sync_data());
        sync.map_err(RuntimeError::io(&self.part))?;
        Ok(self.kept)
    }

    /// Gives the synced shard its name.
    pub(super) fn finish(self, path: &Path) -> Result<Count> {
        drop(self.file);
        fs::rename(&self.part, path).map_err(RuntimeError::io(path))?;
        Ok(self.kept.count)
    }
}

/// The hash of the first `length` bytes; `None` where there are fewer.
fn hash_of(file: &mut File, length: u64) -> io::Result<Option<u64>> {
    let (mut hash, mut left) = (FNV_START, length);
    let mut block = vec![0; 1 << 20];
    while left > 0 {
        let most = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = file.read(&mut block[..most])?;
        if read == 0 {
            return Ok(None);
        }
        hash = fnv1a_from(hash, &block[..read]);
        left -= read as u64;
    }
    Ok(Some(hash))
}
