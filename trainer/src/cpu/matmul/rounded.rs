//! Factors rounded to bf16, for processors without instructions for them: the numbers, and no gain in speed.

use rayon::prelude::*;

use bonsai_runtime::cpu::isa::vectorized;

use super::View;

/// A copy of what a view sees, rounded.
pub(super) struct Rounded<'a> {
    view: View<'a>,
    data: Vec<f32>,
}

impl<'a> Rounded<'a> {
    pub(super) fn new(view: View<'a>) -> Self {
        let mut data = vec![0.0; view.data.len()];
        let pieces = data.par_chunks_mut(1 << 16).zip(view.data.par_chunks(1 << 16));
        pieces.for_each(|(out, x)| {
            vectorized(|| out.iter_mut().zip(x).for_each(|(out, &x)| *out = to_bf16(x)))
        });
        Self { view, data }
    }

    pub(super) fn view(&self) -> View<'_> {
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
