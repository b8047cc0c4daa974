//! [`softmax`](super::super::softmax) by AVX-512, operation for operation. A row of a tile is two vectors, and rows go
//! step by step together, because each step waits for the one before: while it lasts, nothing asks for memory.

use std::arch::x86_64::*;

use super::super::softmax::{RoundedWeights, from_ordered, larger};
use super::super::{FRONT, TILE};
use super::WIDTH;
use crate::cpu::ops::{self, ROUND, exponential as exp};

/// The scores or weights of a tile.
type Vectors = [__m512; TILE / WIDTH];

/// See [`weigh_rows`](super::super::softmax::weigh_rows).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(in super::super) fn weigh<const R: usize>(
    scores: &mut [[f32; TILE]; R],
    scale: f32,
    seen: [usize; R],
    sums: &mut [&mut [f32]; R],
) {
    let mut rows = [[_mm512_setzero_ps(); TILE / WIDTH]; R];
    for r in 0..R {
        let row: Vectors = bytemuck::cast(scores[r]);
        for v in 0..row.len() {
            rows[r][v] = _mm512_mul_ps(row[v], _mm512_set1_ps(scale));
        }
    }
    exponents(&mut rows, seen, sums);
    for r in 0..R {
        scores[r] = bytemuck::cast(rows[r]);
    }
}

/// See [`weigh_int8_rows`](super::super::softmax::weigh_int8_rows).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(in super::super) fn weigh_int8<const R: usize>(
    products: &[[i32; TILE]; R],
    scales: [f32; R],
    [key_scales, value_scales]: [&[f32; TILE]; 2],
    seen: [usize; R],
    sums: &mut [&mut [f32]; R],
    weights: &mut [RoundedWeights; R],
) -> [f32; R] {
    let (keys, values): (Vectors, Vectors) = (bytemuck::cast(*key_scales), bytemuck::cast(*value_scales));
    let mut rows = [keys; R];
    for r in 0..R {
        let products: [__m512i; TILE / WIDTH] = bytemuck::cast(products[r]);
        for v in 0..products.len() {
            let scale = _mm512_mul_ps(keys[v], _mm512_set1_ps(scales[r]));
            rows[r][v] = _mm512_mul_ps(_mm512_cvtepi32_ps(products[v]), scale);
        }
    }
    exponents(&mut rows, seen, sums);
    for r in 0..R {
        for v in 0..values.len() {
            // What the cache forgot may have any scale.
            rows[r][v] = _mm512_maskz_mul_ps(counts(v, seen[r]), rows[r][v], values[v]);
        }
    }
    let mut out = [0.0; R];
    for r in 0..R {
        out[r] = round(rows[r], &mut weights[r]);
    }
    out
}

/// Scores become weights: `e^(score - largest)`, 0 behind those seen.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn exponents<const R: usize>(rows: &mut [Vectors; R], seen: [usize; R], sums: &mut [&mut [f32]; R]) {
    let mut shrinks = [1.0; R];
    for r in 0..R {
        for (v, score) in rows[r].iter_mut().enumerate() {
            *score = _mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), counts(v, seen[r]), *score);
        }
        let new = larger(sums[r][0], largest_of(rows[r]));
        let change = sums[r][0] - new;
        if change != 0.0 {
            shrinks[r] = ops::exp(change); // rarely: a tile seldom brings a larger one
        }
        sums[r][0] = new;
    }
    for r in 0..R {
        for score in &mut rows[r] {
            *score = exp(_mm512_sub_ps(*score, _mm512_set1_ps(sums[r][0])));
        }
    }
    for r in 0..R {
        sums[r][1] = sums[r][1] * shrinks[r] + sum(rows[r]);
        if shrinks[r] != 1.0 {
            sums[r][FRONT..].iter_mut().for_each(|sum| *sum *= shrinks[r]);
        }
    }
}

/// The lanes of vector `v` whose position counts.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn counts(v: usize, seen: usize) -> __mmask16 {
    (((1u64 << seen) - 1) >> (v * WIDTH)) as __mmask16 // seen is at most TILE
}

/// The largest number, compared by their bits like the plain loops do.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn largest_of([a, b]: Vectors) -> f32 {
    from_ordered(max_lane(_mm512_max_epi32(ordered(a), ordered(b))))
}

/// Integers of the same order as the floats.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn ordered(x: __m512) -> __m512i {
    let bits = _mm512_castps_si512(x);
    _mm512_xor_si512(bits, _mm512_srli_epi32::<1>(_mm512_srai_epi32::<31>(bits)))
}

/// The largest of sixteen integers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn max_lane(x: __m512i) -> i32 {
    let x = _mm256_max_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x));
    let x = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_max_epi32(x, _mm_shuffle_epi32::<0b_01_00_11_10>(x));
    _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32::<0b_10_11_00_01>(x)))
}

/// See [`ops::sum`], whose order this is.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn sum([a, b]: Vectors) -> f32 {
    let sixteen = _mm512_add_ps(a, b);
    let eight = _mm256_add_ps(_mm512_castps512_ps256(sixteen), _mm512_extractf32x8_ps::<1>(sixteen));
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// See [`ops::exp`]. One instruction multiplies by `2^n`: no result below the smallest normal number is kept, so that is
/// what the two factors there give.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn exp(x: __m512) -> __m512 {
    let all = |x| _mm512_set1_ps(x);
    let bounded = _mm512_min_ps(all(exp::MOST), _mm512_max_ps(all(exp::LEAST), x));
    let rounded = _mm512_add_ps(_mm512_mul_ps(bounded, all(std::f32::consts::LOG2_E)), all(ROUND));
    let n = _mm512_sub_ps(rounded, all(ROUND));
    let r = _mm512_sub_ps(bounded, _mm512_mul_ps(n, all(exp::LN_2_HIGH)));
    let r = _mm512_sub_ps(r, _mm512_mul_ps(n, all(exp::LN_2_LOW)));
    let mut series = all(exp::SERIES[0]);
    for factor in &exp::SERIES[1..] {
        series = _mm512_add_ps(_mm512_mul_ps(series, r), all(*factor));
    }
    let e_r = _mm512_add_ps(_mm512_mul_ps(_mm512_mul_ps(series, r), r), r);
    let e_r = _mm512_add_ps(e_r, all(1.0));
    let normal = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, all(exp::SMALLEST)); // NaN stays
    _mm512_maskz_scalef_ps(normal, e_r, n)
}

/// See [`ops::round`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn round([a, b]: Vectors, out: &mut RoundedWeights) -> f32 {
    let size = |x| _mm512_castps_si512(_mm512_abs_ps(x));
    let largest = max_lane(_mm512_max_epi32(size(a), size(b)));
    let (scale, inverse) = ops::rounding(f32::from_bits(largest as u32), f32::from(i16::MAX));
    if scale.is_nan() {
        *out = [[0; 2]; TILE / 2];
        return scale;
    }
    let (halves, _) = out.as_flattened_mut().as_chunks_mut::<WIDTH>();
    for (x, out) in [a, b].into_iter().zip(halves) {
        let moved = _mm512_add_ps(_mm512_mul_ps(x, _mm512_set1_ps(inverse)), _mm512_set1_ps(ROUND));
        let integers =
            _mm512_sub_epi32(_mm512_castps_si512(moved), _mm512_castps_si512(_mm512_set1_ps(ROUND)));
        *out = bytemuck::cast(_mm512_cvtepi32_epi16(integers));
    }
    scale
}
