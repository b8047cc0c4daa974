//! WebAssembly: byte-wise products of codes and activations, in one of two ways that the build chooses.

use std::arch::wasm32::*;

use super::super::RoundedGroup;

/// Half of a group: lanes 0-3 or 4-7, 16 bytes of each plane.
pub(super) type Planes = [v128; 4];

/// Products of 64 codes with the activations `x` of `T` tokens, less the sums of the activations: four lanes each.
///
/// The codes are the second operand, of which the instruction only promises to use the lower seven bits alike on every
/// machine, and processors may add pairs of products in i16 with saturation. Codes are 0..=3, so the eighth bit is never
/// set; pairs are at most 2 * 3 * 127, so nothing saturates. Where machines may differ they cannot here.
#[cfg(feature = "relaxed-simd")]
#[inline]
#[target_feature(enable = "relaxed-simd")]
pub(super) fn lanes<const T: usize>(codes: &Planes, x: &[Spread; T], half: usize) -> [v128; T] {
    let mut sums = [i32x4_splat(0); T];
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum = x.minus_sums[half];
    }
    for (plane, &codes) in codes.iter().enumerate() {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum = i32x4_relaxed_dot_i8x16_i7x16_add(x.bytes[half][plane], codes, *sum);
        }
    }
    sums
}

/// The activations of a group as [`lanes`] takes them.
#[cfg(feature = "relaxed-simd")]
#[derive(Clone, Copy)]
pub(super) struct Spread {
    bytes: [Planes; 2],
    minus_sums: [v128; 2],
    pub(super) scales: [v128; 2],
}

#[cfg(feature = "relaxed-simd")]
impl Spread {
    #[inline(always)]
    pub(super) fn new(x: &RoundedGroup) -> Self {
        let planes = x.planes.map(bytemuck::cast::<_, [v128; 2]>);
        Self {
            bytes: std::array::from_fn(|half| planes.map(|plane| plane[half])),
            minus_sums: bytemuck::cast(x.minus_sums),
            scales: bytemuck::cast(x.scales),
        }
    }
}

/// Products of 64 codes with the activations `x` of `T` tokens, less the sums of the activations: four lanes each.
///
/// There is no product of bytes, so even and odd bytes are multiplied as i16. Eight products are at most 8 * 3 * 127,
/// which fits; then i16 lanes 2l and 2l + 1 are added to i32 lane l.
#[cfg(not(feature = "relaxed-simd"))]
#[inline(always)]
pub(super) fn lanes<const T: usize>(codes: &Planes, x: &[Spread; T], half: usize) -> [v128; T] {
    let mut sums = [i16x8_splat(0); T];
    for (plane, &codes) in codes.iter().enumerate() {
        let even = v128_and(codes, i16x8_splat(0xff));
        let odd = u16x8_shr(codes, 8);
        for (sum, x) in sums.iter_mut().zip(x) {
            let [x_even, x_odd] = x.words[half][plane];
            *sum = i16x8_add(*sum, i16x8_add(i16x8_mul(even, x_even), i16x8_mul(odd, x_odd)));
        }
    }
    let mut lanes = sums;
    for (lanes, x) in lanes.iter_mut().zip(x) {
        *lanes = i32x4_add(i32x4_extadd_pairwise_i16x8(*lanes), x.minus_sums[half]);
    }
    lanes
}

/// The activations of a group as [`lanes`] takes them: even and odd bytes of each plane, widened.
#[cfg(not(feature = "relaxed-simd"))]
#[derive(Clone, Copy)]
pub(super) struct Spread {
    words: [[[v128; 2]; 4]; 2],
    minus_sums: [v128; 2],
    pub(super) scales: [v128; 2],
}

#[cfg(not(feature = "relaxed-simd"))]
impl Spread {
    #[inline(always)]
    pub(super) fn new(x: &RoundedGroup) -> Self {
        let planes = x.planes.map(bytemuck::cast::<_, [v128; 2]>);
        let widen = |bytes| [i16x8_shr(i16x8_shl(bytes, 8), 8), i16x8_shr(bytes, 8)];
        Self {
            words: std::array::from_fn(|half| planes.map(|plane| widen(plane[half]))),
            minus_sums: bytemuck::cast(x.minus_sums),
            scales: bytemuck::cast(x.scales),
        }
    }
}
