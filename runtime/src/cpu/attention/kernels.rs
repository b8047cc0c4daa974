//! The kernels of attention by the instructions they are written for.

#[cfg(target_arch = "aarch64")]
use super::neon;
#[cfg(target_feature = "simd128")]
use super::simd128;
use super::softmax::RoundedWeights;
use super::{Numbers, Seen, TILE, scalar};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::cpu::isa::{Isa, Level};
use crate::cpu::kv_cache::{Rounded, RoundedTile};

/// Calls the function of this name that is written for the level of `$isa`.
macro_rules! at_level {
    ($isa:ident, $kernel:ident($($argument:ident),*)) => {
        match $isa.level() {
            Level::Scalar => scalar::$kernel($($argument),*),
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
            // SAFETY: an `Isa` of this level exists only where AVX2, F16C and AVX-512 F, BW, DQ, VL, VNNI were detected.
            Level::Avx512 | Level::Avx512Vbmi => unsafe { avx512::$kernel($($argument),*) },
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
            // SAFETY: an `Isa` above the scalar one exists only where AVX2 and F16C were detected.
            _ => unsafe { avx2::$kernel($($argument),*) },
            #[cfg(target_arch = "aarch64")]
            #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
            // SAFETY: an `Isa` above the scalar one exists only where NEON was detected.
            _ => unsafe { neon::$kernel($($argument),*) },
            #[cfg(target_feature = "simd128")]
            Level::Simd128 => simd128::$kernel($($argument),*),
        }
    };
}

/// The numbers as f32, which all of them are exactly.
pub(super) fn unpack(isa: Isa, out: &mut [f32], numbers: Numbers) {
    at_level!(isa, unpack(out, numbers))
}

/// Products of queries with the keys of a tile, not scaled yet.
pub(super) fn dots<const R: usize>(isa: Isa, q: [&[f32]; R], keys: Numbers) -> [[f32; TILE]; R] {
    at_level!(isa, dots(q, keys))
}

/// [`weigh_rows`](super::softmax::weigh_rows).
pub(super) fn weigh(isa: Isa, scores: &mut [[f32; TILE]], scale: f32, seen: Seen, sums: &mut [f32]) {
    at_level!(isa, weigh(scores, scale, seen, sums))
}

/// `sums[r] += weights[r] · values`, position after position.
pub(super) fn add_values<const R: usize>(
    isa: Isa,
    sums: [&mut [f32]; R],
    weights: [&[f32]; R],
    values: Numbers,
) {
    at_level!(isa, add_values(sums, weights, values))
}

/// Products of rounded queries with the keys of a tile, added to `start`; `fetch` says whether to ask for the next tile. A word of a query is repeated in all lanes of a
/// vector: two dimensions as i16 for int8, four as i8 for int4, whose keys count 8 more than they are.
pub(super) fn rounded_dots<const R: usize>(
    isa: Isa,
    out: [&mut [i32; TILE]; R],
    q: [&[u32]; R],
    start: [i32; R],
    keys: Rounded,
    fetch: bool,
) {
    at_level!(isa, rounded_dots(out, q, start, keys, fetch))
}

/// [`weigh_rounded_rows`](super::softmax::weigh_rounded_rows).
pub(super) fn weigh_rounded(
    isa: Isa,
    products: &mut [[i32; TILE]],
    scales: &[f32],
    tile: &RoundedTile,
    seen: Seen,
    sums: &mut [f32],
    weights: &mut [RoundedWeights],
) {
    at_level!(isa, weigh_rounded(products, scales, tile, seen, sums, weights))
}

/// `sums[r] += scales[r] * (start[r] + weights[r] · values)`, the words of the weights being those of positions.
pub(super) fn add_rounded_values<const R: usize>(
    isa: Isa,
    sums: [&mut [f32]; R],
    weights: [&[u32]; R],
    start: [i32; R],
    scales: [f32; R],
    values: Rounded,
    fetch: bool,
) {
    at_level!(isa, add_rounded_values(sums, weights, start, scales, values, fetch))
}
