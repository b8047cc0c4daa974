//! Factors rounded to bf16, for processors without instructions for them: the numbers, and no gain in speed.

use rayon::prelude::*;

use bonsai_runtime::vectorized;

use super::{Target, Threads, View, in_f32};

/// `target = alpha * a b`, or `+=`.
pub(super) fn matmul(target: Target<'_>, a: View<'_>, b: View<'_>, alpha: f32, threads: Threads) {
    let (a, b) = (Rounded::new(a), Rounded::new(b));
    in_f32(target, a.view(), b.view(), alpha, threads);
}

/// A copy of what a view sees, rounded.
struct Rounded<'a> {
    view: View<'a>,
    data: Vec<f32>,
}

impl<'a> Rounded<'a> {
    fn new(view: View<'a>) -> Self {
        let mut data = vec![0.0; view.data.len()];
        let pieces = data.par_chunks_mut(1 << 16).zip(view.data.par_chunks(1 << 16));
        pieces
            .for_each(|(out, x)| vectorized!(out.iter_mut().zip(x).for_each(|(out, &x)| *out = to_bf16(x))));
        Self { view, data }
    }

    fn view(&self) -> View<'_> {
        View { data: &self.data, ..self.view }
    }
}

/// The nearest bf16, the even one of two. What is no number stays none.
#[inline(always)]
pub(super) fn to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    if x.is_nan() { x } else { f32::from_bits(nearest) }
}
