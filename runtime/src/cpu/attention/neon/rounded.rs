//! NEON for rounded caches: of int8 the two numbers of each pair are taken apart, widened to i16, and multiplied and added
//! into eight sums of i32; of int4 four neighbours at a time.

use std::arch::aarch64::*;

use super::super::Seen;
use super::super::softmax::{RoundedWeights, weigh_rounded_rows};
use crate::cpu::kv_cache::RoundedTile;

const WIDTH: usize = 8;
const SCORES: usize = TILE / WIDTH;
const VECTORS: usize = 4;
const CHAINS: usize = 1;

type Sums = [int32x4_t; 2];
/// The first and the second numbers of eight pairs.
type Pairs = [int16x8_t; 2];
/// Eight times four numbers.
type Quads = [int8x16_t; 2];

super::super::loops::rounded_kernels!(#[target_feature(enable = "neon")]);

#[target_feature(enable = "neon")]
pub(in super::super) fn weigh_rounded(
    products: &mut [[i32; TILE]],
    scales: &[f32],
    tile: &RoundedTile,
    seen: Seen,
    sums: &mut [f32],
    weights: &mut [RoundedWeights],
) {
    weigh_rounded_rows(products, scales, tile, seen, sums, weights);
}

#[inline]
#[target_feature(enable = "neon")]
fn all(x: i32) -> Sums {
    [vdupq_n_s32(x); 2]
}

#[inline]
#[target_feature(enable = "neon")]
fn add(a: Sums, b: Sums) -> Sums {
    [vaddq_s32(a[0], b[0]), vaddq_s32(a[1], b[1])]
}

#[inline]
#[target_feature(enable = "neon")]
fn widen_int16(pairs: &[i16; 2 * WIDTH]) -> [Pairs; 1] {
    let [a, b]: [int16x8_t; 2] = bytemuck::cast(*pairs);
    [[vuzp1q_s16(a, b), vuzp2q_s16(a, b)]]
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
fn widen_int4(words: &[u32; WIDTH]) -> [Quads; 2] {
    let [a, b]: [uint8x16_t; 2] = bytemuck::cast(*words);
    let four = vdupq_n_u8(0xf);
    let low = [vreinterpretq_s8_u8(vandq_u8(a, four)), vreinterpretq_s8_u8(vandq_u8(b, four))];
    [low, [vreinterpretq_s8_u8(vshrq_n_u8::<4>(a)), vreinterpretq_s8_u8(vshrq_n_u8::<4>(b))]]
}

#[inline]
#[target_feature(enable = "neon")]
fn add_pairs(sums: &mut Sums, pair: u32, [firsts, seconds]: Pairs) {
    let [first, second]: [i16; 2] = bytemuck::cast(pair);
    sums[0] = vmlal_n_s16(sums[0], vget_low_s16(firsts), first);
    sums[1] = vmlal_high_n_s16(sums[1], firsts, first);
    sums[0] = vmlal_n_s16(sums[0], vget_low_s16(seconds), second);
    sums[1] = vmlal_high_n_s16(sums[1], seconds, second);
}

#[inline]
#[target_feature(enable = "neon")]
fn add_quads(sums: &mut Sums, quad: u32, quads: Quads) {
    let repeated = vreinterpretq_s8_u32(vdupq_n_u32(quad));
    for n in 0..2 {
        let low = vmull_s8(vget_low_s8(quads[n]), vget_low_s8(repeated));
        let high = vmull_high_s8(quads[n], repeated);
        sums[n] = vpadalq_s16(sums[n], vpaddq_s16(low, high)); // at most 2 * 15 * 127 before
    }
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
