//! Projection of latent weights to ternary codes, in the pass that updates them.

use bonsai_runtime::ternary::{CODES_PER_BYTE, TernaryMatrix, count_flips, count_zeros, project_group};
use bonsai_runtime::vectorized;
use half::f16;
use rayon::prelude::*;

use super::{CHUNK, PIECE};
use crate::backend::{Codes, Projection};
use crate::formats::Latents;

/// Weights of the largest group.
const LARGEST_GROUP: usize = 256;

/// The codes and scales that belong to one chunk of weights; `None` for a dense parameter.
pub(super) struct Groups<'a>(Option<Chunk<'a>>);

struct Chunk<'a> {
    codes: &'a mut [u8],
    scales: &'a mut [f16],
    projection: Projection,
}

impl<'a> Groups<'a> {
    /// Cuts a matrix of `len` weights into chunks of `chunk` weights.
    pub(super) fn of(
        ternary: &'a mut Option<TernaryMatrix>,
        projection: Option<Projection>,
        len: usize,
        chunk: usize,
    ) -> Vec<Self> {
        let (Some(ternary), Some(projection)) = (ternary, projection) else {
            return (0..len.div_ceil(chunk)).map(|_| Self(None)).collect();
        };
        assert!(
            chunk.is_multiple_of(projection.group),
            "a chunk of {chunk} weights in groups of {}",
            projection.group
        );
        let codes = ternary.codes.chunks_mut(chunk / CODES_PER_BYTE);
        let scales = ternary.scales.chunks_mut(chunk / projection.group);
        codes.zip(scales).map(|(codes, scales)| Self(Some(Chunk { codes, scales, projection }))).collect()
    }

    /// Rounds the weights `w`, the first of them number `first` of the chunk, and counts what changed.
    #[inline(always)]
    pub(super) fn project(&mut self, first: usize, w: &[f32]) -> Codes {
        let Some(Chunk { codes, scales, projection: Projection { group, rule } }) = &mut self.0 else {
            return Codes::default();
        };
        let (group, mut zeros, mut flips) = (*group, 0, 0);
        let mut fresh = [0u8; LARGEST_GROUP / CODES_PER_BYTE];
        let bytes = group / CODES_PER_BYTE;
        let fresh = &mut fresh[..bytes];
        for (n, w) in w.chunks_exact(group).enumerate() {
            let codes = &mut codes[first / CODES_PER_BYTE + n * bytes..][..bytes];
            scales[first / group + n] = project_group(w, *rule, fresh);
            zeros += count_zeros(fresh) as u64;
            flips += count_flips(codes, fresh) as u64;
            codes.copy_from_slice(fresh);
        }
        Codes { total: w.len() as u64, zeros, flips }
    }
}

/// Rounds a whole matrix.
pub(super) fn project(w: &Latents, rows: usize, cols: usize, projection: Projection) -> TernaryMatrix {
    let mut ternary = Some(TernaryMatrix::zeros(rows, cols, projection.group));
    let groups = Groups::of(&mut ternary, Some(projection), w.len(), CHUNK);
    groups.into_par_iter().enumerate().for_each(|(at, mut groups)| {
        vectorized!({
            let mut piece = [0.0; PIECE];
            for place in (at * CHUNK..w.len().min((at + 1) * CHUNK)).step_by(PIECE) {
                let piece = &mut piece[..PIECE.min(w.len() - place)];
                w.zip(place, piece, |out, w| *out = w);
                groups.project(place - at * CHUNK, piece);
            }
        });
    });
    ternary.expect("it was Some when its groups were taken")
}
