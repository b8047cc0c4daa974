//! Matrix products: splits the output rows into tasks for the threads and picks the arithmetic by number format.

use std::ops::Range;

use super::ahead::Order;
use super::isa::Isa;
use super::ops;
use super::ternary_matmul::{self, Rounded};
use super::threads::{self, Threads};
use crate::config::Config;
use crate::tensor::{Format, StoredTensor};
use crate::vectorized;

/// Bytes of weights that a task should at least read, so that handing it out pays.
const TASK_BYTES: usize = 16 << 10;
/// Tokens of a task of a long prompt: their rounded activations stay in the second-level cache.
const TASK_TOKENS: usize = 128;
/// From so many tokens a thread on, each thread takes some of them.
const FEWEST_TOKENS: usize = 32;

/// Memory that outlives one product.
#[derive(Default)]
pub(super) struct Scratch {
    rounded: Rounded,
    /// Products of a few tokens as the tasks write them, piece after piece, where the output has them side by side.
    pieces: Vec<f32>,
    /// Of the products with one token.
    order: Order,
}

/// Some rows of one product for some of the tokens, `out` = `[tokens, rows]`.
struct Task<'a> {
    w: &'a StoredTensor,
    first_row: usize,
    tokens: Range<usize>,
    out: &'a mut [f32],
}

impl Task<'_> {
    /// Of its weights.
    fn addresses(&self) -> Range<usize> {
        let rows = self.first_row..self.first_row + self.out.len() / self.tokens.len();
        let address = |row: usize| self.w.bytes.as_ptr().addr() + row * self.w.row_bytes();
        address(rows.start)..address(rows.end)
    }
}

impl Scratch {
    /// `out[n]` (`[tokens, w[n].rows]`) = `x` (`[tokens, cols]`) times `w[n]` transposed.
    pub(super) fn matmul<const N: usize>(
        &mut self,
        isa: Isa,
        exact: bool,
        mut out: [&mut [f32]; N],
        x: &[f32],
        w: [&StoredTensor; N],
        tokens: usize,
    ) {
        let cols = w[0].cols;
        assert!(x.len() == tokens * cols && w.iter().all(|w| w.cols == cols), "shapes of a matmul");
        let fast = |w: &StoredTensor| !exact && matches!(w.format, Format::Ternary(_));
        if w.iter().any(|w| fast(w)) {
            self.rounded.fill(isa, x, cols);
        }
        let rounded = &self.rounded;
        let run = |task: Task| {
            if fast(task.w) {
                let x = rounded.all().some(task.tokens);
                ternary_matmul::rows(isa, task.out, task.w, task.first_row, x);
            } else {
                dense(isa, task, x);
            }
        };
        if tokens == 1 {
            let tasks = of_one_token(out, w);
            let firsts = tasks.iter().take(threads::current()).map(Task::addresses);
            threads::expect(self.order.step(w[0].bytes.as_ptr().addr(), firsts));
            return threads::for_each(tasks, run);
        }
        if splits_tokens(tokens) {
            let each = out.iter_mut().zip(w);
            return threads::for_each(each.flat_map(|(out, w)| some_tokens(out, w, tokens)).collect(), run);
        }
        let all: usize = w.iter().map(|w| w.rows * tokens).sum();
        self.pieces.resize(all.max(self.pieces.len()), 0.0);
        let (mut tasks, mut free) = (Vec::new(), self.pieces.as_mut_slice());
        for w in w {
            let pieces = free.split_off_mut(..w.rows * tokens).expect("as long as the sum above");
            tasks.extend(by_rows(pieces, w, tokens));
        }
        threads::for_each(tasks, run);
        let mut pieces = self.pieces.as_slice();
        for (out, w) in out.iter_mut().zip(w) {
            let (these, rest) = pieces.split_at(w.rows * tokens);
            join(out, these, w.rows, piece_rows(w, tokens), tokens);
            pieces = rest;
        }
    }
}

/// Whether there are so many tokens that each thread takes some of them, and all rows: then every task writes where its
/// products belong, and unpacks all weights for its tokens.
fn splits_tokens(tokens: usize) -> bool {
    tokens > 1 && tokens >= FEWEST_TOKENS * threads::current()
}

/// Tasks of some of the tokens that write straight into the output.
fn some_tokens<'a>(out: &'a mut [f32], w: &'a StoredTensor, tokens: usize) -> Vec<Task<'a>> {
    let rounds = tokens.div_ceil(threads::current() * TASK_TOKENS);
    let some = tokens.div_ceil(rounds * threads::current()).next_multiple_of(2);
    let pieces = out.chunks_mut(some * w.rows).enumerate();
    let task = |(n, out): (usize, &'a mut [f32])| {
        let tokens = n * some..n * some + out.len() / w.rows;
        Task { w, first_row: 0, tokens, out }
    };
    pieces.map(task).collect()
}

/// The rows of all matrices for one token, one matrix behind the other, in parts for the threads. A part that reaches into the
/// next matrix is two tasks.
fn of_one_token<'a, const N: usize>(out: [&'a mut [f32]; N], w: [&'a StoredTensor; N]) -> Vec<Task<'a>> {
    let least = TASK_BYTES.div_ceil(w[0].row_bytes());
    let lengths = part_lengths(w.iter().map(|w| w.rows).sum(), least);
    let mut tasks = Vec::with_capacity(lengths.len() + N);
    let (mut lengths, mut missing) = (lengths.into_iter(), 0);
    for (mut out, w) in out.into_iter().zip(w) {
        while !out.is_empty() {
            if missing == 0 {
                missing = lengths.next().expect("lengths add up to all rows");
            }
            let (first_row, rows) = (w.rows - out.len(), missing.min(out.len()));
            let out = out.split_off_mut(..rows).expect("at most as many as there are");
            tasks.push(Task { w, first_row, tokens: 0..1, out });
            missing -= rows;
        }
    }
    tasks
}

/// How many rows the parts have, one behind the other: rounds of one for each thread, and each round takes three
/// quarters of what is left (factoring, Hummel et al. 1992). Long parts stream through memory without a stop, short
/// ones at the end let all threads finish together.
fn part_lengths(rows: usize, least: usize) -> Vec<usize> {
    let (mut lengths, mut left) = (Vec::new(), rows);
    while left > 0 {
        let each = (left * 3 / (4 * threads::current())).max(least).next_multiple_of(8);
        for _ in 0..threads::current() {
            lengths.push(each.min(left));
            left -= each.min(left);
        }
    }
    lengths.retain(|&rows| rows > 0);
    lengths
}

/// Tasks of some rows and all tokens, one behind the other.
fn by_rows<'a>(out: &'a mut [f32], w: &'a StoredTensor, tokens: usize) -> impl Iterator<Item = Task<'a>> {
    let rows = piece_rows(w, tokens);
    let pieces = out.chunks_mut(rows * tokens).enumerate();
    pieces.map(move |(n, out)| Task { w, first_row: n * rows, tokens: 0..tokens, out })
}

/// Bytes of scratch that products of a model with chunks of this many tokens need, what goes in and comes out of them
/// included; the memory forecast asks.
pub(crate) fn scratch_bytes(config: &Config, tokens: usize) -> usize {
    let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let widest_in = config.hidden.max(q).max(config.intermediate);
    let widest_out = (q + 2 * kv).max(2 * config.intermediate).max(config.hidden);
    let apart = tokens.min(FEWEST_TOKENS * Threads::default_count());
    let pieces = if tokens > 1 { size_of::<f32>() * widest_out * apart } else { 0 };
    let rows = size_of::<f32>() * tokens * (config.hidden + config.intermediate); // of `CpuBackend`: h and up
    Rounded::bytes(tokens, widest_in) + pieces + rows
}

/// Rows of a task of a few tokens: about four tasks a thread.
fn piece_rows(w: &StoredTensor, tokens: usize) -> usize {
    let least = TASK_BYTES.div_ceil(w.row_bytes() * tokens).next_multiple_of(8);
    w.rows.div_ceil(4 * threads::current()).next_multiple_of(8).max(least)
}

/// Puts `pieces` (`[tokens, piece]` each) side by side: `out` is `[tokens, rows]`.
fn join(out: &mut [f32], pieces: &[f32], rows: usize, piece: usize, tokens: usize) {
    threads::for_rows(out, rows, super::GRAIN.div_ceil(rows), |first, out| {
        for (t, out) in out.chunks_exact_mut(rows).enumerate() {
            for (out, from) in out.chunks_mut(piece).zip(pieces.chunks(piece * tokens)) {
                out.copy_from_slice(&from[(first + t) * out.len()..][..out.len()]);
            }
        }
    });
}

/// Weights as f32 times f32 activations: dense files, and ternary ones in exact mode.
fn dense(isa: Isa, task: Task, x: &[f32]) {
    let Task { w, first_row, tokens, out } = task;
    let rows = out.len() / tokens.len();
    let x = &x[tokens.start * w.cols..tokens.end * w.cols];
    let mut unpacked = vec![0.0; w.cols];
    for n in 0..rows {
        let row = row(w, first_row + n, &mut unpacked);
        vectorized!(isa, {
            for (t, x) in x.chunks_exact(row.len()).enumerate() {
                out[t * rows + n] = ops::dot(row, x);
            }
        });
    }
}

/// A row of weights as f32: in place when it lies there as such, else unpacked.
fn row<'a>(w: &'a StoredTensor, row: usize, unpacked: &'a mut [f32]) -> &'a [f32] {
    let bytes = &w.bytes[row * w.row_bytes()..][..w.row_bytes()];
    if w.format == Format::F32
        && cfg!(target_endian = "little")
        && let Ok(values) = bytemuck::try_cast_slice(bytes)
    {
        return values;
    }
    w.read_row(row, unpacked);
    unpacked
}
