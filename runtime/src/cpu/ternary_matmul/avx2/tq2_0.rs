//! AVX2, one token, TQ2_0: byte j of 32 holds weights j, 32+j, 64+j and 96+j, which belong to four different lanes. So the
//! products come out with a lane's four parts beside each other, and are brought together after the multiplication, where
//! unpacking instructions do two things at once. Bringing the codes together before it takes `vpermd`, slow before Zen 2.

#![expect(clippy::needless_range_loop, reason = "registers are numbered; closures are not compiled for AVX2")]

use std::arch::x86_64::*;

use super::super::RoundedGroup;
use super::{MINUS_SUMS, another, in_order, vector};

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

/// The lanes of the definition from those of [`lanes`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn in_order_of_lanes(lanes: __m256) -> __m256 {
    _mm256_permutevar8x32_ps(lanes, bytemuck::cast(ORDER))
}

/// Products of the codes of 128 weights in `R` rows with the activations, less the sums of the activations. Planes 1 and 3
/// are four times too large until a lane's parts are together, as in [`super::lanes_of_packed`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn lanes<const R: usize>(codes: [__m256i; R], x: &RoundedGroup) -> [__m256i; R] {
    let (low, high) = (_mm256_set1_epi8(3), _mm256_set1_epi8(12));
    let mut own = [x; R];
    for x in &mut own {
        *x = another(x);
    }
    let x = own;
    let mut upper = codes;
    for r in 0..R {
        upper[r] = _mm256_srli_epi16::<4>(codes[r]);
    }
    in_order(&mut upper);
    let mut four_times = halves(products(codes, high, x, 1), products(upper, high, x, 3));
    let once = halves(products(codes, low, x, 0), products(upper, low, x, 2));
    for r in 0..R {
        four_times[r] = _mm256_srai_epi16::<2>(four_times[r]);
    }
    in_order(&mut four_times);
    let mut lanes = once;
    for r in 0..R {
        let even = _mm256_unpacklo_epi64(once[r], four_times[r]);
        let pairs = _mm256_add_epi16(even, _mm256_unpackhi_epi64(once[r], four_times[r]));
        lanes[r] = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    }
    in_order(&mut lanes);
    for r in 0..R {
        lanes[r] = _mm256_add_epi32(lanes[r], vector(x[r], MINUS_SUMS));
    }
    lanes
}

/// Products of the masked codes with a plane of the activations, neighbours added: at most 4 * 2 * 3 * 127.
#[inline]
#[target_feature(enable = "avx2")]
fn products<const R: usize>(
    codes: [__m256i; R],
    mask: __m256i,
    x: [&RoundedGroup; R],
    plane: usize,
) -> [__m256i; R] {
    let mut products = codes;
    for r in 0..R {
        products[r] = _mm256_maddubs_epi16(_mm256_and_si256(codes[r], mask), vector(x[r], plane));
    }
    in_order(&mut products);
    products
}

/// Of each of two planes, the fours 0 and 2 added, then 1 and 3: two sums each, in turns.
#[inline]
#[target_feature(enable = "avx2")]
fn halves<const R: usize>(a: [__m256i; R], b: [__m256i; R]) -> [__m256i; R] {
    let mut halves = a;
    for r in 0..R {
        halves[r] =
            _mm256_add_epi16(_mm256_unpacklo_epi32(a[r], b[r]), _mm256_unpackhi_epi32(a[r], b[r]));
    }
    in_order(&mut halves);
    halves
}
