//! Distillation from a teacher's likeliest tokens alone: found once, learnt from whenever the same text comes again. The
//! mathematics are those of [`Likeliest`].

use bonsai_runtime::cpu::{isa::vectorized, ops};
use half::f16;
use rayon::prelude::*;

use super::distillation::log_sum_exp;
use super::head::{chunk_rows, logits};
use super::{CpuMatrix, Scratch};
use crate::backend::{Distillation, Likeliest, Losses};
use crate::data::IGNORE;

/// Least probability that a student gives to all other tokens together: what is left of 1 in f32 may be nothing.
const LEAST: f32 = 1e-7;

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
    let lse = vectorized(|| log_sum_exp(y, inverse));
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
    rows.map(|((z, word), &target)| vectorized(|| row_losses(z, word, target, terms, scale))).collect()
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
    let lse = log_sum_exp(z, 1.0);
    let soft = if terms.temperature == 1.0 { lse } else { log_sum_exp(z, inverse) };
    let (mut kl, mut others, mut others_q) = (0.0, 1.0, 1.0);
    for (&id, log_p) in ids.iter().zip(log_p) {
        let (log_p, log_q) = (log_p.to_f32(), z[id as usize] * inverse - soft);
        kl += ops::exp(log_p) * (log_p - log_q);
        others -= ops::exp(log_p);
        others_q -= ops::exp(log_q);
    }
    let (others, others_q) = (others.max(0.0), others_q.max(LEAST));
    if others > 0.0 {
        kl += others * (others / others_q).ln();
    }
    let (of_kl, of_ce) = (scale * terms.kl * terms.temperature, scale * terms.cross_entropy);
    let rest = of_kl * (1.0 - others / others_q);
    let likeliest: Vec<(usize, f32)> = (ids.iter().zip(log_p))
        .map(|(&id, log_p)| {
            let z = z[id as usize];
            let pull = of_kl * (ops::exp(z * inverse - soft) - ops::exp(log_p.to_f32()));
            (id as usize, pull + of_ce * ops::exp(z - lse))
        })
        .collect();
    z.iter_mut().for_each(|z| *z = rest * ops::exp(*z * inverse - soft) + of_ce * ops::exp(*z - lse));
    likeliest.into_iter().for_each(|(id, gradient)| z[id] = gradient);
    z[target as usize] -= of_ce;
    Losses { cross_entropy: f64::from(lse - of_target), kl: f64::from(kl) }
}
