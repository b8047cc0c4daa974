//! [`softmax`](super::super::softmax) by AVX2, operation for operation: the compiler makes scalar code of the plain
//! loops' sum and branches of their largest number, which took longer than the products. Two rows go step by step
//! together: each step waits for the one before.

use std::arch::x86_64::*;

use super::super::softmax::{RoundedWeights, from_ordered, larger};
use super::super::{FRONT, TILE};
use super::WIDTH;
use crate::cpu::ops::{self, ROUND, exponential as exp};

/// The scores or weights of a tile.
type Vectors = [__m256; TILE / WIDTH];

/// See [`weigh_rows`](super::super::softmax::weigh_rows).
#[target_feature(enable = "avx2,f16c")]
pub(in super::super) fn weigh<const R: usize>(
    scores: &mut [[f32; TILE]; R],
    scale: f32,
    seen: [usize; R],
    sums: &mut [&mut [f32]; R],
) {
    let mut rows = [[_mm256_setzero_ps(); TILE / WIDTH]; R];
    for r in 0..R {
        let row: Vectors = bytemuck::cast(scores[r]);
        for v in 0..row.len() {
            rows[r][v] = _mm256_mul_ps(row[v], _mm256_set1_ps(scale));
        }
    }
    exponents(&mut rows, seen, sums);
    for r in 0..R {
        scores[r] = bytemuck::cast(rows[r]);
    }
}

/// See [`weigh_int8_rows`](super::super::softmax::weigh_int8_rows).
#[target_feature(enable = "avx2,f16c")]
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
        let products: [__m256i; TILE / WIDTH] = bytemuck::cast(products[r]);
        for v in 0..products.len() {
            let scale = _mm256_mul_ps(keys[v], _mm256_set1_ps(scales[r]));
            rows[r][v] = _mm256_mul_ps(_mm256_cvtepi32_ps(products[v]), scale);
        }
    }
    exponents(&mut rows, seen, sums);
    for r in 0..R {
        for v in 0..values.len() {
            // What the cache forgot may have any scale.
            rows[r][v] = _mm256_and_ps(_mm256_mul_ps(rows[r][v], values[v]), counts(v, seen[r]));
        }
    }
    let mut out = [0.0; R];
    for r in 0..R {
        out[r] = round(&rows[r], &mut weights[r]);
    }
    out
}

/// Scores become weights: `e^(score - largest)`, 0 behind those seen.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn exponents<const R: usize>(rows: &mut [Vectors; R], seen: [usize; R], sums: &mut [&mut [f32]; R]) {
    let mut shrinks = [1.0; R];
    for r in 0..R {
        if seen[r] < TILE {
            for (v, score) in rows[r].iter_mut().enumerate() {
                *score = _mm256_blendv_ps(_mm256_set1_ps(f32::NEG_INFINITY), *score, counts(v, seen[r]));
            }
        }
        let new = larger(sums[r][0], largest_of(&rows[r]));
        let change = sums[r][0] - new;
        if change != 0.0 {
            shrinks[r] = ops::exp(change); // rarely: a tile seldom brings a larger one
        }
        sums[r][0] = new;
    }
    for r in 0..R {
        for score in &mut rows[r] {
            *score = exp(_mm256_sub_ps(*score, _mm256_set1_ps(sums[r][0])));
        }
    }
    for r in 0..R {
        sums[r][1] = sums[r][1] * shrinks[r] + sum(&rows[r]);
        if shrinks[r] != 1.0 {
            sums[r][FRONT..].iter_mut().for_each(|sum| *sum *= shrinks[r]);
        }
    }
}

/// All bits in the lanes of vector `v` whose position counts.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn counts(v: usize, seen: usize) -> __m256 {
    let behind = _mm256_set1_epi32(seen as i32 - (v * WIDTH) as i32); // at most TILE
    _mm256_castsi256_ps(_mm256_cmpgt_epi32(behind, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)))
}

/// The largest number, compared by their bits like the plain loops do.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn largest_of(scores: &Vectors) -> f32 {
    let mut largest = _mm256_set1_epi32(i32::MIN);
    for &score in scores {
        let bits = _mm256_castps_si256(score);
        let turn = _mm256_srli_epi32::<1>(_mm256_srai_epi32::<31>(bits));
        largest = _mm256_max_epi32(largest, _mm256_xor_si256(bits, turn));
    }
    from_ordered(max_lane(largest))
}

/// The largest of eight integers.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn max_lane(x: __m256i) -> i32 {
    let x = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_max_epi32(x, _mm_shuffle_epi32::<0b_01_00_11_10>(x));
    _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32::<0b_10_11_00_01>(x)))
}

/// See [`ops::sum`], whose order this is.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn sum([a, b, c, d]: &Vectors) -> f32 {
    let eight = _mm256_add_ps(_mm256_add_ps(*a, *c), _mm256_add_ps(*b, *d));
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// See [`ops::exp`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn exp(x: __m256) -> __m256 {
    let all = |x| _mm256_set1_ps(x);
    let bounded = _mm256_min_ps(all(exp::MOST), _mm256_max_ps(all(exp::LEAST), x));
    let rounded = _mm256_add_ps(_mm256_mul_ps(bounded, all(std::f32::consts::LOG2_E)), all(ROUND));
    let n = _mm256_sub_epi32(_mm256_castps_si256(rounded), _mm256_castps_si256(all(ROUND)));
    let n_float = _mm256_sub_ps(rounded, all(ROUND));
    let r = _mm256_sub_ps(bounded, _mm256_mul_ps(n_float, all(exp::LN_2_HIGH)));
    let r = _mm256_sub_ps(r, _mm256_mul_ps(n_float, all(exp::LN_2_LOW)));
    let mut series = all(exp::SERIES[0]);
    for factor in &exp::SERIES[1..] {
        series = _mm256_add_ps(_mm256_mul_ps(series, r), all(*factor));
    }
    let e_r = _mm256_add_ps(_mm256_mul_ps(_mm256_mul_ps(series, r), r), r);
    let e_r = _mm256_add_ps(e_r, all(1.0));
    let half = _mm256_srai_epi32::<1>(n);
    let result =
        _mm256_mul_ps(_mm256_mul_ps(e_r, power_of_two(half)), power_of_two(_mm256_sub_epi32(n, half)));
    _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, all(exp::SMALLEST)), result)
}

/// 2^n for n in -126..=127.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn power_of_two(n: __m256i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))))
}

/// See [`ops::round`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn round(x: &Vectors, out: &mut RoundedWeights) -> f32 {
    let mut largest = _mm256_setzero_si256();
    for &x in x {
        largest =
            _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(i32::MAX)));
    }
    let (scale, inverse) = ops::rounding(f32::from_bits(max_lane(largest) as u32), f32::from(i16::MAX));
    if scale.is_nan() {
        *out = [[0; 2]; TILE / 2];
        return scale;
    }
    let mut integers = [_mm256_setzero_si256(); TILE / WIDTH];
    for v in 0..x.len() {
        let moved = _mm256_add_ps(_mm256_mul_ps(x[v], _mm256_set1_ps(inverse)), _mm256_set1_ps(ROUND));
        integers[v] =
            _mm256_sub_epi32(_mm256_castps_si256(moved), _mm256_castps_si256(_mm256_set1_ps(ROUND)));
    }
    for (v, out) in out.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
        let pairs = _mm256_packs_epi32(integers[2 * v], integers[2 * v + 1]); // half by half
        *out = bytemuck::cast(_mm256_permute4x64_epi64::<0b_11_01_10_00>(pairs));
    }
    scale
}
