//! Numbers as they lie in a file: shared bytes, a number format, a shape. Nothing is copied until it is used.

use std::fmt;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::pages::Pages;
use crate::quantized::Quantized;
use crate::ternary::Packing;

/// A shared piece of a file (memory-mapped) or of a buffer. Cloning and slicing copy nothing.
pub struct Bytes {
    owner: Arc<Owner>,
    range: Range<usize>,
    /// Of bytes that lie elsewhere: these, once they were looked at.
    read: OnceLock<Vec<u8>>,
}

enum Owner {
    Map(memmap2::Mmap),
    Buffer(Vec<u8>),
    Pages(Pages),
    Elsewhere(Box<dyn Fn(Range<usize>) -> Vec<u8> + Send + Sync>),
}

impl Bytes {
    /// Maps a file into memory. Whoever truncates it while it is open ends the process, as with any mmap.
    pub fn map(path: &Path) -> Result<Self> {
        if cfg!(target_family = "wasm") {
            return Ok(std::fs::read(path).map_err(Error::io(path))?.into()); // it has no maps, and not always files
        }
        let file = File::open(path).map_err(Error::io(path))?;
        if file.metadata().map_err(Error::io(path))?.len() == 0 {
            return Ok(Vec::new().into()); // an empty file cannot be mapped
        }
        // SAFETY: the map is read-only and private; that nobody shortens the file meanwhile is the caller's
        // contract, stated above.
        #[expect(unsafe_code, reason = "the mmap: one of the few places that may be unsafe")]
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
        let range = 0..map.len();
        Ok(Self::of(Owner::Map(map), range))
    }

    /// [`map`](Self::map) for what is read from end to end for every token: in huge pages where the system has files in such
    /// (Linux, on file systems with large folios). What is in memory already, in small pages, stays as it is.
    pub fn map_weights(path: &Path) -> Result<Self> {
        let bytes = Self::map(path)?;
        #[cfg(target_os = "linux")]
        if let Owner::Map(map) = &*bytes.owner {
            let _ = map.advise(memmap2::Advice::HugePage); // slower without, not wrong
        }
        Ok(bytes)
    }

    /// `len` bytes that lie where only `read` can get them. What is looked at is read then, once for each clone and slice,
    /// which keep it as long as they live.
    pub fn elsewhere(len: usize, read: impl Fn(Range<usize>) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::of(Owner::Elsewhere(Box::new(read)), 0..len)
    }

    fn of(owner: Owner, range: Range<usize>) -> Self {
        Self { owner: Arc::new(owner), range, read: OnceLock::new() }
    }

    /// How many there are, without looking at them.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The bytes `range` of these bytes. Panics when they are not there: readers check first.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.range.len(), "slice outside of the bytes");
        let start = self.range.start + range.start;
        let range = start..start + (range.end - range.start);
        Self { owner: self.owner.clone(), range, read: OnceLock::new() }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(buffer: Vec<u8>) -> Self {
        let range = 0..buffer.len();
        Self::of(Owner::Buffer(buffer), range)
    }
}

impl From<Pages> for Bytes {
    fn from(pages: Pages) -> Self {
        let range = 0..pages.bytes().len();
        Self::of(Owner::Pages(pages), range)
    }
}

impl Clone for Bytes {
    fn clone(&self) -> Self {
        self.slice(0..self.len())
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &*self.owner {
            Owner::Map(map) => &map[self.range.clone()],
            Owner::Buffer(buffer) => &buffer[self.range.clone()],
            Owner::Pages(pages) => &pages.bytes()[self.range.clone()],
            Owner::Elsewhere(read) => self.read.get_or_init(|| {
                let bytes = read(self.range.clone());
                assert_eq!(bytes.len(), self.len(), "bytes that lie elsewhere");
                bytes
            }),
        }
    }
}

/// How numbers are written in bytes. All little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an IEEE single.
    Bf16,
    /// Ternary codes in blocks with an f16 scale each.
    Ternary(Packing),
    /// Blocks of ggml's with more bits; read only.
    Quantized(Quantized),
}

impl Format {
    /// Bytes of a row of `cols` numbers; `None` when the format cannot hold such a row.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        match self {
            Self::F32 => cols.checked_mul(4),
            Self::F16 | Self::Bf16 => cols.checked_mul(2),
            Self::Ternary(packing) => packing.row_bytes(cols),
            Self::Quantized(kind) => kind.row_bytes(cols),
        }
    }

    /// Numbers that rows must divide into: those of a block, or 1.
    pub fn group(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Ternary(packing) => packing.group(),
            Self::Quantized(kind) => kind.group(),
        }
    }

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Ternary(packing) => packing.name(),
            Self::Quantized(kind) => kind.name(),
        }
    }
}

/// A tensor where it lies: `[rows, cols]`, row-major, each row `format.row_bytes(cols)` long.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTensor {
    /// Number format.
    pub format: Format,
    /// Output features; 1 for a vector.
    pub rows: usize,
    /// Input features, consecutive in memory.
    pub cols: usize,
    /// Exactly `rows * format.row_bytes(cols)` bytes.
    pub bytes: Bytes,
}

impl StoredTensor {
    /// A tensor of f32 values, copied.
    pub fn from_f32(rows: usize, cols: usize, values: &[f32]) -> Self {
        assert_eq!(values.len(), rows * cols, "values for a {rows} x {cols} tensor");
        Self { format: Format::F32, rows, cols, bytes: bytemuck::cast_slice(values).to_vec().into() }
    }

    /// Bytes of one row. A `StoredTensor` is only made with a format that can hold its rows.
    pub fn row_bytes(&self) -> usize {
        self.bytes.len() / self.rows
    }

    /// Writes row `row` as f32 into `out` (`cols` long).
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols);
        let size = self.row_bytes();
        let bytes = &self.bytes[row * size..(row + 1) * size];
        match self.format {
            Format::F32 => read(bytes, out, f32::from_le_bytes),
            Format::F16 => read(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            Format::Bf16 => read(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            Format::Ternary(packing) => packing.decode(bytes, out),
            Format::Quantized(kind) => kind.decode(bytes, out),
        }
    }

    /// All values as f32, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows * self.cols];
        for (row, out) in values.chunks_exact_mut(self.cols).enumerate() {
            self.read_row(row, out);
        }
        values
    }
}

fn read<const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    let (numbers, rest) = bytes.as_chunks::<N>();
    assert!(rest.is_empty() && numbers.len() == out.len());
    for (value, number) in out.iter_mut().zip(numbers) {
        *value = decode(*number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn bytes_elsewhere_are_read_when_looked_at_and_forgotten_with_their_piece() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        let bytes = Bytes::elsewhere(100, move |range| {
            log.lock().unwrap().push(range.clone());
            range.map(|n| n as u8).collect()
        });
        let piece = bytes.slice(10..90).slice(5..8);
        assert_eq!((bytes.len(), piece.len(), piece.is_empty()), (100, 3, false));
        assert!(asked.lock().unwrap().is_empty(), "nobody has looked yet");
        assert_eq!((&piece[..], piece[1]), (&[15u8, 16, 17][..], 16));
        assert_eq!(piece.clone()[2], 17);
        assert_eq!(*asked.lock().unwrap(), [15..18, 15..18], "once for the piece, once for its clone");
    }
}
