//! The tally: kernels leave losses, sums of squares and counts in one buffer, which is read back in one go.

use super::GpuBackend;
use super::memory::{GpuBuffer, Piece, parts};
use super::shaders::SUM_OF_SQUARES;
use crate::backend::{Codes, Tally};
use crate::error::Result;
use crate::ledger::Ledger;

/// Numbers that the tally has room for before it must be read.
pub(super) const ROOM: usize = 1 << 20;
/// Pieces begin at multiples of so many numbers.
const ALIGNED: usize = 64;
/// Numbers of a partial sum of squares; `sum_of_squares.wgsl` says the same.
const SQUARES: usize = 1 << 14;

/// What the numbers of an entry are.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// Cross-entropies of tokens.
    Losses,
    /// Divergences of tokens.
    Divergences,
    /// Partial sums of squares.
    Squares,
    /// Zeros, flips and weights of an update: whole numbers.
    Counts,
}

/// Where the tally is.
pub(super) struct Sums {
    buffer: GpuBuffer,
    /// What lies in the buffer, one behind the other: kind, numbers, and for which parameter.
    entries: Vec<(Kind, usize, Option<usize>)>,
    next: usize,
    /// Already read, because there was no more room.
    pub(super) read: Ledger,
}

impl Sums {
    pub(super) fn new(buffer: GpuBuffer) -> Self {
        Self { buffer, entries: Vec::new(), next: 0, read: Ledger::default() }
    }

    pub(super) fn all(&self) -> Piece<'_> {
        self.buffer.all()
    }

    /// A piece with numbers `first..first + n`, for a kernel that touches no others; where in it they begin.
    pub(super) fn window(&self, first: usize, n: usize) -> (Piece<'_>, usize) {
        let start = first / ALIGNED * ALIGNED;
        (self.buffer.piece(start..first + n), first - start)
    }
}

impl GpuBackend {
    /// Makes room for `n` numbers in places to come. What was placed before must have been filled.
    pub(super) fn make_room(&mut self, n: usize) {
        assert!(n <= ROOM, "{n} sums at once");
        if self.sums.next + n > ROOM
            && let Err(error) = self.read_sums()
        {
            self.fail(bonsai_runtime::Error::Gpu(error.to_string()));
        }
    }

    /// A place for `n` numbers of the tally, zeros.
    pub(super) fn place(&mut self, kind: Kind, n: usize) -> usize {
        self.make_room(n);
        self.sums.entries.push((kind, n, self.sums.read.parameter()));
        self.sums.next += n;
        self.sums.next - n
    }

    /// Tallies the squares of a buffer; where their partial sums are, and how many.
    pub(super) fn tally_squares(&mut self, x: &GpuBuffer) -> [usize; 2] {
        let pieces = x.len.div_ceil(SQUARES);
        let first = self.place(Kind::Squares, pieces);
        let (out, at) = self.sums.window(first, pieces);
        self.squares(&out, at, x);
        [first, pieces]
    }

    /// Leaves partial sums of squares from `first` on; returns how many.
    pub(super) fn squares(&self, out: &Piece, first: usize, x: &GpuBuffer) -> usize {
        for part in parts(x.len, self.tuning.span) {
            let pieces = part.len().div_ceil(SQUARES);
            let params = [part.len().div_ceil(4) as u32, (first + part.start / SQUARES) as u32];
            self.run(&SUM_OF_SQUARES, &[], &[out, &x.piece(part)], &params, self.gpu.grid(pieces));
        }
        x.len.div_ceil(SQUARES)
    }

    /// Reads the buffer into what was read before, and begins anew.
    fn read_sums(&mut self) -> Result<()> {
        let words: Vec<u32> = self.fetch(&self.sums.buffer, 0..self.sums.next)?;
        if let (Some(raw), 1..) = (&self.sums.buffer.raw, self.sums.next) {
            self.gpu.clear(raw.slice(0..4 * self.sums.next as u64));
        }
        let sums = &mut self.sums;
        let mut rest = &words[..];
        for (kind, n, parameter) in sums.entries.drain(..) {
            let (entry, behind) = rest.split_at(n);
            rest = behind;
            sums.read.add_for(parameter, tally_of(kind, entry));
        }
        sums.next = 0;
        Ok(())
    }

    /// See [`crate::backend::Backend::tally`].
    pub(super) fn take_tally(&mut self) -> Result<Tally> {
        self.read_sums()?;
        Ok(self.sums.read.take())
    }
}

/// What the numbers of an entry say.
fn tally_of(kind: Kind, words: &[u32]) -> Tally {
    let sum = || words.iter().map(|&bits| f64::from(f32::from_bits(bits))).sum();
    match kind {
        Kind::Losses => Tally { loss: sum(), ..Tally::default() },
        Kind::Divergences => Tally { kl: sum(), ..Tally::default() },
        Kind::Squares => Tally { squares: sum(), ..Tally::default() },
        Kind::Counts => {
            let [zeros, flips, total] = [0, 1, 2].map(|n| u64::from(words[n]));
            Tally { codes: Codes { total, zeros, flips }, ..Tally::default() }
        }
    }
}
