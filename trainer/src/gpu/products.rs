//! Matrix products, cut so that no binding is larger than a device allows. Sums run over the inner dimension in order.

use super::GpuBackend;
use super::memory::{Piece, Rows, Weights, row_parts};
use super::shaders::{MATMUL, MATMUL_TILE};

/// Numbers of a side of the block that a workgroup computes.
const TILE: usize = 64;

/// One dispatch: `out (+)= alpha a b`, `[m, k] [k, n] -> [m, n]`.
struct Product<'a> {
    out: Piece<'a>,
    a: Piece<'a>,
    b: [Piece<'a>; 3],
    /// `m`, `n`, `k`
    size: [usize; 3],
    /// Of a, b and out.
    strides: [usize; 3],
    /// Columns of a and out to begin with.
    firsts: [usize; 2],
    a_k_major: bool,
    b_n_major: bool,
    /// How b is read: constants, and the share of its rounded weights.
    reader: ([(&'static str, f64); 3], f32),
    accumulate: bool,
    alpha: f32,
}

impl GpuBackend {
    fn product(&self, p: &Product) {
        let flag = |on: bool| f64::from(u8::from(on));
        let (reader, share) = p.reader;
        let orders = [("A_K_MAJOR", flag(p.a_k_major)), ("B_N_MAJOR", flag(p.b_n_major))];
        let constants = [&orders[..], &reader[..]].concat();
        let [m, n, k] = p.size;
        let sizes = [p.size, p.strides].concat().into_iter().chain(p.firsts).map(|n| n as u32);
        let rest = [u32::from(p.accumulate), p.alpha.to_bits(), share.to_bits()];
        let mut params = [0; 11];
        params.iter_mut().zip(sizes.chain(rest)).for_each(|(p, n)| *p = n);
        let groups = [n.div_ceil(TILE) as u32, m.div_ceil(TILE) as u32, 1];
        if k > 0 {
            let kernel = if self.tuning.tiled { &MATMUL_TILE } else { &MATMUL };
            let [numbers, scales, latents] = &p.b;
            self.run(kernel, &constants, &[&p.out, &p.a, numbers, scales, latents], &params, groups);
        }
    }

    /// `out (+)= alpha a b^T`: `[t, cols] [rows, cols]^T -> [t, rows]`.
    pub(super) fn nt(&self, out: Rows, a: Rows, b: Weights, alpha: f32) {
        for tokens in row_parts(a.rows, a.stride.max(out.stride), self.tuning.span) {
            for rows in b.parts(self.tuning.span) {
                self.product(&Product {
                    out: out.some(tokens.clone()).piece(),
                    a: a.some(tokens.clone()).piece(),
                    b: b.pieces(&rows),
                    size: [tokens.len(), rows.len(), b.cols],
                    strides: [a.stride, b.cols, out.stride],
                    firsts: [0, rows.start],
                    a_k_major: false,
                    b_n_major: true,
                    reader: b.reader(),
                    accumulate: false,
                    alpha,
                });
            }
        }
    }

    /// `out (+)= alpha a b`: `[t, rows] [rows, cols] -> [t, cols]`.
    pub(super) fn nn(&self, out: Rows, a: Rows, b: Weights, accumulate: bool, alpha: f32) {
        for tokens in row_parts(a.rows, a.stride.max(out.stride), self.tuning.span) {
            for rows in b.parts(self.tuning.span) {
                self.product(&Product {
                    out: out.some(tokens.clone()).piece(),
                    a: a.some(tokens.clone()).piece(),
                    b: b.pieces(&rows),
                    size: [tokens.len(), b.cols, rows.len()],
                    strides: [a.stride, b.cols, out.stride],
                    firsts: [rows.start, 0],
                    a_k_major: false,
                    b_n_major: false,
                    reader: b.reader(),
                    accumulate: accumulate || rows.start > 0,
                    alpha,
                });
            }
        }
    }

    /// `out (+)= a^T b`: `[t, rows]^T [t, cols] -> [rows, cols]`; `a` may have more columns than `out` rows.
    pub(super) fn tn(&self, out: Rows, a: Rows, b: Rows, accumulate: bool) {
        for rows in row_parts(out.rows, out.stride, self.tuning.span) {
            for tokens in row_parts(a.rows, a.stride.max(b.stride), self.tuning.span) {
                self.product(&Product {
                    out: out.some(rows.clone()).piece(),
                    a: a.some(tokens.clone()).piece(),
                    b: [b.some(tokens.clone()).piece(), b.buffer.few(), b.buffer.few()],
                    size: [rows.len(), b.stride, tokens.len()],
                    strides: [a.stride, b.stride, out.stride],
                    firsts: [rows.start, 0],
                    a_k_major: true,
                    b_n_major: false,
                    reader: Weights::dense(b.buffer, b.stride).reader(),
                    accumulate: accumulate || tokens.start > 0,
                    alpha: 1.0,
                });
            }
        }
    }
}
