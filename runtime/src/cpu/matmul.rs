//! Matrix products: splits the output rows into tasks for the threads and picks the arithmetic by number format.

use super::isa::Isa;
use super::ternary_matmul::{self, Rounded};
use super::{ops, threads};
use crate::tensor::{Format, StoredTensor};

/// Bytes of weights that a task should at least read, so that handing it out pays.
const TASK_BYTES: usize = 16 << 10;

/// Memory that outlives one product.
#[derive(Default)]
pub(super) struct Scratch {
    rounded: Rounded,
    /// Products as the tasks write them: each weight row with all its tokens.
    by_row: Vec<f32>,
}

/// Some rows of one product, `out` = `[rows, tokens]`.
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
        let fast = |w: &StoredTensor| !exact && matches!(w.format, Format::Q2_0 { .. });
        if w.iter().any(|w| fast(w)) {
            self.rounded.fill(isa, x, cols);
        }
        let by_row: usize = if tokens > 1 { w.iter().map(|w| w.rows * tokens).sum() } else { 0 };
        self.by_row.resize(by_row, 0.0);
        let mut tasks = Vec::new();
        let mut free = self.by_row.as_mut_slice();
        for (out, w) in out.iter_mut().zip(w) {
            // With one token the output is already in the tasks' order.
            let to = if tokens > 1 { free.split_off_mut(..w.rows * tokens) } else { Some(&mut **out) };
            split(&mut tasks, w, to.expect("as long as the sum above"), tokens);
        }
        let rounded = &self.rounded;
        threads::for_each(tasks, |task| {
            if fast(task.w) {
                ternary_matmul::rows(isa, task.out, task.w, task.first_row, rounded);
            } else {
                isa.run(|| dense(task, x));
            }
        });
        let mut by_row = self.by_row.as_slice();
        for (out, w) in out.iter_mut().zip(w).filter(|_| tokens > 1) {
            let (this, rest) = by_row.split_at(w.rows * tokens);
            transpose(out, this, tokens);
            by_row = rest;
        }
    }
}

/// Cuts the rows of a product into about four tasks a thread.
fn split<'a>(tasks: &mut Vec<Task<'a>>, w: &'a StoredTensor, out: &'a mut [f32], tokens: usize) {
    let least = TASK_BYTES.div_ceil(w.row_bytes() * tokens).next_multiple_of(4);
    let rows = w.rows.div_ceil(4 * threads::current()).next_multiple_of(4).max(least);
    let pieces = out.chunks_mut(rows * tokens).enumerate();
    tasks.extend(pieces.map(|(n, out)| Task { w, first_row: n * rows, out }));
}

/// Weights as f32 times f32 activations: dense files, and ternary ones in exact mode.
#[inline(always)]
fn dense(task: Task, x: &[f32]) {
    let Task { w, first_row, out } = task;
    let tokens = x.len() / w.cols;
    let mut unpacked = vec![0.0; w.cols];
    for (n, out) in out.chunks_exact_mut(tokens).enumerate() {
        let row = row(w, first_row + n, &mut unpacked);
        for (out, x) in out.iter_mut().zip(x.chunks_exact(w.cols)) {
            *out = ops::dot(row, x);
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

/// `out[t, r] = from[r, t]`.
fn transpose(out: &mut [f32], from: &[f32], tokens: usize) {
    let rows = from.len() / tokens;
    // 16 tokens at a time: one cache line of `from` feeds 16 rows of `out`.
    threads::for_rows(out, rows, 16, |first, out| {
        for (r, from) in from.chunks_exact(tokens).enumerate() {
            for (out, value) in out.chunks_exact_mut(rows).zip(&from[first..]) {
                out[r] = *value;
            }
        }
    });
}
