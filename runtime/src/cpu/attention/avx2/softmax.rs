//! [`softmax`](super::super::softmax) by AVX2, operation for operation: the compiler makes scalar code of the plain
//! loops' sum and branches of their largest number, which took longer than the products.

use std::arch::x86_64::*;

use super::super::softmax::from_ordered;
use super::{Floats, WIDTH};
use crate::cpu::ops::{self, ROUND, exponential as constants};

super::super::loops::softmax_kernels!(#[target_feature(enable = "avx2,f16c")]);

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn all(x: f32) -> Floats {
    _mm256_set1_ps(x)
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn mul(a: Floats, b: Floats) -> Floats {
    _mm256_mul_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn sub(a: Floats, b: Floats) -> Floats {
    _mm256_sub_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn from_products(products: &[i32; TILE]) -> Vectors {
    let products: [__m256i; TILE / WIDTH] = bytemuck::cast(*products);
    let mut out = [all(0.0); TILE / WIDTH];
    for v in 0..products.len() {
        out[v] = _mm256_cvtepi32_ps(products[v]);
    }
    out
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn keep(x: Floats, v: usize, seen: usize, instead: Floats) -> Floats {
    let behind = _mm256_set1_epi32(seen as i32 - (v * WIDTH) as i32); // at most TILE
    let counts = _mm256_cmpgt_epi32(behind, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    _mm256_blendv_ps(instead, x, _mm256_castsi256_ps(counts))
}

/// The largest number, compared by their bits like the plain loops do.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn largest_of(scores: Vectors) -> f32 {
    let mut largest = _mm256_set1_epi32(i32::MIN);
    for score in scores {
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
fn sum([a, b, c, d]: Vectors) -> f32 {
    let eight = _mm256_add_ps(_mm256_add_ps(a, c), _mm256_add_ps(b, d));
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// See [`ops::exp`]; `x` is at most 8 or little more, where a single power of two will do.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn exp(x: Floats) -> Floats {
    let bounded = _mm256_max_ps(all(constants::LEAST), x);
    let rounded = _mm256_add_ps(_mm256_mul_ps(bounded, all(std::f32::consts::LOG2_E)), all(ROUND));
    let n = _mm256_sub_epi32(_mm256_castps_si256(rounded), _mm256_castps_si256(all(ROUND)));
    let n_float = _mm256_sub_ps(rounded, all(ROUND));
    let r = _mm256_sub_ps(bounded, _mm256_mul_ps(n_float, all(constants::LN_2_HIGH)));
    let r = _mm256_sub_ps(r, _mm256_mul_ps(n_float, all(constants::LN_2_LOW)));
    let mut series = all(constants::SERIES[0]);
    for factor in &constants::SERIES[1..] {
        series = _mm256_add_ps(_mm256_mul_ps(series, r), all(*factor));
    }
    let e_r = _mm256_add_ps(_mm256_mul_ps(_mm256_mul_ps(series, r), r), r);
    let e_r = _mm256_add_ps(e_r, all(1.0));
    let result = _mm256_mul_ps(e_r, power_of_two(n));
    _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, all(constants::SMALLEST)), result)
}

/// 2^n for n in -126..=127.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn power_of_two(n: __m256i) -> Floats {
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))))
}

/// See [`ops::round`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn round(x: Vectors, most: f32, out: &mut [i16; TILE]) -> f32 {
    let mut largest = _mm256_setzero_si256();
    for x in x {
        largest =
            _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(i32::MAX)));
    }
    let (scale, inverse) = ops::rounding(f32::from_bits(max_lane(largest) as u32), most);
    if scale.is_nan() {
        *out = [0; TILE];
        return scale;
    }
    let mut integers = [_mm256_setzero_si256(); TILE / WIDTH];
    for v in 0..x.len() {
        let moved = _mm256_add_ps(_mm256_mul_ps(x[v], _mm256_set1_ps(inverse)), _mm256_set1_ps(ROUND));
        integers[v] =
            _mm256_sub_epi32(_mm256_castps_si256(moved), _mm256_castps_si256(_mm256_set1_ps(ROUND)));
    }
    for (v, out) in out.as_chunks_mut::<{ 2 * WIDTH }>().0.iter_mut().enumerate() {
        let pairs = _mm256_packs_epi32(integers[2 * v], integers[2 * v + 1]); // half by half
        *out = bytemuck::cast(_mm256_permute4x64_epi64::<0b_11_01_10_00>(pairs));
    }
    scale
}
