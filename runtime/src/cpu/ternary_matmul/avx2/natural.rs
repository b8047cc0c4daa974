//! AVX2, one token: packings whose 32 codes of a kind are neighbours (TQ2_0 and base 3), and so belong to two lanes, where
//! the definition's four planes hold four codes of each of eight. The sums of a lane come out at four places of a register
//! and are brought together after the multiplication. Bringing the codes together before it takes more instructions, or
//! `vpermd`, which is slow before Zen 2.
//!
//! Lanes come out in the order 0, 2, 4, 6, 1, 3, 5, 7: those of a half meet the same multipliers as those of the other half.

use std::arch::x86_64::*;

use super::super::RoundedGroup;
use super::blocks::by_lanes;
use super::{another, in_order, vector};

/// The activations of a group as [`sums_of_digits`] multiplies them: element 32k+j is byte j of vector k.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn natural(x: &RoundedGroup) -> [__m256i; 4] {
    let [l0, l1, l2, l3] = by_lanes(x);
    [
        _mm256_permute2x128_si256::<0x20>(l0, l1),
        _mm256_permute2x128_si256::<0x20>(l2, l3),
        _mm256_permute2x128_si256::<0x31>(l0, l1),
        _mm256_permute2x128_si256::<0x31>(l2, l3),
    ]
}

/// The same as [`sums_of_two_bits`] multiplies them: each vector and its neighbour have changed every second four.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn in_turns(x: &RoundedGroup) -> [__m256i; 4] {
    let [a, b, c, d] = natural(x);
    const ODD: i32 = 0b1010_1010;
    [
        _mm256_blend_epi32::<ODD>(a, b),
        _mm256_blend_epi32::<ODD>(b, a),
        _mm256_blend_epi32::<ODD>(c, d),
        _mm256_blend_epi32::<ODD>(d, c),
    ]
}

/// Sums of products of 128 digits with the activations, two 16-bit numbers of each lane.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sums_of_digits(digits: [__m256i; 4], x: &RoundedGroup) -> __m256i {
    let mut pairs = digits;
    for k in 0..4 {
        pairs[k] = _mm256_maddubs_epi16(digits[k], vector(x, k));
    }
    let [a, b, c, d] = pairs;
    let ab = _mm256_add_epi16(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let cd = _mm256_add_epi16(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    _mm256_add_epi16(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd))
}

/// The same of the two-bit codes of 128 weights in `R` rows; lanes 0, 4, 1 and 5 come out as they are, the others four
/// times too large.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sums_of_two_bits<const R: usize>(codes: [__m256i; R], x: &RoundedGroup) -> [__m256i; R] {
    let mut own = [x; R];
    for x in &mut own {
        *x = another(x);
    }
    let x = own;
    let (mut upper, mut sums) = (codes, codes);
    let k01 = two_planes(codes, x, 0);
    for r in 0..R {
        upper[r] = _mm256_srli_epi16::<4>(codes[r]);
    }
    in_order(&mut upper);
    let k23 = two_planes(upper, x, 2);
    for r in 0..R {
        // Planes 0 1 2 3, and planes 0 1 2 3 from the other half of theirs.
        sums[r] = _mm256_blend_epi32::<0b1100_1100>(k01[r], k23[r]);
        sums[r] = _mm256_add_epi16(sums[r], _mm256_alignr_epi8::<8>(k23[r], k01[r]));
    }
    in_order(&mut sums);
    sums
}

/// Products with two planes, whose codes lie in the lower halves of the bytes: fours of the even plane and fours of the odd
/// one in turns, the latter four times too large. Once each where it lies and once as its neighbour, which is rotated to
/// its place: two of a plane's four parts come out added, at most 2 * 4 * 2 * 3 * 127.
#[inline]
#[target_feature(enable = "avx2")]
fn two_planes<const R: usize>(codes: [__m256i; R], x: [&RoundedGroup; R], plane: usize) -> [__m256i; R] {
    let (straight, swapped) =
        (_mm256_set1_epi64x(0x0c0c_0c0c_0303_0303), _mm256_set1_epi64x(0x0303_0303_0c0c_0c0c));
    let (mut sums, mut more) = (codes, codes);
    for r in 0..R {
        more[r] = _mm256_maddubs_epi16(_mm256_and_si256(codes[r], swapped), vector(x[r], plane + 1));
    }
    in_order(&mut more);
    for r in 0..R {
        sums[r] = _mm256_maddubs_epi16(_mm256_and_si256(codes[r], straight), vector(x[r], plane));
        more[r] = _mm256_shuffle_epi32::<0b10_11_00_01>(more[r]);
    }
    in_order(&mut sums);
    in_order(&mut more);
    for r in 0..R {
        sums[r] = _mm256_add_epi16(sums[r], more[r]);
    }
    in_order(&mut sums);
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::ternary_matmul::avx2::blocks::{in_quarters, tq2_0_in_quarters};

    /// A group whose element e is e.
    fn counted() -> RoundedGroup {
        let mut x = RoundedGroup::ZERO;
        for e in 0..128 {
            x.planes[e % 4][e / 4] = e as i8;
        }
        x
    }

    /// The kernels that use quarters need AVX-VNNI or VBMI, so tests of results often pass them by.
    #[target_feature(enable = "avx2,f16c")]
    fn orders() {
        let x = counted();
        let [quarters, natural, turns]: [[[i8; 32]; 4]; 3] =
            [in_quarters(&x), natural(&x), in_turns(&x)].map(bytemuck::cast);
        let block: [u8; 66] = std::array::from_fn(|j| (j * 151 + j / 3) as u8);
        for part in 0..2 {
            let codes: [[u8; 32]; 4] = bytemuck::cast(tq2_0_in_quarters(&block, part));
            for e in 0..128 {
                let (k, at) = (e % 16 / 4, e / 16 * 4 + e % 4);
                assert_eq!(quarters[k][at], e as i8);
                assert_eq!(codes[k][at], (block[32 * part + e % 32] >> (e / 32 * 2)) & 3);
                assert_eq!(natural[e / 32][e % 32], e as i8);
                assert_eq!(turns[(e / 32) ^ (e / 4 % 2)][e % 32], e as i8);
            }
        }
    }

    #[test]
    fn orders_are_what_they_say() {
        assert!(
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c"),
            "a processor with AVX2"
        );
        #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
        // SAFETY: asked for above.
        unsafe {
            orders();
        }
    }
}
