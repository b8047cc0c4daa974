//! Matrix products: splits the output rows into tasks for the threads and picks the arithmetic by number format.

use std::ops::Range;

use super::isa::Isa;
use super::ops;
use super::ternary_matmul::{self, Rounded};
use super::threads::{self, Threads};
use crate::config::Config;
use crate::tensor::{Format, StoredTensor};

/// Bytes of weights that a task should at least read, so that handing it out pays.
const TASK_BYTES: usize = 16 << 10;
/// Tokens of a task of a long prompt: their rounded activations stay in the second-level cache.
const TASK_TOKENS: usize = 64;

/// Memory that outlives one product.
#[derive(Default)]
pub(super) struct Scratch {
    rounded: Rounded,
    /// Products of a few tokens as the tasks write them, piece after piece, where the output has them side by side.
    pieces: Vec<f32>,
}

/// Some rows of one product for some of the tokens, `out` = `[tokens, rows]`.
struct Task<'a> {
    w: &'a StoredTensor,
    first_row: usize,
    tokens: Range<usize>,
    out: &'a mut [f32],
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
                isa.run(|| dense(task, x));
            }
        };
        if splits_tokens(tokens) || tokens == 1 {
            let each = out.iter_mut().zip(w);
            threads::for_each(each.flat_map(|(out, w)| in_place(out, w, tokens)).collect(), run);
            return;
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
    tokens > 1 && tokens >= TASK_TOKENS / 2 * threads::current()
}

/// Tasks that write straight into the output: of some tokens, or of one.
fn in_place<'a>(out: &'a mut [f32], w: &'a StoredTensor, tokens: usize) -> Vec<Task<'a>> {
    if tokens == 1 {
        return by_rows(out, w, 1).collect();
    }
    let rounds = tokens.div_ceil(threads::current() * TASK_TOKENS);
    let some = tokens.div_ceil(rounds * threads::current()).next_multiple_of(2);
    let pieces = out.chunks_mut(some * w.rows).enumerate();
    let task = |(n, out): (usize, &'a mut [f32])| {
        let tokens = n * some..n * some + out.len() / w.rows;
        Task { w, first_row: 0, tokens, out }
    };
    pieces.map(task).collect()
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
    let apart = tokens.min(TASK_TOKENS / 2 * Threads::default_count());
    let pieces = if tokens > 1 { size_of::<f32>() * widest_out * apart } else { 0 };
    let rows = size_of::<f32>() * tokens * (config.hidden + config.intermediate); // of `CpuBackend`: h and up
    Rounded::bytes(tokens, widest_in) + pieces + rows
}

/// Rows of a task: about four tasks a thread.
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
#[inline(always)]
fn dense(task: Task, x: &[f32]) {
    let Task { w, first_row, tokens, out } = task;
    let rows = out.len() / tokens.len();
    let x = &x[tokens.start * w.cols..tokens.end * w.cols];
    let mut unpacked = vec![0.0; w.cols];
    for n in 0..rows {
        let row = row(w, first_row + n, &mut unpacked);
        for (out, x) in out.chunks_exact_mut(rows).zip(x.chunks_exact(w.cols)) {
            out[n] = ops::dot(row, x);
        }
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
