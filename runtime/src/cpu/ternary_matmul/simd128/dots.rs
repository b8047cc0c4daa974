//! WebAssembly: products of codes and activations, in one of two ways that the build chooses.

use std::arch::wasm32::*;

use super::super::RoundedGroup;

/// 16 bytes of each plane: those of a unit.
pub(super) type Planes = [v128; 4];

/// Products of a unit of four rows with a token, less the sum of the activations, from what [`lanes`] gave for each row: a
/// lane for each.
///
/// Sums of 32 products fit i16, times four, too. A pair of i16 has the same multiplier, or (relaxed) its second is only
/// the sign of the first and gets none.
#[inline(always)]
pub(super) fn products(rows: &[v128; 4], x: &Spread) -> v128 {
    let [a, b, c, d] = *rows;
    let ab = i32x4_dot_i16x8(i16x8_add(even(a, b), odd(a, b)), x.multipliers);
    let cd = i32x4_dot_i16x8(i16x8_add(even(c, d), odd(c, d)), x.multipliers);
    i32x4_add(i32x4_add(even(ab, cd), odd(ab, cd)), x.minus_sum)
}

/// i32 lanes 0 and 2 of both.
#[inline(always)]
fn even(a: v128, b: v128) -> v128 {
    i32x4_shuffle::<0, 2, 4, 6>(a, b)
}

/// i32 lanes 1 and 3 of both.
#[inline(always)]
fn odd(a: v128, b: v128) -> v128 {
    i32x4_shuffle::<1, 3, 5, 7>(a, b)
}

#[cfg(feature = "relaxed-simd")]
pub(super) use relaxed::{Codes, NATURAL_SHIFT, Spread, codes, lanes, natural_codes};
#[cfg(not(feature = "relaxed-simd"))]
pub(super) use words::{Codes, NATURAL_SHIFT, Spread, codes, lanes, natural_codes};

/// There is no product of bytes, so even and odd bytes are multiplied as i16.
#[cfg(not(feature = "relaxed-simd"))]
mod words {
    use super::*;

    /// Even and odd bytes of each plane, widened.
    pub(in super::super) type Codes = [v128; 8];

    /// The natural packings' codes of planes 1 and 3 stay where they are in their four bits, and so are four times as
    /// large. The activations of planes 0 and 2 are made so, and all sums with them.
    pub(in super::super) const NATURAL_SHIFT: u32 = 2;

    /// Codes that [`lanes`] takes, from the planes.
    #[inline(always)]
    pub(in super::super) fn codes(planes: Planes) -> Codes {
        std::array::from_fn(|n| match n % 2 {
            0 => v128_and(planes[n / 2], i16x8_splat(0xff)),
            _ => u16x8_shr(planes[n / 2], 8),
        })
    }

    /// The four codes of each byte, some of them shifted.
    #[inline(always)]
    pub(in super::super) fn natural_codes(bytes: v128) -> Codes {
        std::array::from_fn(|n| {
            let (byte, plane) = (n % 2, n / 2);
            let nibbles = u16x8_shr(bytes, (8 * byte + plane / 2 * 4) as u32);
            v128_and(nibbles, i16x8_splat(if plane % 2 == 0 { 0b0011 } else { 0b1100 }))
        })
    }

    /// Products of a unit's codes with the activations `x` of `T` tokens: in i32 lane l, as two i16 to add, those of
    /// weights 16l..16l+15. They are 8 * 4 * 3 * 127 at most.
    #[inline(always)]
    pub(in super::super) fn lanes<const T: usize>(codes: &Codes, x: &[Spread; T]) -> [v128; T] {
        let mut sums = [i16x8_splat(0); T];
        for (n, &codes) in codes.iter().enumerate() {
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = i16x8_add(*sum, i16x8_mul(codes, x.words[n]));
            }
        }
        sums
    }

    /// The activations of a unit as [`lanes`] takes them.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Spread {
        words: Codes,
        pub(super) multipliers: v128,
        pub(super) minus_sum: v128,
    }

    impl Spread {
        #[inline(always)]
        pub(in super::super) fn new(x: &RoundedGroup, unit: usize, shift: u32) -> Self {
            let words = std::array::from_fn(|n| {
                let (byte, plane) = (n % 2, n / 2);
                let bytes = bytemuck::cast::<_, [v128; 2]>(x.planes[plane])[unit];
                let upper =
                    if byte == 0 { i16x8_shl(bytes, 8) } else { v128_and(bytes, i16x8_splat(0xff << 8)) };
                i16x8_shr(upper, if plane % 2 == 0 { 8 - shift } else { 8 })
            });
            let multipliers = bytemuck::cast::<_, [u64; 2]>(x.multipliers)[unit];
            Self {
                words,
                multipliers: u64x2_splat(multipliers),
                minus_sum: i32x4_splat(x.minus_sums[unit] << shift),
            }
        }
    }
}

/// Bytes are multiplied and four products added by one instruction.
#[cfg(feature = "relaxed-simd")]
mod relaxed {
    use super::*;

    /// The planes.
    pub(in super::super) type Codes = Planes;

    /// As they are: four times as large, activations would not be bytes.
    pub(in super::super) const NATURAL_SHIFT: u32 = 0;

    /// Codes that [`lanes`] takes, from the planes.
    #[inline(always)]
    pub(in super::super) fn codes(planes: Planes) -> Codes {
        planes
    }

    /// The four codes of each byte.
    #[inline(always)]
    pub(in super::super) fn natural_codes(bytes: v128) -> Codes {
        super::super::blocks::two_bits(bytes)
    }

    /// Products of a unit's codes with the activations `x` of `T` tokens: in lane l those of weights 16l..16l+15.
    ///
    /// The codes are the second operand, of which the instruction only promises to use the lower seven bits alike on
    /// every machine, and processors may add pairs of products in i16 with saturation. Codes are 0..=3, so the eighth
    /// bit is never set; pairs are at most 2 * 3 * 127, so nothing saturates. Where machines may differ they cannot here.
    #[inline]
    #[target_feature(enable = "relaxed-simd")]
    pub(in super::super) fn lanes<const T: usize>(codes: &Codes, x: &[Spread; T]) -> [v128; T] {
        let mut sums = [i32x4_splat(0); T];
        for (plane, &codes) in codes.iter().enumerate() {
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = i32x4_relaxed_dot_i8x16_i7x16_add(x.bytes[plane], codes, *sum);
            }
        }
        sums
    }

    /// The activations of a unit as [`lanes`] takes them.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Spread {
        bytes: Planes,
        pub(super) multipliers: v128,
        pub(super) minus_sum: v128,
    }

    impl Spread {
        #[inline(always)]
        pub(in super::super) fn new(x: &RoundedGroup, unit: usize, shift: u32) -> Self {
            let multipliers = bytemuck::cast::<_, [u64; 2]>(x.multipliers)[unit];
            Self {
                bytes: x.planes.map(|plane| bytemuck::cast::<_, [v128; 2]>(plane)[unit]),
                multipliers: v128_and(u64x2_splat(multipliers), i32x4_splat(0xffff)),
                minus_sum: i32x4_splat(x.minus_sums[unit] << shift),
            }
        }
    }
}
