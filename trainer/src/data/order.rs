//! Which windows of the data a training step sees.
//!
//! The order is a pure function of the seed and of the number of the row, counted from the start of the run: nothing
//! is remembered between steps, so a resumed run sees exactly what the uninterrupted one would have seen.

use bonsai_runtime::Error as RuntimeError;

use super::tokens::Tokens;
use crate::error::{Error, Result};
use crate::random::{Random, mix};

/// A target that does not count.
pub const IGNORE: u32 = u32::MAX;

/// What a step is trained on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Number of rows.
    pub batch: usize,
    /// Tokens of a row.
    pub seq: usize,
    /// `[batch, seq]`
    pub tokens: Vec<u32>,
    /// `[batch, seq]`: the token that follows, or [`IGNORE`] where it is no target.
    pub targets: Vec<u32>,
}

/// The order in which windows of `seq + 1` tokens come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Every epoch shifts the windows by a random phase below `seq`, so that their borders fall elsewhere, and visits
    /// each once in random order. Neighbours share one token: the last target of one is the first input of the next.
    Shuffled {
        /// Chooses phases and permutations.
        seed: u64,
    },
    /// The same in every epoch but for the order: windows begin where they began before, so that what a teacher said of
    /// them can be remembered.
    Repeated {
        /// Chooses the permutations.
        seed: u64,
    },
    /// Row r of step s starts at token `offsets[s * batch + r]`: replays the order of another trainer.
    Offsets(Vec<u32>),
}

impl Order {
    /// Reads a file of little-endian u32 offsets.
    pub fn from_file(path: &std::path::Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(RuntimeError::io(path))?;
        let (quads, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() || quads.is_empty() {
            let message = format!("{} bytes are not a row of 4-byte offsets", bytes.len());
            return Err(Error::Data { path: path.to_path_buf(), message });
        }
        Ok(Self::Offsets(quads.iter().map(|quad| u32::from_le_bytes(*quad)).collect()))
    }

    /// Makes sure that `rows` rows (steps x batch) of `seq` tokens can be had; afterwards [`Order::batch`] cannot fail.
    pub fn check(&self, tokens: &Tokens, rows: u64, seq: usize) -> Result<()> {
        let need = seq + 1;
        let fail = |message: String| Err(Error::Data { path: tokens.path().to_path_buf(), message });
        if seq == 0 || tokens.len() < need {
            return fail(format!(
                "{} tokens are too few for sequences of {seq}: add text or set a shorter --seq-len",
                tokens.len()
            ));
        }
        let Self::Offsets(offsets) = self else { return Ok(()) };
        if (offsets.len() as u64) < rows {
            return fail(format!(
                "the run needs {rows} offsets, but there are {}: train fewer steps",
                offsets.len()
            ));
        }
        match offsets.iter().position(|&start| start as usize + need > tokens.len()) {
            Some(at) => {
                fail(format!("offset {at} is {}: a window there passes the end of the data", offsets[at]))
            }
            None => Ok(()),
        }
    }

    /// Fills `out` with the rows `sequence .. sequence + batch` of the run; `sequence` is step x batch. Panics where
    /// [`Order::check`] would have refused.
    pub fn batch(&self, tokens: &Tokens, sequence: u64, batch: usize, seq: usize, out: &mut Batch) {
        (out.batch, out.seq) = (batch, seq);
        out.tokens.resize(batch * seq, 0);
        out.targets.resize(batch * seq, 0);
        let rows = out.tokens.chunks_exact_mut(seq).zip(out.targets.chunks_exact_mut(seq));
        for (row, (inputs, targets)) in (sequence..).zip(rows) {
            let start = self.start(tokens.len(), row, seq);
            tokens.read(start..start + seq, inputs);
            tokens.read_targets(start + 1..start + 1 + seq, targets);
        }
    }

    /// First token of row number `row`, in data of `len` tokens.
    pub fn start(&self, len: usize, row: u64, seq: usize) -> usize {
        match self {
            Self::Offsets(offsets) => offsets[row as usize] as usize,
            Self::Shuffled { seed } | Self::Repeated { seed } => {
                let windows = windows_per_epoch(len, seq) as u64;
                let (epoch, place) = (row / windows, row % windows);
                let mut random = Random::stream(*seed, epoch);
                let phase = random.below(seq.min(len - windows as usize * seq));
                let phase = if matches!(self, Self::Repeated { .. }) { 0 } else { phase };
                phase + seq * permute(place, windows, random.next_u64()) as usize
            }
        }
    }
}

/// Windows that fit behind every phase, so that all epochs have the same number: at least 1.
pub fn windows_per_epoch(len: usize, seq: usize) -> usize {
    ((len - seq) / seq).max(1)
}

/// Where `index` goes in permutation number `key` of `0..n`.
///
/// A Feistel network permutes the next even power of two; whoever lands outside walks on until inside (at most a few
/// rounds, as the power is below 4n). So an epoch of a billion windows needs no table.
fn permute(index: u64, n: u64, key: u64) -> u64 {
    let half = (u64::BITS - (n - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half) - 1;
    let mut at = index;
    loop {
        let (mut left, mut right) = (at >> half, at & mask);
        for round in 0..6u64 {
            (left, right) = (right, left ^ (mix(key ^ mix(right + (round << 40))) & mask));
        }
        at = (left << half) | right;
        if at < n {
            return at;
        }
    }
}

/// Starts of at most `most` windows of `seq + 1` tokens, evenly spread, that share no target: the same ones every
/// time, so that validation losses can be compared. Fewer tokens than a window has are one short window.
pub fn valid_windows(tokens: &Tokens, seq: usize, most: usize) -> Vec<usize> {
    let targets = tokens.len().saturating_sub(1);
    let windows = (targets / seq).max(targets.min(1));
    let count = windows.min(most);
    (0..count).map(|index| index * windows / count * seq).collect()
}
