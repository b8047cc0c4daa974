//! `cross_entropy`: the head's logits, their loss and its gradients, a chunk of tokens at a time.

use bonsai_runtime::{cpu::ops, vectorized};
use rayon::prelude::*;

use super::head::{chunk_rows, logits, logits_backward};
use super::{CpuMatrix, Scratch};
use crate::data::IGNORE;

/// Summed loss of `h w^T` against `targets`.
pub(super) fn cross_entropy(
    h: &[f32],
    w: &CpuMatrix,
    targets: &[u32],
    [weights, room, _]: &mut [Scratch; 3],
) -> f64 {
    let rows = chunk_rows(targets.len(), w.rows);
    let chunks = h.chunks(rows * w.cols).zip(targets.chunks(rows));
    chunks.map(|(h, targets)| losses(logits(h, w, weights, room), w.rows, targets, None)).sum()
}

/// The same, and the gradients of `scale * (loss + z_loss * lse^2)`: writes `dh`, adds to `dw`.
pub(super) fn cross_entropy_backward(
    (dh, dw): (&mut [f32], &mut [f32]),
    h: &[f32],
    w: &CpuMatrix,
    targets: &[u32],
    (scale, z_loss): (f32, f32),
    [weights, room, _]: &mut [Scratch; 3],
) -> f64 {
    let rows = chunk_rows(targets.len(), w.rows);
    let chunks = dh.chunks_mut(rows * w.cols).zip(h.chunks(rows * w.cols)).zip(targets.chunks(rows));
    let mut loss = 0.0;
    for ((dh, h), targets) in chunks {
        let logits = logits(h, w, weights, room);
        loss += losses(logits, w.rows, targets, Some((scale, z_loss)));
        logits_backward(dh, dw, logits, h, w, weights);
    }
    loss
}

/// Sum of the rows' losses; with a scale, the logits become their gradient.
fn losses(logits: &mut [f32], vocab: usize, targets: &[u32], gradient: Option<(f32, f32)>) -> f64 {
    let rows = logits.par_chunks_exact_mut(vocab).zip(targets);
    let losses: Vec<f64> = rows.map(|(row, &target)| vectorized!(row_loss(row, target, gradient))).collect();
    losses.iter().sum() // in token order
}

/// `lse - logit of the target`; with a scale, the row becomes `scale * (softmax * (1 + 2 z_loss lse) - one hot)`.
#[inline(always)]
fn row_loss(row: &mut [f32], target: u32, gradient: Option<(f32, f32)>) -> f64 {
    if target == IGNORE {
        row.fill(0.0);
        return 0.0;
    }
    let max = ops::max(row);
    let of_target = row[target as usize];
    row.iter_mut().for_each(|x| *x = ops::exp(*x - max));
    let total = ops::sum(row, |x| x);
    let lse = f64::from(max) + f64::from(total).ln();
    if let Some((scale, z_loss)) = gradient {
        let factor = scale * (1.0 + 2.0 * z_loss * lse as f32) / total;
        row.iter_mut().for_each(|x| *x *= factor);
        row[target as usize] -= scale;
    }
    lse - f64::from(of_target)
}
