//! WebAssembly: blocks of a file, in any packing, to 128 codes and the scale of each unit.

use std::arch::wasm32::*;

use super::dots::{Codes, NATURAL_SHIFT, Planes, codes, natural_codes};

/// Codes of the 128 weights `part` of a block. Its length tells the packing: 28 PTQ1_0, 34 Q2_0 and 36 two
/// blocks of its groups of 64, 54 TQ1_0, 66 TQ2_0.
#[inline(always)]
pub(super) fn unpack<const BLOCK: usize>(block: &[u8; BLOCK], part: usize) -> [Codes; 2] {
    let planes = match BLOCK {
        34 => return [natural_codes(load(block, 2)), natural_codes(load(block, 18))],
        36 => return [natural_codes(load(block, 2)), natural_codes(load(block, 20))],
        66 => tq2_0(load(block, 32 * part), load(block, 32 * part + 16)),
        28 => planes(digits(ptq1_0(block))),
        _ if part == 0 => planes(digits(tq1_0_first(block))),
        _ => planes(digits(tq1_0_second(block))),
    };
    let [low, high] = planes;
    [codes(low), codes(high)]
}

/// How far the products of a packing's codes are shifted.
pub(super) const fn shift(block: usize) -> u32 {
    if matches!(block, 34 | 36) { NATURAL_SHIFT } else { 0 }
}

/// The f16 bits of the scale of each unit of a block's groups.
#[inline(always)]
pub(super) fn scales<const BLOCK: usize>(block: &[u8; BLOCK]) -> [u32; 2] {
    let at = match BLOCK {
        34 => [0, 0],
        36 => [0, 18],
        _ => [BLOCK - 2; 2],
    };
    at.map(|at| u16::from_le_bytes([block[at], block[at + 1]]).into())
}

/// The f16 in the lower half of each lane as f32. Its exponent, moved into place, is 112 too small; a multiplication
/// mends that exactly, subnormal numbers included, and what is infinite or no number gets the exponent of those.
#[inline(always)]
pub(in crate::cpu) fn widen_f16(bits: v128) -> v128 {
    let sign = i32x4_shl(v128_and(bits, i32x4_splat(0x8000)), 16);
    let magnitude = i32x4_shl(v128_and(bits, i32x4_splat(0x7fff)), 13);
    let finite = f32x4_mul(magnitude, f32x4_splat(f32::from_bits((127 + 112) << 23)));
    let special = i32x4_ge(magnitude, i32x4_splat(0x7c00 << 13));
    let exponent = v128_and(special, i32x4_splat(0x7f80_0000));
    v128_or(v128_or(finite, exponent), sign)
}

/// The four codes of each byte.
#[inline(always)]
pub(super) fn two_bits(codes: v128) -> [v128; 4] {
    let mask = i8x16_splat(3);
    [
        v128_and(codes, mask),
        v128_and(u16x8_shr(codes, 2), mask),
        v128_and(u16x8_shr(codes, 4), mask),
        v128_and(u16x8_shr(codes, 6), mask),
    ]
}

/// 32 bytes with weights m, m + 32, m + 64 and m + 96 in byte m.
#[inline(always)]
fn tq2_0(low: v128, high: v128) -> [Planes; 2] {
    let (low, high) = (two_bits(low), two_bits(high));
    planes(std::array::from_fn(|n| if n % 2 == 0 { low[n / 2] } else { high[n / 2] }))
}

/// 128 codes in the order of the weights into the four planes: byte 4j+k to plane k, byte j.
#[inline(always)]
fn planes(codes: [v128; 8]) -> [Planes; 2] {
    let [a, b, c, d, e, f, g, h] = codes;
    [transposed([a, b, c, d]), transposed([e, f, g, h])]
}

/// 64 codes.
#[inline(always)]
fn transposed(codes: [v128; 4]) -> Planes {
    // In each register: the bytes of plane 0, then those of plane 1, 2, 3, four of each. Then 4 x 4 of these.
    let gather = u8x16(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let [a, b, c, d] = codes.map(|codes| i8x16_swizzle(codes, gather));
    let (ab_01, ab_23) = (i32x4_shuffle::<0, 4, 1, 5>(a, b), i32x4_shuffle::<2, 6, 3, 7>(a, b));
    let (cd_01, cd_23) = (i32x4_shuffle::<0, 4, 1, 5>(c, d), i32x4_shuffle::<2, 6, 3, 7>(c, d));
    [
        i64x2_shuffle::<0, 2>(ab_01, cd_01),
        i64x2_shuffle::<1, 3>(ab_01, cd_01),
        i64x2_shuffle::<0, 2>(ab_23, cd_23),
        i64x2_shuffle::<1, 3>(ab_23, cd_23),
    ]
}

/// Code n of a base-3 byte is the whole part of three times `byte * 3^n mod 256` as a fraction of 256
/// (`ternary/trits.rs`). These are the fractions; [`digits`] takes the whole parts.
///
/// PTQ1_0: 16 bytes of five codes, then 8 of five and 2 of four.
#[inline(always)]
fn ptq1_0(block: &[u8]) -> [v128; 8] {
    let x = powers_of(load(block, 0));
    // 8 bytes of y, 8 of 3 y; 9 y and 27 y; 81 y and the last two bytes, four times.
    let tail = load(block, 12);
    let y = i64x2_shuffle::<0, 0>(
        i8x16_shuffle::<4, 5, 6, 7, 8, 9, 10, 11, 0, 0, 0, 0, 0, 0, 0, 0>(tail, tail),
        tail,
    );
    let y_01 = i64x2_shuffle::<0, 3>(y, three_times(y));
    let y_23 = nine_times(y_01);
    let last = i16x8_mul(u16x8_load_two(tail), i16x8(1, 1, 3, 3, 9, 9, 27, 27));
    let last = u8x16_narrow_i16x8(v128_and(last, i16x8_splat(255)), i16x8_splat(0));
    let y_4 = i64x2_shuffle::<0, 2>(nine_times(y_23), last);
    [x[0], x[1], x[2], x[3], x[4], y_01, y_23, y_4]
}

/// Bytes 12 and 13 of a register, four times, as i16.
#[inline(always)]
fn u16x8_load_two(tail: v128) -> v128 {
    u16x8_extend_low_u8x16(i8x16_swizzle(tail, u8x16(12, 13, 12, 13, 12, 13, 12, 13, 0, 0, 0, 0, 0, 0, 0, 0)))
}

/// TQ1_0, weights 0..128: the first four codes of 32 bytes.
#[inline(always)]
fn tq1_0_first(block: &[u8]) -> [v128; 8] {
    let (low, high) = (powers_of(load(block, 0)), powers_of(load(block, 16)));
    [low[0], high[0], low[1], high[1], low[2], high[2], low[3], high[3]]
}

/// TQ1_0, weights 128..256: the fifth code of those, 16 bytes of five, 4 of four.
#[inline(always)]
fn tq1_0_second(block: &[u8]) -> [v128; 8] {
    let fifth = |at| nine_times(nine_times(load(block, at)));
    let z = powers_of(load(block, 32));
    let last =
        i8x16_swizzle(load(block, 38), u8x16(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13));
    let [low, high] = [u16x8_extend_low_u8x16(last), u16x8_extend_high_u8x16(last)];
    let low = i16x8_mul(low, i16x8(1, 1, 1, 1, 3, 3, 3, 3));
    let high = i16x8_mul(high, i16x8(9, 9, 9, 9, 27, 27, 27, 27));
    let byte = i16x8_splat(255);
    let last = u8x16_narrow_i16x8(v128_and(low, byte), v128_and(high, byte));
    [fifth(0), fifth(16), z[0], z[1], z[2], z[3], z[4], last]
}

/// The bytes times 1, 3, 9, 27, 81, modulo 256.
#[inline(always)]
fn powers_of(x: v128) -> [v128; 5] {
    let x_1 = three_times(x);
    let x_2 = three_times(x_1);
    let x_3 = three_times(x_2);
    [x, x_1, x_2, x_3, three_times(x_3)]
}

/// Whole parts of `3 x / 256`: the average of x and half of it is three quarters of x, whose upper two bits they are.
/// The instruction rounds up where whole parts need rounding down, so it averages complements.
#[inline(always)]
fn digits(x: [v128; 8]) -> [v128; 8] {
    let ones = i8x16_splat(-1);
    x.map(|x| {
        let complement = v128_not(x);
        let three_quarters = u8x16_avgr(complement, u8x16_avgr(complement, ones));
        v128_andnot(i8x16_splat(3), u16x8_shr(three_quarters, 6))
    })
}

#[inline(always)]
fn three_times(x: v128) -> v128 {
    i8x16_add(x, i8x16_add(x, x))
}

#[inline(always)]
fn nine_times(x: v128) -> v128 {
    three_times(three_times(x))
}

/// 16 bytes of a slice from `at` on.
#[inline(always)]
fn load(bytes: &[u8], at: usize) -> v128 {
    bytemuck::cast(*bytes[at..at + 16].as_array::<16>().expect("16 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_is_widened_as_it_should() {
        for bits in 0..=u16::MAX {
            let expected = half::f16::from_bits(bits).to_f32();
            let found = f32x4_extract_lane::<2>(widen_f16(u32x4_splat(bits.into())));
            let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
            assert!(same, "{bits:#06x}: {found}, expected {expected}");
        }
    }
}
