//! `adamw`: the update, and in the same pass over memory the projection of the updated weights.

use bonsai_runtime::cpu::isa::vectorized;
use rayon::prelude::*;

use super::{CpuMatrix, project::Groups};
use crate::backend::{AdamW, Codes};

/// Weights that one task updates; a multiple of every group size.
const CHUNK: usize = 1 << 15;

/// One update with `factor` on the gradient, which is left zero.
pub(super) fn adamw(
    w: &mut CpuMatrix,
    grad: &mut [f32],
    [m, v]: [&mut [f32]; 2],
    factor: f32,
    step: AdamW,
) -> Codes {
    let groups = Groups::of(&mut w.ternary, w.projection, w.latent.len(), CHUNK);
    let numbers = w.latent.par_chunks_mut(CHUNK).zip(grad.par_chunks_mut(CHUNK));
    let moments = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
    let tasks = numbers.zip(moments).zip(groups);
    tasks
        .map(|(((w, grad), (m, v)), groups)| {
            vectorized(|| {
                update(w, grad, m, v, factor, step);
                groups.project(w)
            })
        })
        .sum()
}

/// `m`, `v`: running means of the gradient and of its square; `w -= lr (m' / (sqrt(v') + eps) + decay w)`.
#[inline(always)]
fn update(w: &mut [f32], grad: &mut [f32], m: &mut [f32], v: &mut [f32], factor: f32, step: AdamW) {
    let [keep, rate, root] = step.factors();
    for (((w, grad), m), v) in w.iter_mut().zip(grad).zip(m).zip(v) {
        let g = *grad * factor;
        *m = step.beta1 * *m + (1.0 - step.beta1) * g;
        *v = step.beta2 * *v + (1.0 - step.beta2) * g * g;
        *w = *w * keep - rate * *m / (v.sqrt() / root + step.eps);
        *grad = 0.0;
    }
}
