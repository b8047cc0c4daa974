//! AVX2: activations to i8, 32 at a time, in the order that the kernels want.

#![expect(clippy::needless_range_loop, reason = "registers are numbered; closures are not compiled for AVX2")]

use std::arch::x86_64::*;

use super::super::{GROUP, PART, RoundedGroup, Scale};
use super::blocks::parts_side_by_side;
use crate::cpu::ops;

/// See [`super::super::round_group`].
#[target_feature(enable = "avx2")]
pub(in super::super) fn groups<'a>(
    out: &mut [RoundedGroup],
    x: impl Iterator<Item = &'a [f32; GROUP]>,
    scale: Scale,
) {
    for (out, x) in out.iter_mut().zip(x) {
        out.minus_sums = [0; 2];
        for (part, x) in x.as_chunks::<PART>().0.iter().enumerate() {
            round_part(out, part, x, scale);
        }
    }
}

/// Reorders the planes for `many_tokens.rs`.
#[target_feature(enable = "avx2")]
pub(in super::super) fn side_by_side(groups: &mut [RoundedGroup]) {
    for group in groups {
        for plane in &mut group.planes {
            *plane = bytemuck::cast(parts_side_by_side(bytemuck::cast(*plane)));
        }
    }
}

/// Values `32 * part..32 * (part + 1)` of a group.
#[inline]
#[target_feature(enable = "avx2")]
fn round_part(out: &mut RoundedGroup, part: usize, x: &[f32; PART], scale: Scale) {
    let x: [__m256; 4] = bytemuck::cast(*x);
    let bytes = to_bytes(&x, out.multiplier(part, largest(&x), scale));
    out.minus_sums[part / 2] -= sum(bytes) * i32::from(out.multipliers[part][0]);
    let planes: [[u8; 8]; 4] = bytemuck::cast(in_planes(bytes));
    for k in 0..4 {
        out.planes[k][8 * part..][..8].copy_from_slice(bytemuck::cast_slice(&planes[k]));
    }
}

/// Largest magnitude; magnitudes are ordered like their bits, with the non-numbers above all.
#[inline]
#[target_feature(enable = "avx2")]
fn largest(x: &[__m256; 4]) -> f32 {
    let magnitude = _mm256_set1_epi32(0x7fff_ffff);
    let mut largest = _mm256_setzero_si256();
    for k in 0..4 {
        largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(x[k]), magnitude));
    }
    let four = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256::<1>(largest));
    let two = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
    let one = _mm_max_epi32(two, _mm_shuffle_epi32::<1>(two));
    f32::from_bits(_mm_cvtsi128_si32(one) as u32)
}

/// The integers as packing instructions leave them: fours of neighbours 0 2 4 6 in the lower half, 1 3 5 7 in the upper.
#[inline]
#[target_feature(enable = "avx2")]
fn to_bytes(x: &[__m256; 4], inverse: f32) -> __m256i {
    let (inverse, offset) = (_mm256_set1_ps(inverse), _mm256_set1_ps(ops::ROUND));
    let mut integers = [_mm256_setzero_si256(); 4];
    for k in 0..4 {
        let shifted = _mm256_add_ps(_mm256_mul_ps(x[k], inverse), offset);
        integers[k] = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_castps_si256(offset));
    }
    let low = _mm256_packs_epi32(integers[0], integers[1]);
    _mm256_packs_epi16(low, _mm256_packs_epi32(integers[2], integers[3]))
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum(bytes: __m256i) -> i32 {
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    let four = _mm_add_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256::<1>(fours));
    let two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
}

/// Value 4j + k to byte j of plane k; planes of eight bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn in_planes(bytes: __m256i) -> __m256i {
    let order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let even = _mm_shuffle_epi8(_mm256_castsi256_si128(bytes), order);
    let odd = _mm_shuffle_epi8(_mm256_extracti128_si256::<1>(bytes), order);
    _mm256_set_m128i(_mm_unpackhi_epi8(even, odd), _mm_unpacklo_epi8(even, odd))
}
