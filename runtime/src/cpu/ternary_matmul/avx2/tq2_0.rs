//! AVX2, one token, TQ2_0: byte j of 32 holds weights j, 32+j, 64+j and 96+j, which belong to four different lanes. So the
//! products come out with a lane's four parts beside each other, and are brought together after the multiplication, where
//! unpacking instructions do two things at once. Bringing the codes together before it takes `vpermd`, slow before Zen 2.

use std::arch::x86_64::*;

use super::super::RoundedGroup;
use super::blocks::packed;
use super::{MINUS_SUMS, SCALES, add_scaled, another, vector};

/// The lanes as [`lanes`] leaves them. Done twice, it is the order of the definition again.
const ORDER: [i32; 8] = [0, 4, 2, 6, 1, 5, 3, 7];

/// The activations of a group as a block has the weights: element 32k+j at plane k, byte j. What there is of each lane is
/// in the order of [`lanes`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn as_in_blocks(x: &RoundedGroup) -> RoundedGroup {
    let [a, b, c, d]: [__m256i; 4] = bytemuck::cast(x.planes);
    let (ab, ab_upper) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
    let (cd, cd_upper) = (_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d));
    // All 16 elements of lanes 0 and 4, 1 and 5, 2 and 6, 3 and 7.
    let (l0, l1) = (_mm256_unpacklo_epi16(ab, cd), _mm256_unpackhi_epi16(ab, cd));
    let (l2, l3) = (_mm256_unpacklo_epi16(ab_upper, cd_upper), _mm256_unpackhi_epi16(ab_upper, cd_upper));
    let planes = [
        _mm256_permute2x128_si256::<0x20>(l0, l1),
        _mm256_permute2x128_si256::<0x20>(l2, l3),
        _mm256_permute2x128_si256::<0x31>(l0, l1),
        _mm256_permute2x128_si256::<0x31>(l2, l3),
    ];
    let mut reordered = RoundedGroup { planes: bytemuck::cast(planes), ..*x };
    for (n, lane) in ORDER.into_iter().enumerate() {
        reordered.minus_sums[n] = x.minus_sums[lane as usize];
        reordered.scales[n] = x.scales[lane as usize];
    }
    reordered
}

/// Adds the products of the 128 weights `part` of a block with the activations, which are [`as_in_blocks`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn add_block<const BLOCK: usize>(
    sums: &mut __m256,
    block: &[u8; BLOCK],
    part: usize,
    f16_to_f32: &[f32; 1 << 16],
    x: &RoundedGroup,
) {
    let x = another(x);
    let (codes, scales) = packed(block, part, f16_to_f32);
    let scales = _mm256_mul_ps(scales, _mm256_castsi256_ps(vector(x, SCALES)));
    add_scaled(std::array::from_mut(sums), [lanes(codes, x)], [scales]);
}

/// The lanes of the definition from those of [`lanes`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn in_order_of_lanes(lanes: __m256) -> __m256 {
    _mm256_permutevar8x32_ps(lanes, bytemuck::cast(ORDER))
}

/// Products of the codes of 128 weights with the activations, less the sums of the activations. Planes 1 and 3 are four
/// times too large until a lane's parts are together, as in [`super::lanes_of_packed`].
#[inline]
#[target_feature(enable = "avx2")]
fn lanes(codes: __m256i, x: &RoundedGroup) -> __m256i {
    let (low, high) = (_mm256_set1_epi8(3), _mm256_set1_epi8(12));
    let upper = _mm256_srli_epi16::<4>(codes);
    let once = halves(product(codes, low, x, 0), product(upper, low, x, 2));
    let four_times = halves(product(codes, high, x, 1), product(upper, high, x, 3));
    let once_too = _mm256_srai_epi16::<2>(four_times);
    let pairs =
        _mm256_add_epi16(_mm256_unpacklo_epi64(once, once_too), _mm256_unpackhi_epi64(once, once_too));
    _mm256_add_epi32(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)), vector(x, MINUS_SUMS))
}

/// Products of the masked codes with a plane of the activations, neighbours added: at most 4 * 2 * 3 * 127.
#[inline]
#[target_feature(enable = "avx2")]
fn product(codes: __m256i, mask: __m256i, x: &RoundedGroup, plane: usize) -> __m256i {
    _mm256_maddubs_epi16(_mm256_and_si256(codes, mask), vector(x, plane))
}

/// Of each of two planes, the fours 0 and 2 added, then 1 and 3: two sums each, in turns.
#[inline]
#[target_feature(enable = "avx2")]
fn halves(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi16(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b))
}
