//! `muon`: momentum, then the nearest orthogonal matrix by Newton-Schulz iterations, in f32 (bf16 turns the norm into
//! NaN on some GPUs).

use bonsai_runtime::vectorized;
use rayon::prelude::*;

use super::matmul::{Target, Threads, View, matmul_in};
use super::moment::CpuMoment;
use super::noise::Noise;
use super::{CHUNK, CpuMatrix, PIECE, latents, project::Groups, sum_of_squares};
use crate::backend::{Codes, Muon};
use crate::formats::Compute;

/// One update with `factor` on the gradient, which is left zero.
pub(super) fn muon(
    w: &mut CpuMatrix,
    grad: &mut [f32],
    momentum: &mut CpuMoment,
    factor: f32,
    step: Muon,
) -> Codes {
    nesterov(grad, momentum, factor, step);
    let direction = orthogonalize(grad, w.rows, w.cols, step.iterations, w.compute);
    let factors = step.factors(w.rows, w.cols);
    let noise = Noise::new(step.noise, 0);
    let groups = Groups::of(&mut w.ternary, w.projection, w.latent.len(), CHUNK);
    let tasks = w.latent.chunks_mut(CHUNK).into_par_iter().zip(direction.par_chunks(CHUNK)).zip(groups);
    let codes = tasks
        .enumerate()
        .map(|(at, ((w, d), groups))| vectorized!(update((w, groups), d, factors, noise, at * CHUNK)))
        .sum();
    grad.fill(0.0);
    codes
}

/// Moves a chunk of weights, the first of it number `place` of the matrix, and rounds them.
#[inline(always)]
fn update(
    (mut w, mut groups): (latents::Chunk<'_>, Groups<'_>),
    direction: &[f32],
    [keep, rate]: [f32; 2],
    noise: Noise,
    place: usize,
) -> Codes {
    let mut codes = Codes::default();
    let mut piece = [0.0; PIECE];
    for (i, direction) in direction.chunks(PIECE).enumerate() {
        let (first, piece) = (i * PIECE, &mut piece[..direction.len()]);
        w.load(first, piece);
        piece.iter_mut().zip(direction).for_each(|(w, d)| *w = *w * keep - rate * d);
        w.store(first, piece, noise, place + first);
        codes = codes + groups.project(first, piece);
    }
    codes
}

/// `b <- mu b + (1 - mu) g`, then `g <- (1 - mu) g + mu b`.
fn nesterov(grad: &mut [f32], momentum: &mut CpuMoment, factor: f32, step: Muon) {
    let noise = Noise::new(step.noise, 1);
    let tasks = grad.par_chunks_mut(CHUNK).zip(momentum.chunks_mut(CHUNK)).enumerate();
    tasks.for_each(|(at, (grad, mut momentum))| {
        vectorized!({
            let mut piece = [0.0; PIECE];
            for (i, grad) in grad.chunks_mut(PIECE).enumerate() {
                let (first, piece) = (i * PIECE, &mut piece[..grad.len()]);
                momentum.load(first, piece);
                for (g, b) in grad.iter_mut().zip(piece.iter_mut()) {
                    let scaled = *g * factor;
                    *b = step.momentum * *b + (1.0 - step.momentum) * scaled;
                    *g = (1.0 - step.momentum) * scaled + step.momentum * *b;
                }
                momentum.store(first, piece, noise, at * CHUNK + first);
            }
        });
    });
}

/// `x <- a x + (b A + c A^2) x` with `A = x x^T`, from `x = g / |g|`, on the shorter side.
fn orthogonalize(g: &[f32], rows: usize, cols: usize, iterations: usize, compute: Compute) -> Vec<f32> {
    let [a, b, c] = Muon::COEFFICIENTS;
    let wide = rows <= cols;
    let (n, m) = if wide { (rows, cols) } else { (cols, rows) };
    let inverse = 1.0 / (sum_of_squares(g).sqrt() as f32 + 1e-7);
    let mut x: Vec<f32> = if wide { g.to_vec() } else { transposed(g, rows, cols) };
    x.par_iter_mut().for_each(|x| *x *= inverse);
    let (mut gram, mut square, mut next) = (vec![0.0; n * n], vec![0.0; n * n], vec![0.0; n * m]);
    for _ in 0..iterations {
        let view = View::new(&x, n, m, m);
        matmul_in(compute, Target::new(&mut gram, n, n, n), view, view.t(), 1.0, Threads::All);
        let view = View::new(&gram, n, n, n);
        matmul_in(compute, Target::new(&mut square, n, n, n), view, view, c, Threads::All);
        square.par_iter_mut().zip(&gram).for_each(|(s, g)| *s += b * g);
        next.par_iter_mut().zip(&x).for_each(|(next, x)| *next = a * x);
        let product = Target::new(&mut next, n, m, m).accumulate(true);
        matmul_in(compute, product, View::new(&square, n, n, n), View::new(&x, n, m, m), 1.0, Threads::All);
        std::mem::swap(&mut x, &mut next);
    }
    if wide { x } else { transposed(&x, n, m) }
}

/// `[rows, cols] -> [cols, rows]`.
fn transposed(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    out.par_chunks_exact_mut(rows).enumerate().for_each(|(j, out)| {
        out.iter_mut().enumerate().for_each(|(i, value)| *value = x[i * cols + j]);
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn singular_values_end_near_one_whatever_the_shape() {
        for (rows, cols) in [(8, 24), (24, 8), (16, 16)] {
            let g: Vec<f32> = (0..rows * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
            let x = orthogonalize(&g, rows, cols, 5, Compute::F32);
            // The quintic leaves singular values in 0.7..1.2, so x^T x has its trace near the rank.
            let squares = sum_of_squares(&x) / rows.min(cols) as f64;
            assert!((0.5..1.45).contains(&squares), "{rows} x {cols}: mean squared singular value {squares}");
        }
    }
}
