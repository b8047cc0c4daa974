//! NEON for rounded caches: the two numbers of each pair are taken apart, widened to i16, and multiplied and added into
//! eight sums of i32.

use std::arch::aarch64::*;

use super::super::softmax::{RoundedWeights, weigh_rounded_rows};

const WIDTH: usize = 8;
const SCORES: usize = TILE / WIDTH;
const VECTORS: usize = 4;
const CHAINS: usize = 1;

type Sums = [int32x4_t; 2];
/// The first and the second numbers of eight pairs.
type Pairs = [int16x8_t; 2];

super::super::loops::rounded_kernels!(#[target_feature(enable = "neon")]);

#[target_feature(enable = "neon")]
pub(in super::super) fn weigh_rounded<const R: usize>(
    products: &[[i32; TILE]; R],
    scales: [f32; R],
    tile_scales: [&[f32; TILE]; 2],
    seen: [usize; R],
    sums: &mut [&mut [f32]; R],
    weights: &mut [RoundedWeights; R],
) -> [f32; R] {
    weigh_rounded_rows(products, scales, tile_scales, seen, sums, weights)
}

#[inline]
#[target_feature(enable = "neon")]
fn zero() -> Sums {
    [vdupq_n_s32(0); 2]
}

#[inline]
#[target_feature(enable = "neon")]
fn widen_int8(pairs: &[i8; 2 * WIDTH]) -> [Pairs; 1] {
    let both: int8x16_t = bytemuck::cast(*pairs);
    let (first, second) = (vuzp1q_s8(both, both), vuzp2q_s8(both, both));
    [[vmovl_s8(vget_low_s8(first)), vmovl_s8(vget_low_s8(second))]]
}

#[inline]
#[target_feature(enable = "neon")]
fn widen_int4(words: &[u32; WIDTH]) -> [Pairs; 4] {
    let [a, b]: [int16x8_t; 2] = bytemuck::cast(*words);
    let (first, second) = (vuzp1q_s16(a, b), vuzp2q_s16(a, b));
    [
        [vshrq_n_s16::<12>(vshlq_n_s16::<12>(first)), vshrq_n_s16::<12>(vshlq_n_s16::<12>(second))],
        [vshrq_n_s16::<12>(vshlq_n_s16::<8>(first)), vshrq_n_s16::<12>(vshlq_n_s16::<8>(second))],
        [vshrq_n_s16::<12>(vshlq_n_s16::<4>(first)), vshrq_n_s16::<12>(vshlq_n_s16::<4>(second))],
        [vshrq_n_s16::<12>(first), vshrq_n_s16::<12>(second)],
    ]
}

#[inline]
#[target_feature(enable = "neon")]
fn add_products(sums: &mut Sums, [first, second]: [i16; 2], [firsts, seconds]: Pairs) {
    sums[0] = vmlal_n_s16(sums[0], vget_low_s16(firsts), first);
    sums[1] = vmlal_high_n_s16(sums[1], firsts, first);
    sums[0] = vmlal_n_s16(sums[0], vget_low_s16(seconds), second);
    sums[1] = vmlal_high_n_s16(sums[1], seconds, second);
}

#[inline]
#[target_feature(enable = "neon")]
fn add_scaled(out: &mut [f32; WIDTH], sums: Sums, scale: f32) {
    let mut both: [float32x4_t; 2] = bytemuck::cast(*out);
    for n in 0..2 {
        both[n] = vaddq_f32(both[n], vmulq_n_f32(vcvtq_f32_s32(sums[n]), scale));
    }
    *out = bytemuck::cast(both);
}
