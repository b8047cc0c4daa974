//! AVX2: blocks of a file, in any packing, to 128 codes in the four planes.

#![expect(clippy::needless_range_loop, reason = "registers are numbered; closures are not compiled for AVX2")]

use std::arch::x86_64::*;

use super::super::RoundedGroup;
use super::base_3::{ptq1_0, tq1_0_fifth, tq1_0_first, tq1_0_second};

/// The four planes of the 128 weights `part` of a block. Its length tells the packing: 28 PTQ1_0, 34 Q2_0 and 36 two
/// blocks of its groups of 64, 54 TQ1_0, 66 TQ2_0.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn unpack<const BLOCK: usize>(block: &[u8; BLOCK], part: usize) -> [__m256i; 4] {
    match BLOCK {
        34 | 36 => two_bits(codes(block, part)),
        66 => planes(two_bits(codes(block, part))),
        28 => planes(ptq1_0(block)),
        _ if part == 0 => planes(tq1_0_first(block).0),
        _ => planes(tq1_0_second(block, tq1_0_fifth(block))),
    }
}

/// Packings whose bytes hold four neighbours, one of each plane, so that a kernel can use them as they lie in the file.
pub(in super::super) const fn in_planes(block: usize) -> bool {
    block == 34 || block == 36
}

/// The 32 bytes of codes of the 128 weights `part` of a block with four codes in a byte.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn codes<const BLOCK: usize>(block: &[u8; BLOCK], part: usize) -> __m256i {
    match BLOCK {
        34 => load_from(block, 2),
        36 => _mm256_set_m128i(load_half(block, 20), load_half(block, 2)),
        _ => load_from(block, 32 * part),
    }
}

/// Scales of both units of a group, by a table: a load, where the conversion is two instructions of a unit that is busy.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn scales_of<const BLOCK: usize>(
    block: &[u8; BLOCK],
    f16_to_f32: &[f32; 1 << 16],
) -> [f32; 2] {
    // Read as a whole: from two bytes LLVM makes two loads, a shift and an addition.
    let scale = |at: usize| f16_to_f32[usize::from(bytemuck::pod_read_unaligned::<u16>(&block[at..at + 2]))];
    match BLOCK {
        34 => [scale(0); 2],
        36 => [scale(0), scale(18)],
        _ => [scale(BLOCK - 2); 2],
    }
}

/// The four codes of each byte.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn two_bits(codes: __m256i) -> [__m256i; 4] {
    let mask = _mm256_set1_epi8(3);
    [
        _mm256_and_si256(codes, mask),
        _mm256_and_si256(_mm256_srli_epi16::<2>(codes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<4>(codes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<6>(codes), mask),
    ]
}

/// 128 codes in the order of the weights into the four planes: byte 4j+k to plane k, byte j.
#[inline]
#[target_feature(enable = "avx2")]
fn planes(codes: [__m256i; 4]) -> [__m256i; 4] {
    // In each half of a register: the bytes of plane 0, then those of plane 1, 2, 3, four of each.
    let gather =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    let [a, b, c, d] = codes;
    let (a, b) = (_mm256_shuffle_epi8(a, gather), _mm256_shuffle_epi8(b, gather));
    let (c, d) = (_mm256_shuffle_epi8(c, gather), _mm256_shuffle_epi8(d, gather));
    let (ab_01, ab_23) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let (cd_01, cd_23) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    // Each plane has its four-byte pieces 0 2 4 6 in the lower half and 1 3 5 7 in the upper.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    [
        _mm256_permutevar8x32_epi32(_mm256_unpacklo_epi64(ab_01, cd_01), order),
        _mm256_permutevar8x32_epi32(_mm256_unpackhi_epi64(ab_01, cd_01), order),
        _mm256_permutevar8x32_epi32(_mm256_unpacklo_epi64(ab_23, cd_23), order),
        _mm256_permutevar8x32_epi32(_mm256_unpackhi_epi64(ab_23, cd_23), order),
    ]
}

/// A plane whose fours of bytes are two of the 32 that share one multiplier and two of the 32 that share the other one, for both
/// units: so the 16-bit halves of a lane sum up products that share a multiplier.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn parts_side_by_side(plane: __m256i) -> __m256i {
    let order = _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
    _mm256_shuffle_epi8(plane, _mm256_broadcastsi128_si256(order))
}

/// The activations of a group in the order in which [`tq2_0_in_quarters`] has the codes: element 16l+4k+b at quarter k,
/// byte 4l+b, from element 4j+k at plane k, byte j. So in each lane l, bytes of four planes change places with bytes of
/// four quarters.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn in_quarters(x: &RoundedGroup) -> [__m256i; 4] {
    let [l0, l1, l2, l3] = by_lanes(x);
    let (l01, l01_upper) = (_mm256_unpacklo_epi32(l0, l1), _mm256_unpackhi_epi32(l0, l1));
    let (l23, l23_upper) = (_mm256_unpacklo_epi32(l2, l3), _mm256_unpackhi_epi32(l2, l3));
    [
        _mm256_unpacklo_epi64(l01, l23),
        _mm256_unpackhi_epi64(l01, l23),
        _mm256_unpacklo_epi64(l01_upper, l23_upper),
        _mm256_unpackhi_epi64(l01_upper, l23_upper),
    ]
}

/// All 16 activations of lanes 0 and 4, 1 and 5, 2 and 6, 3 and 7, in the order of the elements.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn by_lanes(x: &RoundedGroup) -> [__m256i; 4] {
    let [a, b, c, d]: [__m256i; 4] = bytemuck::cast(x.planes);
    let (ab, ab_upper) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
    let (cd, cd_upper) = (_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d));
    [
        _mm256_unpacklo_epi16(ab, cd),
        _mm256_unpackhi_epi16(ab, cd),
        _mm256_unpacklo_epi16(ab_upper, cd_upper),
        _mm256_unpackhi_epi16(ab_upper, cd_upper),
    ]
}

/// The 128 weights `part` of a block of TQ2_0 in quarters instead of planes: whatever four bytes a lane needs next, and
/// the shift of that lane.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn tq2_0_in_quarters<const BLOCK: usize>(
    block: &[u8; BLOCK],
    part: usize,
) -> [__m256i; 4] {
    let codes = codes(block, part);
    let (shifts, mask) = (_mm256_setr_epi32(0, 0, 2, 2, 4, 4, 6, 6), _mm256_set1_epi8(3));
    let mut planes = [_mm256_setzero_si256(); 4];
    for k in 0..4 {
        let fours = _mm256_add_epi32(_mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4), _mm256_set1_epi32(k as i32));
        let fours = _mm256_permutevar8x32_epi32(codes, fours);
        planes[k] = _mm256_and_si256(_mm256_srlv_epi32(fours, shifts), mask);
    }
    planes
}

/// 32 bytes of a slice from `at` on.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_from(bytes: &[u8], at: usize) -> __m256i {
    load::<u8, 32>(bytes[at..at + 32].as_array().expect("32 bytes"))
}

/// 16 bytes of a slice from `at` on.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn load_half(bytes: &[u8], at: usize) -> __m128i {
    let bytes: &[u8; 16] = bytes[at..at + 16].as_array().expect("16 bytes");
    #[expect(unsafe_code, reason = "an unaligned load takes a raw pointer")]
    // SAFETY: 16 readable bytes lie behind the reference; alignment is not asked for.
    unsafe {
        _mm_loadu_si128(bytes.as_ptr().cast())
    }
}

/// 32 bytes from anywhere. Not `loadu`: for a processor that it knows nothing of, LLVM splits that in two.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn load<T: bytemuck::Pod, const N: usize>(from: &[T; N]) -> __m256i {
    const { assert!(size_of::<T>() * N == 32) };
    #[expect(unsafe_code, reason = "an unaligned load takes a raw pointer")]
    // SAFETY: 32 readable bytes lie behind the reference, as asserted above; alignment is not asked for.
    unsafe {
        _mm256_lddqu_si256(from.as_ptr().cast())
    }
}
