//! Distillation from a teacher's likeliest tokens alone: found once, learnt from whenever the same text comes again. The
//! mathematics are those of [`Likeliest`].

use bonsai_runtime::{cpu::ops, vectorized};
use half::f16;
use rayon::prelude::*;

use super::distillation::log_sum_exp;
use super::head::{chunk_rows, logits};
use super::{CpuMatrix, Scratch};
use crate::backend::{Distillation, Likeliest, Losses};
use crate::data::IGNORE;

/// The `k` likeliest tokens of each row of `h w^T`.
pub(super) fn likeliest(
    (h, w): (&[f32], &CpuMatrix),
    k: usize,
    temperature: f32,
    [weights, _, room]: &mut [Scratch; 3],
) -> Likeliest {
    let (tokens, k) = (h.len() / w.cols, k.min(w.rows));
    let mut found = Likeliest { k, ids: vec![0; tokens * k], log_p: vec![f16::ZERO; tokens * k] };
    let rows = chunk_rows(tokens, w.rows);
    let outs = found.ids.chunks_mut(rows * k).zip(found.log_p.chunks_mut(rows * k));
    for (h, (ids, log_p)) in h.chunks(rows * w.cols).zip(outs) {
        let logits = logits(h, w, weights, room).par_chunks_exact(w.rows);
        let outs = ids.par_chunks_exact_mut(k).zip(log_p.par_chunks_exact_mut(k));
        logits.zip(outs).for_each(|(y, (ids, log_p))| row_likeliest(y, temperature, ids, log_p));
    }
    found
}

/// The likeliest tokens of one row of logits, in order, the lowest id first among equals.
fn row_likeliest(y: &[f32], temperature: f32, ids: &mut [u32], log_p: &mut [f16]) {
    let inverse = 1.0 / temperature;
    let lse = vectorized!(log_sum_exp(y, inverse));
    let mut all: Vec<u32> = (0..y.len() as u32).collect();
    let before = |a: &u32, b: &u32| y[*b as usize].total_cmp(&y[*a as usize]).then(a.cmp(b));
    if ids.len() < all.len() {
        all.select_nth_unstable_by(ids.len() - 1, before);
        all.truncate(ids.len());
    }
    all.sort_unstable_by(before);
    for ((id, log_p), token) in ids.iter_mut().zip(log_p).zip(all) {
        (*id, *log_p) = (token, f16::from_f32(y[token as usize] * inverse - lse));
    }
}

/// Losses of each token against its teacher's likeliest tokens; the student's logits become their gradients.
pub(super) fn from_likeliest(
    student: &mut [f32],
    (ids, log_p): (&[u32], &[f16]),
    targets: &[u32],
    (terms, scale): (Distillation, f32),
) -> Vec<Losses> {
    let (vocab, k) = (student.len() / targets.len(), ids.len() / targets.len());
    let words = ids.par_chunks_exact(k).zip(log_p.par_chunks_exact(k));
    let rows = student.par_chunks_exact_mut(vocab).zip(words).zip(targets);
    rows.map(|((z, word), &target)| vectorized!(row_losses(z, word, target, terms, scale))).collect()
}

/// Losses of one token; `z` becomes the gradient of its logits.
#[inline(always)]
fn row_losses(
    z: &mut [f32],
    (ids, log_p): (&[u32], &[f16]),
    target: u32,
    terms: Distillation,
    scale: f32,
) -> Losses {
    if target == IGNORE {
        z.fill(0.0);
        return Losses::default();
    }
    let inverse = 1.0 / terms.temperature;
    let of_target = z[target as usize];
    let at_1 = if terms.temperature == 1.0 { None } else { Some(log_sum_exp(z, 1.0)) };
    // The others' share by themselves: what is left of 1 would be rounding where it is small.
    let kept: Vec<f32> =
        ids.iter().map(|&id| std::mem::replace(&mut z[id as usize], f32::NEG_INFINITY)).collect();
    let others_lse = if kept.len() < z.len() { log_sum_exp(z, inverse) } else { f32::NEG_INFINITY };
    let soft = log_sum_exp(&[log_sum_exp(&kept, inverse), others_lse], 1.0);
    let lse = at_1.unwrap_or(soft);
    let (mut kl, mut others) = (0.0, 1.0);
    for (z, log_p) in kept.iter().zip(log_p) {
        let (log_p, log_q) = (log_p.to_f32(), z * inverse - soft);
        kl += ops::exp(log_p) * (log_p - log_q);
        others -= ops::exp(log_p);
    }
    let others = if kept.len() < z.len() { others.max(0.0) } else { 0.0 };
    if others > 0.0 {
        kl += others * (others.ln() - (others_lse - soft));
    }
    let (of_kl, of_ce) = (scale * terms.kl * terms.temperature, scale * terms.cross_entropy);
    let rest = of_kl * (1.0 - others / ops::exp(others_lse - soft).max(f32::MIN_POSITIVE));
    z.iter_mut().for_each(|z| *z = rest * ops::exp(*z * inverse - soft) + of_ce * ops::exp(*z - lse));
    for ((&id, kept), log_p) in ids.iter().zip(kept).zip(log_p) {
        let pull = of_kl * (ops::exp(kept * inverse - soft) - ops::exp(log_p.to_f32()));
        z[id as usize] = pull + of_ce * ops::exp(kept - lse);
    }
    z[target as usize] -= of_ce;
    Losses { cross_entropy: f64::from(lse - of_target), kl: f64::from(kl) }
}
