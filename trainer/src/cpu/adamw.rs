//! `adamw`: the update, and in the same pass over memory the projection of the updated weights.

use bonsai_runtime::vectorized;
use rayon::prelude::*;

use super::moment::{self, CpuMoment};
use super::noise::Noise;
use super::{CHUNK, CpuMatrix, PIECE, latents, project::Groups};
use crate::backend::{AdamW, Codes};

/// One update with `factor` on the gradient, which is left zero.
pub(super) fn adamw(
    w: &mut CpuMatrix,
    grad: &mut [f32],
    [m, v]: [&mut CpuMoment; 2],
    factor: f32,
    step: AdamW,
) -> Codes {
    let groups = Groups::of(&mut w.ternary, w.projection, w.latent.len(), CHUNK);
    let weights = w.latent.chunks_mut(CHUNK).into_par_iter().zip(grad.par_chunks_mut(CHUNK));
    let moments = m.chunks_mut(CHUNK).into_par_iter().zip(v.chunks_mut(CHUNK));
    let noise = [0, 1, 2].map(|stream| Noise::new(step.noise, stream));
    let tasks = weights.zip(moments).zip(groups).enumerate();
    tasks
        .map(|(at, (((w, grad), (m, v)), groups))| {
            let mut task = Task { place: at * CHUNK, w, m, v, groups, noise };
            vectorized!(task.run(grad, factor, step))
        })
        .sum()
}

/// What one task updates, the first of it number `place` of the tensor.
struct Task<'a> {
    place: usize,
    w: latents::Chunk<'a>,
    m: moment::Chunk<'a>,
    v: moment::Chunk<'a>,
    groups: Groups<'a>,
    noise: [Noise; 3],
}

impl Task<'_> {
    /// A piece at a time, which stays in the nearest cache: numbers to f32, the update, and back.
    #[inline(always)]
    fn run(&mut self, grad: &mut [f32], factor: f32, step: AdamW) -> Codes {
        let [mut w, mut m, mut v] = [[0.0; PIECE]; 3];
        let mut codes = Codes::default();
        for (i, grad) in grad.chunks_mut(PIECE).enumerate() {
            let (n, first, place) = (grad.len(), i * PIECE, self.place + i * PIECE);
            let [w, m, v] = [&mut w[..n], &mut m[..n], &mut v[..n]];
            self.w.load(first, w);
            self.m.load(first, m);
            self.v.load(first, v);
            update(w, grad, m, v, factor, step);
            self.w.store(first, w, self.noise[0], place);
            self.m.store(first, m, self.noise[1], place);
            self.v.store(first, v, self.noise[2], place);
            codes = codes + self.groups.project(first, w);
        }
        codes
    }
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
