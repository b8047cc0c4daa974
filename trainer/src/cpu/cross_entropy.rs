//! `cross_entropy`: the head's logits, their loss and its gradients, a chunk of tokens at a time.
//!
//! Logits of a whole batch are never held: at a vocabulary of 151,936 those of 4,096 tokens would be 2.5 GB.

use bonsai_runtime::cpu::{isa::vectorized, ops};
use rayon::prelude::*;

use super::matmul::{Target, Threads, View, matmul};
use super::{CpuMatrix, Scratch};
use crate::data::IGNORE;

/// Bytes of logits that are held at a time, unless [`MIN_ROWS`] asks for more.
const LOGIT_BYTES: usize = 32 << 20;
/// Fewer rows would waste the matrix product.
const MIN_ROWS: usize = 128;
/// Rows of the head that are unpacked at a time.
const VOCAB_BLOCK: usize = 4096;

/// Tokens whose logits are held at a time.
fn chunk_rows(vocab: usize) -> usize {
    (LOGIT_BYTES / (4 * vocab)).max(MIN_ROWS)
}

/// Bytes of scratch that a call on `tokens` needs; the memory forecast asks.
pub fn scratch_bytes(tokens: usize, vocab: usize, hidden: usize) -> usize {
    4 * (tokens.min(chunk_rows(vocab)) * vocab + vocab.min(VOCAB_BLOCK) * hidden)
}

/// Summed loss of `h w^T` against `targets`.
pub(super) fn cross_entropy(h: &[f32], w: &CpuMatrix, targets: &[u32], scratch: &mut [Scratch; 2]) -> f64 {
    let rows = chunk_rows(w.rows);
    let chunks = h.chunks(rows * w.cols).zip(targets.chunks(rows));
    chunks.map(|(h, targets)| losses(logits(h, w, scratch), w.rows, targets, None)).sum()
}

/// The same, and the gradients of `scale * loss`: writes `dh`, adds to `dw`.
pub(super) fn cross_entropy_backward(
    dh: &mut [f32],
    dw: &mut [f32],
    h: &[f32],
    w: &CpuMatrix,
    targets: &[u32],
    scale: f32,
    scratch: &mut [Scratch; 2],
) -> f64 {
    let rows = chunk_rows(w.rows);
    let chunks = dh.chunks_mut(rows * w.cols).zip(h.chunks(rows * w.cols)).zip(targets.chunks(rows));
    let mut loss = 0.0;
    for ((dh, h), targets) in chunks {
        loss += losses(logits(h, w, scratch), w.rows, targets, Some(scale));
        head_backward(dh, dw, h, w, scratch);
    }
    loss
}

/// Logits of a chunk of tokens, `[tokens, vocab]`, in the second scratch.
fn logits<'a>(h: &[f32], w: &CpuMatrix, [weights, logits]: &'a mut [Scratch; 2]) -> &'a mut [f32] {
    let (t, k, vocab) = (h.len() / w.cols, w.cols, w.rows);
    let logits = logits.get(t * vocab);
    for first in (0..vocab).step_by(VOCAB_BLOCK) {
        let n = VOCAB_BLOCK.min(vocab - first);
        let block = View::new(w.weights(first, n, weights), n, k, k);
        matmul(
            Target::new(&mut logits[first..], t, n, vocab),
            View::new(h, t, k, k),
            block.t(),
            1.0,
            Threads::All,
        );
    }
    logits
}

/// `dh = dl w`, `dw += dl^T h`, where `dl`, the gradient of the logits, lies in the second scratch.
fn head_backward(
    dh: &mut [f32],
    dw: &mut [f32],
    h: &[f32],
    w: &CpuMatrix,
    [weights, logits]: &mut [Scratch; 2],
) {
    let (t, k, vocab) = (h.len() / w.cols, w.cols, w.rows);
    let d_logits = &*logits.get(t * vocab);
    for first in (0..vocab).step_by(VOCAB_BLOCK) {
        let n = VOCAB_BLOCK.min(vocab - first);
        let d_block = View::new(&d_logits[first..], t, n, vocab);
        let block = View::new(w.weights(first, n, weights), n, k, k);
        matmul(Target::new(dh, t, k, k).accumulate(first > 0), d_block, block, 1.0, Threads::All);
        let dw = &mut dw[first * k..(first + n) * k];
        matmul(
            Target::new(dw, n, k, k).accumulate(true),
            d_block.t(),
            View::new(h, t, k, k),
            1.0,
            Threads::All,
        );
    }
}

/// Sum of the rows' losses; with a scale, the logits become `scale * (softmax - one hot)`.
fn losses(logits: &mut [f32], vocab: usize, targets: &[u32], scale: Option<f32>) -> f64 {
    let rows = logits.par_chunks_exact_mut(vocab).zip(targets);
    let losses: Vec<f64> = rows.map(|(row, &target)| vectorized(|| row_loss(row, target, scale))).collect();
    losses.iter().sum() // in token order
}

#[inline(always)]
fn row_loss(row: &mut [f32], target: u32, scale: Option<f32>) -> f64 {
    if target == IGNORE {
        row.fill(0.0);
        return 0.0;
    }
    let max = ops::max(row);
    let of_target = row[target as usize];
    row.iter_mut().for_each(|x| *x = ops::exp(*x - max));
    let total = ops::sum(row, |x| x);
    if let Some(scale) = scale {
        let factor = scale / total;
        row.iter_mut().for_each(|x| *x *= factor);
        row[target as usize] -= scale;
    }
    f64::from(max) + f64::from(total).ln() - f64::from(of_target)
}
