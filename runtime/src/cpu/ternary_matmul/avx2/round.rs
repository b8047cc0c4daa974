//! AVX2: activations to i8, a group of 128 at a time, in the order that the kernels want.

use std::arch::x86_64::*;

use super::super::{GROUP, MULTIPLIERS, RoundedGroup, Scale};
use super::blocks::parts_side_by_side;
use crate::cpu::ops;

/// Groups of 32 with a multiplier each.
const PARTS: usize = 4;
/// A part of a group.
type Part = [__m256; 4];

/// See [`super::super::round_group`].
#[target_feature(enable = "avx2")]
pub(in super::super) fn groups<'a>(
    out: &mut [RoundedGroup],
    x: impl Iterator<Item = &'a [f32; GROUP]>,
    scale: Scale,
) {
    for (out, x) in out.iter_mut().zip(x) {
        let x: [Part; PARTS] = bytemuck::cast(*x);
        let multipliers = multipliers(largest(&x), scale);
        let inverse = _mm_div_ps(_mm_set1_ps(scale.inverse), _mm_cvtepi32_ps(multipliers));
        let inverse: [f32; PARTS] = bytemuck::cast(inverse);
        let mut bytes = [_mm256_setzero_si256(); PARTS];
        for part in 0..PARTS {
            bytes[part] = to_bytes(&x[part], inverse[part]);
        }
        out.planes = bytemuck::cast(planes(bytes));
        out.multipliers = bytemuck::cast(_mm_or_si128(multipliers, _mm_slli_epi32::<16>(multipliers)));
        let sums = _mm_mullo_epi32(sums(bytes), multipliers);
        let sums = _mm_add_epi32(sums, _mm_shuffle_epi32::<0b10_11_00_01>(sums)); // of both parts of a unit, twice
        let sums: [i32; PARTS] = bytemuck::cast(_mm_sub_epi32(_mm_setzero_si128(), sums));
        out.minus_sums = [sums[0], sums[2]];
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

/// The largest magnitude of each part; magnitudes are ordered like their bits, with the non-numbers above all.
#[inline]
#[target_feature(enable = "avx2")]
fn largest(x: &[Part; PARTS]) -> __m128 {
    let magnitude = _mm256_set1_epi32(0x7fff_ffff);
    let mut largest = [_mm256_setzero_si256(); PARTS];
    for part in 0..PARTS {
        for k in 0..4 {
            let x = _mm256_and_si256(_mm256_castps_si256(x[part][k]), magnitude);
            largest[part] = _mm256_max_epi32(largest[part], x);
        }
    }
    let [a, b, c, d] = largest;
    let ab = _mm256_max_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let cd = _mm256_max_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    let both = _mm256_max_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
    _mm_castsi128_ps(_mm_max_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256::<1>(both)))
}

/// See [`RoundedGroup::multiplier`].
#[inline]
#[target_feature(enable = "avx2")]
fn multipliers(largest: __m128, scale: Scale) -> __m128i {
    let exact = _mm_mul_ps(largest, _mm_set1_ps(scale.multipliers));
    let exact = _mm_min_ps(exact, _mm_set1_ps(MULTIPLIERS));
    let below = _mm_cvttps_epi32(exact);
    let less = _mm_castps_si128(_mm_cmplt_ps(_mm_cvtepi32_ps(below), exact)); // -1 where it is
    _mm_max_epi32(_mm_sub_epi32(below, less), _mm_set1_epi32(1))
}

/// The integers as packing instructions leave them: fours of neighbours 0 2 4 6 in the lower half, 1 3 5 7 in the upper.
#[inline]
#[target_feature(enable = "avx2")]
fn to_bytes(x: &Part, inverse: f32) -> __m256i {
    let (inverse, offset) = (_mm256_set1_ps(inverse), _mm256_set1_ps(ops::ROUND));
    let mut integers = [_mm256_setzero_si256(); 4];
    for k in 0..4 {
        let shifted = _mm256_add_ps(_mm256_mul_ps(x[k], inverse), offset);
        integers[k] = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_castps_si256(offset));
    }
    let low = _mm256_packs_epi32(integers[0], integers[1]);
    _mm256_packs_epi16(low, _mm256_packs_epi32(integers[2], integers[3]))
}

/// The sum of each part's integers.
#[inline]
#[target_feature(enable = "avx2")]
fn sums(bytes: [__m256i; PARTS]) -> __m128i {
    let mut sums = bytes;
    for part in 0..PARTS {
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes[part]);
        sums[part] = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    }
    let [a, b, c, d] = sums;
    let both = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256::<1>(both))
}

/// Value 4j + k to byte j of plane k.
#[inline]
#[target_feature(enable = "avx2")]
fn planes(mut parts: [__m256i; PARTS]) -> [__m256i; 4] {
    // The bytes of plane 0, then those of plane 1, 2, 3, four of each in each half.
    let order =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    for part in &mut parts {
        let gathered = _mm256_shuffle_epi8(*part, order);
        let (even, odd) = (_mm256_castsi256_si128(gathered), _mm256_extracti128_si256::<1>(gathered));
        // Eight bytes of plane 0 and eight of plane 1 in the lower half, of planes 2 and 3 in the upper.
        *part = _mm256_set_m128i(_mm_unpackhi_epi8(even, odd), _mm_unpacklo_epi8(even, odd));
    }
    let [a, b, c, d] = parts;
    let (ab_02, ab_13) = (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let (cd_02, cd_13) = (_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
    [
        _mm256_permute2x128_si256::<0x20>(ab_02, cd_02),
        _mm256_permute2x128_si256::<0x20>(ab_13, cd_13),
        _mm256_permute2x128_si256::<0x31>(ab_02, cd_02),
        _mm256_permute2x128_si256::<0x31>(ab_13, cd_13),
    ]
}
