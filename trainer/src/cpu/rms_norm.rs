//! `rms_norm`: `y = x r g` with `r = 1 / sqrt(mean(x^2) + eps)`, over runs as long as the gain.

use bonsai_runtime::{cpu::ops, vectorized};
use rayon::prelude::*;

/// Runs that one task takes; fixed, so that sums over tokens have one order for any number of threads.
const RUNS: usize = 64;

/// `out = x r g`.
pub(super) fn rms_norm(out: &mut [f32], x: &[f32], gain: &[f32], eps: f32) {
    let n = gain.len();
    out.par_chunks_mut(RUNS * n).zip(x.par_chunks(RUNS * n)).for_each(|(out, x)| {
        for (out, x) in out.chunks_exact_mut(n).zip(x.chunks_exact(n)) {
            vectorized!(ops::rms_norm(out, x, gain, eps));
        }
    });
}

/// With `u = dy g`: `dx += r (u - x r^2 mean(u x))`, `dg += sum over runs of dy x r`.
pub(super) fn rms_norm_backward(
    dx: &mut [f32],
    d_gain: &mut [f32],
    dy: &[f32],
    x: &[f32],
    gain: &[f32],
    eps: f32,
) {
    let n = gain.len();
    let tasks = dx.par_chunks_mut(RUNS * n).zip(dy.par_chunks(RUNS * n)).zip(x.par_chunks(RUNS * n));
    let partial: Vec<Vec<f32>> = tasks.map(|((dx, dy), x)| backward_runs(dx, dy, x, gain, eps)).collect();
    for part in partial {
        d_gain.iter_mut().zip(part).for_each(|(sum, d)| *sum += d);
    }
}

fn backward_runs(dx: &mut [f32], dy: &[f32], x: &[f32], gain: &[f32], eps: f32) -> Vec<f32> {
    let n = gain.len();
    let (mut d_gain, mut u) = (vec![0.0; n], vec![0.0; n]);
    let runs = dx.chunks_exact_mut(n).zip(dy.chunks_exact(n)).zip(x.chunks_exact(n));
    for ((dx, dy), x) in runs {
        vectorized!(backward_run([dx, &mut d_gain, &mut u], [dy, x, gain], eps));
    }
    d_gain
}

/// One run; `u` is scratch.
#[inline(always)]
fn backward_run([dx, d_gain, u]: [&mut [f32]; 3], [dy, x, gain]: [&[f32]; 3], eps: f32) {
    u.iter_mut().zip(dy).zip(gain).for_each(|((u, d), g)| *u = d * g);
    let r = ops::rms_scale(x, eps);
    let factor = r * r * r * ops::dot(u, x) / gain.len() as f32;
    let numbers = dx.iter_mut().zip(d_gain).zip(u).zip(dy).zip(x);
    for ((((dx, d_gain), u), dy), x) in numbers {
        *dx += r * *u - factor * x;
        *d_gain += dy * x * r;
    }
}
