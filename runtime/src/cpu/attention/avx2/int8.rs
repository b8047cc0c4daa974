//! AVX2 for int8 caches: sixteen bytes become i16, and one instruction multiplies them by a repeated pair and adds the
//! two products: eight sums of i32.

use std::arch::x86_64::*;

use super::super::{TILE, scalar};
use super::fetch_next;

/// Sums of a vector.
const WIDTH: usize = 8;
/// Vectors of a row of sums that are kept in registers.
const VECTORS: usize = 4;

/// See [`int8_dots`](super::super::kernels::int8_dots).
#[target_feature(enable = "avx2,f16c")]
pub(in super::super) fn int8_dots<const R: usize>(q: [&[[i16; 2]]; R], keys: &[i8]) -> [[i32; TILE]; R] {
    let keys = keys.as_chunks::<{ 2 * TILE }>().0;
    assert!(q.iter().all(|q| q.len() == keys.len()));
    let dim = 2 * keys.len();
    let mut sums = [[_mm256_setzero_si256(); TILE / WIDTH]; R];
    for (d, keys) in keys.iter().enumerate() {
        let mut pairs = [_mm256_setzero_si256(); R]; // no closures: see `dots_as`
        for r in 0..R {
            pairs[r] = repeated(q[r][d]);
        }
        fetch_next(keys, dim);
        let (keys, _) = keys.as_chunks();
        for v in 0..TILE / WIDTH {
            let keys = widen(&keys[v]);
            for r in 0..R {
                sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(keys, pairs[r]));
            }
        }
    }
    let mut out = [[0; TILE]; R];
    for r in 0..R {
        out[r] = bytemuck::cast(sums[r]);
    }
    out
}

/// See [`add_int8_values`](super::super::kernels::add_int8_values).
#[target_feature(enable = "avx2,f16c")]
pub(in super::super) fn add_int8_values<const R: usize>(
    mut sums: [&mut [f32]; R],
    weights: [&[[i16; 2]]; R],
    scales: [f32; R],
    values: &[i8],
) {
    let dim = sums[0].len();
    let mut d = 0;
    while d + VECTORS * WIDTH <= dim {
        add_columns::<R, VECTORS>(&mut sums, weights, scales, values, d);
        d += VECTORS * WIDTH;
    }
    while d + WIDTH <= dim {
        add_columns::<R, 1>(&mut sums, weights, scales, values, d);
        d += WIDTH;
    }
    if d < dim {
        scalar::add_int8_columns(&mut sums, weights, scales, values, d);
    }
}

/// Dimensions from `d` on, as many as `V` vectors hold.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add_columns<const R: usize, const V: usize>(
    sums: &mut [&mut [f32]; R],
    weights: [&[[i16; 2]]; R],
    scales: [f32; R],
    values: &[i8],
    d: usize,
) {
    let dim = sums[0].len();
    let pairs = weights[0].len();
    assert!(weights.iter().all(|weights| weights.len() == pairs));
    assert!(values.len() >= 2 * pairs * dim && d + V * WIDTH <= dim);
    let mut totals = [[_mm256_setzero_si256(); V]; R];
    for j in 0..pairs {
        let values: &[[i8; 2 * WIDTH]; V] =
            values[2 * (j * dim + d)..].as_chunks().0.first_chunk().expect("asserted above");
        fetch_next(values.as_flattened(), dim);
        let mut factors = [_mm256_setzero_si256(); R];
        for r in 0..R {
            factors[r] = repeated(weights[r][j]);
        }
        for v in 0..V {
            let values = widen(&values[v]);
            for r in 0..R {
                totals[r][v] = _mm256_add_epi32(totals[r][v], _mm256_madd_epi16(values, factors[r]));
            }
        }
    }
    for r in 0..R {
        let (sums, _) = sums[r][d..].as_chunks_mut::<WIDTH>();
        for v in 0..V {
            let found = _mm256_mul_ps(_mm256_cvtepi32_ps(totals[r][v]), _mm256_set1_ps(scales[r]));
            sums[v] = bytemuck::cast(_mm256_add_ps(bytemuck::cast(sums[v]), found));
        }
    }
}

/// A pair in every lane.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn repeated(pair: [i16; 2]) -> __m256i {
    _mm256_set1_epi32(bytemuck::cast(pair))
}

/// Sixteen i8 as i16.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen(numbers: &[i8; 2 * WIDTH]) -> __m256i {
    _mm256_cvtepi8_epi16(bytemuck::cast(*numbers))
}
