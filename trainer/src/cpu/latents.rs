//! Latent weights in memory: a piece at a time as f32, and back.

use half::bf16;

use super::noise::{Noise, round_bf16};
use crate::formats::{Latents, widened};

/// A piece of a tensor's latent weights.
pub(super) enum Chunk<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
}

impl Latents {
    /// Pieces of `size` weights.
    pub(super) fn chunks_mut(&mut self, size: usize) -> Vec<Chunk<'_>> {
        match self {
            Self::F32(values) => values.chunks_mut(size).map(Chunk::F32).collect(),
            Self::Bf16(values) => values.chunks_mut(size).map(Chunk::Bf16).collect(),
        }
    }

    /// Calls `each(out, w)` for the weights from `first` on.
    #[inline(always)]
    pub(super) fn zip(&self, first: usize, out: &mut [f32], each: impl Fn(&mut f32, f32)) {
        match self {
            Self::F32(w) => out.iter_mut().zip(&w[first..]).for_each(|(out, &w)| each(out, w)),
            Self::Bf16(w) => out.iter_mut().zip(&w[first..]).for_each(|(out, &w)| each(out, widened(w))),
        }
    }

    /// The gains of a norm, which are f32 whatever the format of matrices.
    pub(super) fn gains(&self) -> &[f32] {
        match self {
            Self::F32(values) => values,
            Self::Bf16(_) => panic!("gains of a norm are f32"),
        }
    }
}

impl Chunk<'_> {
    /// The weights from `first` on.
    #[inline(always)]
    pub(super) fn load(&self, first: usize, out: &mut [f32]) {
        match self {
            Self::F32(w) => out.copy_from_slice(&w[first..first + out.len()]),
            Self::Bf16(w) => out.iter_mut().zip(&w[first..]).for_each(|(out, &w)| *out = widened(w)),
        }
    }

    /// Rounds `values` into place and leaves in them what was kept; `place` is that of the first in the whole tensor.
    #[inline(always)]
    pub(super) fn store(&mut self, first: usize, values: &mut [f32], noise: Noise, place: usize) {
        match self {
            Self::F32(w) => w[first..first + values.len()].copy_from_slice(values),
            Self::Bf16(w) => {
                for (i, (w, value)) in w[first..].iter_mut().zip(values).enumerate() {
                    *w = round_bf16(*value, noise.bits(place + i));
                    *value = widened(*w);
                }
            }
        }
    }
}
