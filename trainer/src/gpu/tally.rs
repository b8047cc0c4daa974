//! The tally: kernels leave losses, sums of squares and counts in one buffer, which is read back in one go.

use super::GpuBackend;
use super::memory::{GpuBuffer, Piece, parts};
use super::shaders::SUM_OF_SQUARES;
use crate::backend::{Codes, Tally};
use crate::error::Result;

/// Numbers that the tally has room for before it must be read.
pub(super) const ROOM: usize = 1 << 20;
/// Numbers before the first sum: the counts of zeros, flips and weights.
const COUNTS: usize = 64;
/// Numbers of a partial sum of squares; `sum_of_squares.wgsl` says the same.
const SQUARES: usize = 1 << 14;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Losses,
    Squares,
}

/// Where the tally is.
pub(super) struct Sums {
    buffer: GpuBuffer,
    /// Entries that lie in the buffer, one behind the other.
    entries: Vec<(Kind, usize)>,
    next: usize,
    /// Already read, because there was no more room.
    read: Tally,
}

impl Sums {
    pub(super) fn new(buffer: GpuBuffer) -> Self {
        Self { buffer, entries: Vec::new(), next: COUNTS, read: Tally::default() }
    }

    /// The counts, for kernels that add to them.
    pub(super) fn counts(&self) -> Piece<'_> {
        self.buffer.piece(0..COUNTS)
    }

    pub(super) fn all(&self) -> Piece<'_> {
        self.buffer.all()
    }
}

impl GpuBackend {
    /// A place for `n` numbers of the tally.
    fn place(&mut self, kind: Kind, n: usize) -> usize {
        assert!(n <= ROOM - COUNTS, "{n} sums at once");
        if self.sums.next + n > ROOM
            && let Err(error) = self.read_sums()
        {
            self.fail(bonsai_runtime::Error::Gpu(error.to_string()));
        }
        self.sums.entries.push((kind, n));
        self.sums.next += n;
        self.sums.next - n
    }

    /// A place for the losses of `n` tokens.
    pub(super) fn place_losses(&mut self, n: usize) -> usize {
        self.place(Kind::Losses, n)
    }

    /// Tallies the squares of a buffer; where their partial sums are, and how many.
    pub(super) fn tally_squares(&mut self, x: &GpuBuffer) -> [usize; 2] {
        let pieces = x.len.div_ceil(SQUARES);
        let first = self.place(Kind::Squares, pieces);
        self.squares(self.sums.all(), first, x);
        [first, pieces]
    }

    /// Leaves partial sums of squares from `first` on; returns how many.
    pub(super) fn squares(&self, out: Piece, first: usize, x: &GpuBuffer) -> usize {
        for part in parts(x.len, self.tuning.span) {
            let pieces = part.len().div_ceil(SQUARES);
            let params = [part.len().div_ceil(4) as u32, (first + part.start / SQUARES) as u32];
            self.run(&SUM_OF_SQUARES, &[], &[&out, &x.piece(part)], &params, self.gpu.grid(pieces));
        }
        x.len.div_ceil(SQUARES)
    }

    /// Reads the buffer into what was read before, and begins anew.
    fn read_sums(&mut self) -> Result<()> {
        let words: Vec<u32> = self.fetch(&self.sums.buffer, 0..self.sums.next)?;
        if let Some(raw) = &self.sums.buffer.raw {
            self.gpu.clear(raw.slice(0..4 * COUNTS as u64));
        }
        let sums = &mut self.sums;
        let mut rest = &words[COUNTS..];
        for (kind, n) in sums.entries.drain(..) {
            let (entry, behind) = rest.split_at(n);
            rest = behind;
            let sum: f64 = entry.iter().map(|&bits| f64::from(f32::from_bits(bits))).sum();
            match kind {
                Kind::Losses => sums.read.loss += sum,
                Kind::Squares => sums.read.squares += sum,
            }
        }
        let [zeros, flips, total] = [0, 1, 2].map(|n| u64::from(words[n]));
        sums.read.codes = sums.read.codes + Codes { total, zeros, flips };
        sums.next = COUNTS;
        Ok(())
    }

    /// See [`crate::backend::Backend::tally`].
    pub(super) fn take_tally(&mut self) -> Result<Tally> {
        self.read_sums()?;
        Ok(std::mem::take(&mut self.sums.read))
    }
}
