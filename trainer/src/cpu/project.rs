//! Projection of latent weights to ternary codes, in the pass that updates them.

use bonsai_runtime::ternary::{CODES_PER_BYTE, TernaryMatrix, count_flips, count_zeros, project_group};
use half::f16;
use rayon::prelude::*;

use crate::backend::{Codes, Projection};

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

    /// Rounds the chunk's weights and counts what changed.
    #[inline(always)]
    pub(super) fn project(self, w: &[f32]) -> Codes {
        let Some(Chunk { codes, scales, projection: Projection { group, rule } }) = self.0 else {
            return Codes::default();
        };
        let (mut zeros, mut flips) = (0, 0);
        let mut fresh = vec![0u8; group / CODES_PER_BYTE];
        for ((w, codes), scale) in
            w.chunks_exact(group).zip(codes.chunks_exact_mut(group / CODES_PER_BYTE)).zip(scales)
        {
            *scale = project_group(w, rule, &mut fresh);
            zeros += count_zeros(&fresh) as u64;
            flips += count_flips(codes, &fresh) as u64;
            codes.copy_from_slice(&fresh);
        }
        Codes { total: w.len() as u64, zeros, flips }
    }
}

/// Rounds a whole matrix.
pub(super) fn project(w: &[f32], rows: usize, cols: usize, projection: Projection) -> TernaryMatrix {
    const CHUNK: usize = 1 << 15;
    let mut ternary = Some(TernaryMatrix::zeros(rows, cols, projection.group));
    let groups = Groups::of(&mut ternary, Some(projection), w.len(), CHUNK);
    w.par_chunks(CHUNK).zip(groups).for_each(|(w, groups)| {
        bonsai_runtime::cpu::isa::vectorized(|| groups.project(w));
    });
    ternary.expect("it was Some when its groups were taken")
}
