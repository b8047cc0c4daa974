//! `rope`: rotates pairs (i, i + head_dim/2) of each head by position times frequency.

use bonsai_runtime::config::Rope;
use bonsai_runtime::vectorized;
use rayon::prelude::*;

use crate::backend::AttentionShape;

/// cos and sin of every position, `[positions, head_dim / 2]`, made once.
#[derive(Default)]
pub(super) struct Angles {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    /// Angles of positions `0..seq`; computed in f64, as the runtime does.
    pub(super) fn new(rope: Rope, seq: usize, head_dim: usize) -> Self {
        let (frequencies, factor) = rope.frequencies(head_dim);
        let angle = |p: usize| frequencies.iter().map(move |f| p as f64 * f);
        let cos = (0..seq).flat_map(|p| angle(p).map(|a| (libm::cos(a) * factor) as f32)).collect();
        let sin = (0..seq).flat_map(|p| angle(p).map(|a| (libm::sin(a) * factor) as f32)).collect();
        Self { half: head_dim / 2, cos, sin }
    }

    fn holds(&self, shape: AttentionShape) -> bool {
        self.half == shape.head_dim / 2 && self.cos.len() >= shape.seq * self.half
    }

    /// Rotates each head of each token of `x`; `direction` 1 forward, -1 backward (the transposed rotation).
    pub(super) fn rotate(&self, x: &mut [f32], shape: AttentionShape, direction: f32) {
        assert!(self.holds(shape), "angles were made for other positions");
        let width = x.len() / (shape.batch * shape.seq);
        x.par_chunks_exact_mut(width).enumerate().for_each(|(token, x)| {
            let position = token % shape.seq;
            let at = position * self.half..(position + 1) * self.half;
            let (cos, sin) = (&self.cos[at.clone()], &self.sin[at]);
            vectorized!({
                x.chunks_exact_mut(2 * self.half).for_each(|head| rotate_head(head, cos, sin, direction))
            });
        });
    }
}

#[inline(always)]
fn rotate_head(head: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) {
    let (low, high) = head.split_at_mut(cos.len());
    for i in 0..cos.len() {
        let (a, b, s) = (low[i], high[i], sin[i] * direction);
        low[i] = a * cos[i] - b * s;
        high[i] = b * cos[i] + a * s;
    }
}
