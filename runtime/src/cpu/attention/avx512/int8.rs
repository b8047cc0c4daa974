//! AVX-512 with VNNI, for int8 caches: 32 bytes become i16, and one instruction multiplies them by a repeated pair and
//! adds both products to sixteen sums of i32. Keys and values then cost less than reading them.

use std::arch::x86_64::*;

use super::super::{TILE, scalar};
use super::{VECTORS, WIDTH, fetch_next};

/// See [`int8_dots`](super::super::kernels::int8_dots).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(in super::super) fn int8_dots<const R: usize>(q: [&[[i16; 2]]; R], keys: &[i8]) -> [[i32; TILE]; R] {
    let keys = keys.as_chunks::<{ 2 * TILE }>().0;
    assert!(q.iter().all(|q| q.len() == keys.len()));
    let mut sums = [[[_mm512_setzero_si512(); TILE / WIDTH]; R]; 2]; // of even and odd pairs: two chains of additions
    let (twos, rest) = keys.as_chunks::<2>();
    for (d, keys) in twos.iter().enumerate() {
        add_pair(&mut sums[0], q, &keys[0], 2 * d);
        add_pair(&mut sums[1], q, &keys[1], 2 * d + 1);
    }
    if let [keys] = rest {
        add_pair(&mut sums[0], q, keys, 2 * twos.len());
    }
    let mut out = [[0; TILE]; R];
    for r in 0..R {
        let [even, odd] = [sums[0][r], sums[1][r]];
        out[r] = bytemuck::cast([_mm512_add_epi32(even[0], odd[0]), _mm512_add_epi32(even[1], odd[1])]);
    }
    out
}

/// Adds the products of pair `d` of the dimensions.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_pair<const R: usize>(
    sums: &mut [[__m512i; TILE / WIDTH]; R],
    q: [&[[i16; 2]]; R],
    keys: &[i8; 2 * TILE],
    d: usize,
) {
    fetch_next(keys, tile_len(2 * q[0].len()));
    let (keys, _) = keys.as_chunks();
    for v in 0..TILE / WIDTH {
        let keys = widen(&keys[v]);
        for r in 0..R {
            sums[r][v] = _mm512_dpwssd_epi32(sums[r][v], keys, repeated(q[r][d]));
        }
    }
}

/// See [`add_int8_values`](super::super::kernels::add_int8_values).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
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
    let mut totals = [[_mm512_setzero_si512(); V]; R];
    for j in 0..pairs {
        let values: &[[i8; 2 * WIDTH]; V] =
            values[2 * (j * dim + d)..].as_chunks().0.first_chunk().expect("asserted above");
        fetch_next(values.as_flattened(), tile_len(dim));
        for v in 0..V {
            let values = widen(&values[v]);
            for r in 0..R {
                totals[r][v] = _mm512_dpwssd_epi32(totals[r][v], values, repeated(weights[r][j]));
            }
        }
    }
    for r in 0..R {
        let (sums, _) = sums[r][d..].as_chunks_mut::<WIDTH>();
        for v in 0..V {
            let found = _mm512_mul_ps(_mm512_cvtepi32_ps(totals[r][v]), _mm512_set1_ps(scales[r]));
            sums[v] = bytemuck::cast(_mm512_add_ps(bytemuck::cast(sums[v]), found));
        }
    }
}

/// Numbers from one place in a tile to the same in the next: keys, values, and the scales of both.
fn tile_len(dim: usize) -> usize {
    2 * TILE * (dim + size_of::<f32>())
}

/// A pair in every lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn repeated(pair: [i16; 2]) -> __m512i {
    _mm512_set1_epi32(bytemuck::cast(pair))
}

/// 32 i8 as i16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn widen(numbers: &[i8; 2 * WIDTH]) -> __m512i {
    _mm512_cvtepi8_epi16(bytemuck::cast(*numbers))
}
