//! Rounding, AdamW and Muon.

use std::ops::Range;

use super::GpuBackend;
use super::memory::{GpuBuffer, GpuMatrix, Piece, Rows, Ternary, Weights, parts};
use super::shaders::{ADAMW, CLIP, COPY, MUON, MUON_MOMENTUM, NORMALIZE, PROJECT};
use super::tally::Kind;
use crate::backend::{AdamW, Clip, Muon};

/// Weights of a workgroup of the kernels that round.
const ROUNDED: usize = 4096;

/// Numbers that an update counts: zeros, flips, weights.
const COUNTS: usize = 3;

/// The factor on a gradient: whether it is in the buffer, and if not, what it is.
struct Factor(bool, f32);

impl GpuBackend {
    /// Rounds a matrix for the first time.
    pub(super) fn project(&self, latent: &GpuBuffer, ternary: &Ternary) {
        for part in parts(latent.len, self.tuning.span) {
            let [codes, scales] = ternary_pieces(ternary, &part);
            let groups = self.gpu.grid(part.len().div_ceil(ROUNDED));
            let params = [part.len().div_ceil(4) as u32];
            let pieces = [&codes, &scales, &latent.piece(part)];
            self.run(&PROJECT, &ternary.constants(), &pieces, &params, groups);
        }
    }

    /// See [`crate::backend::Backend::adamw`].
    pub(super) fn update_adamw(
        &mut self,
        w: &GpuMatrix,
        grad: &GpuBuffer,
        moments: &[GpuBuffer],
        step: AdamW,
    ) {
        let [m, v] = moments else { panic!("AdamW keeps two moments") };
        let Factor(own, factor) = self.factor(grad, step.clip);
        let first = self.place(Kind::Counts, COUNTS);
        let (counts, at) = self.sums.window(first, COUNTS);
        let [keep, rate, root] = step.factors();
        let floats = [factor, step.beta1, step.beta2, keep, rate, root, step.eps].map(f32::to_bits);
        for part in parts(w.latent.len, self.tuning.span) {
            let mut params = [at as u32; 10];
            params[..2].copy_from_slice(&[part.len().div_ceil(4) as u32, u32::from(own)]);
            params[2..9].copy_from_slice(&floats);
            let [codes, scales] = self.codes_of(w, &part);
            let [latent, grad, m, v] = [&w.latent, grad, m, v].map(|buffer| buffer.piece(part.clone()));
            let pieces = [&latent, &grad, &m, &v, &codes, &scales, &counts, &self.clip.all()];
            let groups = self.gpu.grid(part.len().div_ceil(ROUNDED));
            self.run(&ADAMW, &constants(w), &pieces, &params, groups);
        }
    }

    /// See [`crate::backend::Backend::muon`].
    pub(super) fn update_muon(
        &mut self,
        w: &GpuMatrix,
        grad: &GpuBuffer,
        momentum: &[GpuBuffer],
        step: Muon,
    ) {
        let [momentum] = momentum else { panic!("Muon keeps one moment") };
        let Factor(own, factor) = self.factor(grad, step.clip);
        let first = self.place(Kind::Counts, COUNTS);
        for part in parts(grad.len, self.tuning.span) {
            let quads = part.len().div_ceil(4);
            let params = [quads as u32, u32::from(own), factor.to_bits(), step.momentum.to_bits()];
            let pieces = [&grad.piece(part.clone()), &momentum.piece(part), &self.clip.all()];
            self.run(&MUON_MOMENTUM, &[], &pieces, &params, self.gpu.grid(quads.div_ceil(256)));
        }
        let direction = self.orthogonalize(grad, w.rows, w.cols, step.iterations);
        let [keep, rate] = step.factors(w.rows, w.cols);
        let (counts, at) = self.sums.window(first, COUNTS);
        for part in parts(w.latent.len, self.tuning.span) {
            let quads = part.len().div_ceil(4) as u32;
            let params = [quads, u32::from(own), keep.to_bits(), rate.to_bits(), at as u32];
            let [codes, scales] = self.codes_of(w, &part);
            let [latent, grad, direction] =
                [&w.latent, grad, &direction].map(|buffer| buffer.piece(part.clone()));
            let pieces = [&latent, &grad, &direction, &codes, &scales, &counts, &self.clip.all()];
            let groups = self.gpu.grid(part.len().div_ceil(ROUNDED));
            self.run(&MUON, &constants(w), &pieces, &params, groups);
        }
    }

    /// `x <- a x + (b A + c A^2) x` with `A = x x^T`, from `x = g / |g|`; from the right, with `A = x^T x`, for a tall
    /// matrix.
    fn orthogonalize(&mut self, g: &GpuBuffer, rows: usize, cols: usize, iterations: usize) -> GpuBuffer {
        let [a, b, c] = Muon::COEFFICIENTS;
        let n = rows.min(cols);
        let [mut x, mut next] = ["muon x", "muon next"].map(|name| self.scratch(name, rows * cols));
        let [gram, square] = ["muon gram", "muon square"].map(|name| self.scratch(name, n * n));
        self.normalize(&x, g);
        let squares = Rows { rows: n, ..gram.rows(n) };
        for _ in 0..iterations {
            if rows <= cols {
                self.nt(squares, x.rows(cols), Weights::dense(&x, cols), 1.0);
            } else {
                self.tn(squares, x.rows(cols), x.rows(cols), false);
            }
            self.elementwise(&COPY, &[&square, &gram], &[b.to_bits()]);
            self.nn(square.rows(n), squares, Weights::dense(&gram, n), true, c);
            self.elementwise(&COPY, &[&next, &x], &[a.to_bits()]);
            if rows <= cols {
                self.nn(next.rows(cols), square.rows(n), Weights::dense(&x, cols), true, 1.0);
            } else {
                self.nn(next.rows(cols), x.rows(cols), Weights::dense(&square, n), true, 1.0);
            }
            std::mem::swap(&mut x, &mut next);
        }
        x
    }

    /// `out = x / |x|`.
    fn normalize(&mut self, out: &GpuBuffer, x: &GpuBuffer) {
        let sums = self.scratch("muon norm", x.len.div_ceil(1 << 14));
        let n = self.squares(&sums.all(), 0, x);
        for part in parts(x.len, self.tuning.span) {
            let quads = part.len().div_ceil(4);
            let pieces = [&out.piece(part.clone()), &x.piece(part), &sums.all()];
            self.run(
                &NORMALIZE,
                &[],
                &pieces,
                &[quads as u32, 0, n as u32],
                self.gpu.grid(quads.div_ceil(256)),
            );
        }
    }

    /// The factor that clips a gradient.
    fn factor(&mut self, grad: &GpuBuffer, clip: Clip) -> Factor {
        match clip {
            Clip::Factor(factor) => Factor(false, factor),
            Clip::Own(limit) => {
                let [first, sums] = self.tally_squares(grad);
                let (squares, at) = self.sums.window(first, sums);
                let params = [at as u32, sums as u32, (limit as f32).to_bits()];
                self.run(&CLIP, &[], &[&self.clip.all(), &squares], &params, [1, 1, 1]);
                Factor(true, 0.0)
            }
        }
    }

    /// Codes and scales of weights `part`; for a dense matrix something else that a kernel may be given.
    fn codes_of<'a>(&'a self, w: &'a GpuMatrix, part: &Range<usize>) -> [Piece<'a>; 2] {
        match &w.ternary {
            Some(ternary) => ternary_pieces(ternary, part),
            None => self.unused.each_ref().map(GpuBuffer::all),
        }
    }
}

fn ternary_pieces<'a>(ternary: &'a Ternary, part: &Range<usize>) -> [Piece<'a>; 2] {
    let (codes, group) = (part.start / 16..part.end / 16, ternary.projection.group);
    [ternary.codes.piece(codes), ternary.scales.piece(part.start / group..part.end / group)]
}

/// Constants of the updates.
fn constants(w: &GpuMatrix) -> Vec<(&'static str, f64)> {
    match &w.ternary {
        None => vec![("PROJECT", 0.0)],
        Some(ternary) => [("PROJECT", 1.0)].into_iter().chain(ternary.constants()).collect(),
    }
}
