//! `linear`: activations times a projected matrix.

use rayon::prelude::*;

use bonsai_runtime::vectorized;

use super::matmul::{Target, Threads, View, matmul_in};
use super::{CpuMatrix, Scratch};
use crate::formats::Latents;

/// Rows of weights that one task unpacks at a time.
const UNPACK_ROWS: usize = 64;

impl CpuMatrix {
    /// Rows `first..first + n` of the weights that the forward pass sees, `[n, cols]`: the latent ones of a dense
    /// matrix in f32, or others, unpacked into `scratch`. The packed codes are an eighth of the bytes, so unpacking
    /// into the cache costs less than keeping an f32 copy of every matrix would.
    pub(super) fn weights<'a>(&'a self, first: usize, n: usize, scratch: &'a mut Scratch) -> &'a [f32] {
        if let (None, Latents::F32(latent)) = (&self.ternary, &self.latent) {
            return &latent[first * self.cols..(first + n) * self.cols];
        }
        let out = scratch.get(n * self.cols);
        out.par_chunks_mut(UNPACK_ROWS * self.cols).enumerate().for_each(|(i, out)| {
            vectorized!(self.read_rows(first + i * UNPACK_ROWS, out));
        });
        out
    }

    /// Rows of what the forward pass sees from row `first` on: latent weights of a dense matrix, `s t` of a ternary one, or
    /// its mixture with the latent weights while the ramp goes up.
    #[inline(always)]
    pub(super) fn read_rows(&self, first: usize, out: &mut [f32]) {
        let Some(ternary) = &self.ternary else {
            return self.latent.zip(first * self.cols, out, |x, w| *x = w);
        };
        ternary.read_rows(first, out);
        if self.ramp < 1.0 {
            let ramp = self.ramp;
            self.latent.zip(first * self.cols, out, |x, w| *x = (1.0 - ramp) * w + ramp * *x);
        }
    }
}

/// `y = x w^T`.
pub(super) fn linear(y: &mut [f32], x: &[f32], w: &CpuMatrix, scratch: &mut Scratch) {
    let (t, n, k) = (x.len() / w.cols, w.rows, w.cols);
    let weights = w.weights(0, n, scratch);
    matmul_in(
        w.compute,
        Target::new(y, t, n, n),
        View::new(x, t, k, k),
        View::new(weights, n, k, k).t(),
        1.0,
        Threads::All,
    );
}

/// `dx (+)= dy w`, `dw += dy^T x`.
pub(super) fn linear_backward(
    dx: &mut [f32],
    accumulate: bool,
    dw: &mut [f32],
    dy: &[f32],
    x: &[f32],
    w: &CpuMatrix,
    scratch: &mut Scratch,
) {
    let (t, n, k) = (x.len() / w.cols, w.rows, w.cols);
    let dy = View::new(dy, t, n, n);
    let weights = w.weights(0, n, scratch);
    matmul_in(
        w.compute,
        Target::new(dx, t, k, k).accumulate(accumulate),
        dy,
        View::new(weights, n, k, k),
        1.0,
        Threads::All,
    );
    matmul_in(
        w.compute,
        Target::new(dw, n, k, k).accumulate(true),
        dy.t(),
        View::new(x, t, k, k),
        1.0,
        Threads::All,
    );
}
