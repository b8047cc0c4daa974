//! Matrix products: splits the output rows into tasks for the threads and picks the arithmetic by number format.

use super::isa::Isa;
use super::ternary_matmul::{self, Rounded};
use super::{ops, threads};
use crate::config::Config;
use crate::tensor::{Format, StoredTensor};

/// Bytes of weights that a task should at least read, so that handing it out pays.
const TASK_BYTES: usize = 16 << 10;

/// Memory that outlives one product.
#[derive(Default)]
pub(super) struct Scratch {
    rounded: Rounded,
    /// Products as the tasks write them, piece after piece, where the output has them side by side.
    pieces: Vec<f32>,
}

/// Some rows of one product, `out` = `[tokens, rows]`.
struct Task<'a> {
    w: &'a StoredTensor,
    first_row: usize,
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
        let apart: usize = if tokens > 1 { w.iter().map(|w| w.rows * tokens).sum() } else { 0 };
        self.pieces.resize(apart, 0.0);
        let mut tasks = Vec::new();
        let mut free = self.pieces.as_mut_slice();
        for (out, w) in out.iter_mut().zip(w) {
            // With one token the output is a row of pieces already.
            let to = if tokens > 1 { free.split_off_mut(..w.rows * tokens) } else { Some(&mut **out) };
            let pieces = to.expect("as long as the sum above").chunks_mut(piece_rows(w, tokens) * tokens);
            tasks.extend(pieces.enumerate().map(|(n, out)| Task {
                w,
                first_row: n * piece_rows(w, tokens),
                out,
            }));
        }
        let rounded = &self.rounded;
        threads::for_each(tasks, |task| {
            if fast(task.w) {
                ternary_matmul::rows(isa, task.out, task.w, task.first_row, rounded);
            } else {
                isa.run(|| dense(task, x));
            }
        });
        let mut pieces = self.pieces.as_slice();
        for (out, w) in out.iter_mut().zip(w).filter(|_| tokens > 1) {
            let (these, rest) = pieces.split_at(w.rows * tokens);
            join(out, these, w.rows, piece_rows(w, tokens), tokens);
            pieces = rest;
        }
    }
}

/// Bytes of scratch that products of a model with chunks of this many tokens need, what goes in and comes out of them
/// included; the memory forecast asks.
pub(crate) fn scratch_bytes(config: &Config, tokens: usize) -> usize {
    let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let widest_in = config.hidden.max(q).max(config.intermediate);
    let widest_out = (q + 2 * kv).max(2 * config.intermediate).max(config.hidden);
    let pieces = if tokens > 1 { size_of::<f32>() * widest_out * tokens } else { 0 };
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
    let Task { w, first_row, out } = task;
    let rows = out.len() / (x.len() / w.cols);
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
