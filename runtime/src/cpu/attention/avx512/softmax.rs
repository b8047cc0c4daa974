//! [`softmax`](super::super::softmax) by AVX-512, operation for operation. While it lasts, nothing asks for memory.

use std::arch::x86_64::*;

use super::super::softmax::from_ordered;
use super::{Floats, WIDTH};
use crate::cpu::ops::{self, ROUND, exponential as constants};

super::super::loops::softmax_kernels!(#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]);

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn all(x: f32) -> Floats {
    _mm512_set1_ps(x)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn mul(a: Floats, b: Floats) -> Floats {
    _mm512_mul_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn sub(a: Floats, b: Floats) -> Floats {
    _mm512_sub_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn from_products(products: &[i32; TILE]) -> Vectors {
    let [a, b]: [__m512i; TILE / WIDTH] = bytemuck::cast(*products);
    [_mm512_cvtepi32_ps(a), _mm512_cvtepi32_ps(b)]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn keep(x: Floats, v: usize, seen: usize, instead: Floats) -> Floats {
    let counts = ((1u64 << seen) - 1) >> (v * WIDTH); // seen is at most TILE
    _mm512_mask_mov_ps(instead, counts as __mmask16, x)
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
fn ordered(x: Floats) -> __m512i {
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
fn exp(x: Floats) -> Floats {
    let bounded = _mm512_min_ps(all(constants::MOST), _mm512_max_ps(all(constants::LEAST), x));
    let rounded = _mm512_add_ps(_mm512_mul_ps(bounded, all(std::f32::consts::LOG2_E)), all(ROUND));
    let n = _mm512_sub_ps(rounded, all(ROUND));
    let r = _mm512_sub_ps(bounded, _mm512_mul_ps(n, all(constants::LN_2_HIGH)));
    let r = _mm512_sub_ps(r, _mm512_mul_ps(n, all(constants::LN_2_LOW)));
    let mut series = all(constants::SERIES[0]);
    for factor in &constants::SERIES[1..] {
        series = _mm512_add_ps(_mm512_mul_ps(series, r), all(*factor));
    }
    let e_r = _mm512_add_ps(_mm512_mul_ps(_mm512_mul_ps(series, r), r), r);
    let e_r = _mm512_add_ps(e_r, all(1.0));
    let normal = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, all(constants::SMALLEST)); // NaN stays
    _mm512_maskz_scalef_ps(normal, e_r, n)
}

/// See [`ops::round`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn round([a, b]: Vectors, most: f32, out: &mut [i16; TILE]) -> f32 {
    let size = |x| _mm512_castps_si512(_mm512_abs_ps(x));
    let largest = max_lane(_mm512_max_epi32(size(a), size(b)));
    let (scale, inverse) = ops::rounding(f32::from_bits(largest as u32), most);
    if scale.is_nan() {
        *out = [0; TILE];
        return scale;
    }
    let (halves, _) = out.as_chunks_mut::<WIDTH>();
    for (x, out) in [a, b].into_iter().zip(halves) {
        let moved = _mm512_add_ps(_mm512_mul_ps(x, _mm512_set1_ps(inverse)), _mm512_set1_ps(ROUND));
        let integers =
            _mm512_sub_epi32(_mm512_castps_si512(moved), _mm512_castps_si512(_mm512_set1_ps(ROUND)));
        *out = bytemuck::cast(_mm512_cvtepi32_epi16(integers));
    }
    scale
}
