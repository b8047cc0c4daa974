//! AVX2: blocks in base 3 (PTQ1_0, TQ1_0) to digits, in the order of the weights.
//!
//! Digit n of a byte is the whole part of three times `byte * 3^n mod 256` as a fraction of 256 (`ternary/trits.rs`): 0 up
//! to 85, 1 up to 170, 2 above. Fractions have 128 added here, so that instructions for signed numbers compare them.

use std::arch::x86_64::*;

use super::blocks::{load_from, load_half};

/// PTQ1_0: 16 bytes of five digits, then 8 of five and 2 of four.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn ptq1_0(block: &[u8]) -> [__m256i; 4] {
    let x_01 = and_thrice(fractions(_mm256_broadcastsi128_si256(load_half(block, 0))));
    let x_23 = nine_times(x_01);
    let x_4 = _mm256_castsi256_si128(nine_times(x_23));
    let tail = half_fractions(_mm_bsrli_si128::<4>(load_half(block, 12))); // bytes 16 to 27
    let y = _mm256_permute4x64_epi64::<0b00_00_00_00>(_mm256_castsi128_si256(tail));
    let y_01 = _mm256_permute4x64_epi64::<0b10_00_10_00>(and_thrice(y)); // 8 bytes of y, 8 of 3 y; twice
    let y_23 = nine_times(y_01);
    let y_4 = _mm256_castsi256_si128(nine_times(y_23));
    let last = _mm_shuffle_epi8(tail, _mm_set1_epi16(0x0908));
    let last = powers(last, _mm256_setr_epi16(1, 1, 3, 3, 9, 9, 27, 27, 0, 0, 0, 0, 0, 0, 0, 0));
    let (y_01, y_23) = (_mm256_castsi256_si128(y_01), _mm256_castsi256_si128(y_23));
    digits([x_01, x_23, _mm256_set_m128i(y_01, x_4), _mm256_set_m128i(_mm_unpacklo_epi64(y_4, last), y_23)])
}

/// TQ1_0, weights 0..128: the first four digits of 32 bytes; and the fractions that are left of these.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn tq1_0_first(block: &[u8]) -> ([__m256i; 4], __m256i) {
    let x = fractions(load_from(block, 0));
    let x_1 = three_times(x);
    let x_2 = three_times(x_1);
    let x_3 = three_times(x_2);
    (digits([x, x_1, x_2, x_3]), three_times(x_3))
}

/// The fractions that are left of the same bytes, where their first digits are not asked for.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn tq1_0_fifth(block: &[u8]) -> __m256i {
    nine_times(nine_times(fractions(load_from(block, 0))))
}

/// TQ1_0, weights 128..256: the fifth digit of those, 16 bytes of five, 4 of four.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn tq1_0_second(block: &[u8], x_4: __m256i) -> [__m256i; 4] {
    let z = fractions(_mm256_broadcastsi128_si256(load_half(block, 32)));
    let z_01 = and_thrice(z);
    let z_23 = nine_times(z_01);
    let z_4 = _mm256_castsi256_si128(nine_times(z_23));
    let last = half_fractions(_mm_shuffle_epi8(load_half(block, 38), _mm_set1_epi32(0x0d0c_0b0a))); // bytes 48 to 51
    let last = powers(last, _mm256_setr_epi16(1, 1, 1, 1, 3, 3, 3, 3, 9, 9, 9, 9, 27, 27, 27, 27));
    digits([x_4, z_01, z_23, _mm256_set_m128i(last, z_4)])
}

/// The digit that each fraction begins with.
#[inline]
#[target_feature(enable = "avx2")]
fn digits(mut fractions: [__m256i; 4]) -> [__m256i; 4] {
    for x in &mut fractions {
        let (above_85, above_170) =
            (_mm256_cmpgt_epi8(*x, _mm256_set1_epi8(-43)), _mm256_cmpgt_epi8(*x, _mm256_set1_epi8(42)));
        *x = _mm256_sub_epi8(_mm256_sub_epi8(_mm256_setzero_si256(), above_85), above_170);
    }
    fractions
}

/// Bytes with 128 added, and so three times these are three times the bytes with 128 added, modulo 256.
#[inline]
#[target_feature(enable = "avx2")]
fn fractions(bytes: __m256i) -> __m256i {
    _mm256_xor_si256(bytes, _mm256_set1_epi8(-128))
}

/// The same of 16 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn half_fractions(bytes: __m128i) -> __m128i {
    _mm_xor_si128(bytes, _mm_set1_epi8(-128))
}

/// x in the lower half, 3 x in the upper.
#[inline]
#[target_feature(enable = "avx2")]
fn and_thrice(x: __m256i) -> __m256i {
    let upper = _mm256_setr_epi64x(0, 0, -1, -1);
    _mm256_add_epi8(x, _mm256_and_si256(_mm256_add_epi8(x, x), upper))
}

#[inline]
#[target_feature(enable = "avx2")]
fn three_times(x: __m256i) -> __m256i {
    _mm256_add_epi8(x, _mm256_add_epi8(x, x))
}

#[inline]
#[target_feature(enable = "avx2")]
fn nine_times(x: __m256i) -> __m256i {
    three_times(three_times(x))
}

/// Each byte times its factor, modulo 256.
#[inline]
#[target_feature(enable = "avx2")]
fn powers(bytes: __m128i, factors: __m256i) -> __m128i {
    let products = _mm256_mullo_epi16(_mm256_cvtepu8_epi16(bytes), factors);
    let products = _mm256_and_si256(products, _mm256_set1_epi16(255));
    _mm_packus_epi16(_mm256_castsi256_si128(products), _mm256_extracti128_si256::<1>(products))
}
