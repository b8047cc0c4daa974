//! NEON for int8 caches: the two numbers of each pair are loaded apart, widened to i16, and multiplied and added into
//! eight sums of i32.

use std::arch::aarch64::*;

use super::super::softmax::{RoundedWeights, weigh_int8_rows};
use super::super::{TILE, scalar};
use super::fetch_next;

/// Sums of a pair of vectors.
const WIDTH: usize = 8;
/// Pairs of vectors of a row of sums that are kept in registers.
const VECTORS: usize = 4;

/// Eight sums.
type Eight = [int32x4_t; 2];

/// See [`int8_dots`](super::super::kernels::int8_dots).
#[target_feature(enable = "neon")]
pub(in super::super) fn int8_dots<const R: usize>(q: [&[[i16; 2]]; R], keys: &[i8]) -> [[i32; TILE]; R] {
    let keys = keys.as_chunks::<{ 2 * TILE }>().0;
    assert!(q.iter().all(|q| q.len() == keys.len()));
    let dim = 2 * keys.len();
    let mut sums = [[zero(); TILE / WIDTH]; R];
    for (d, keys) in keys.iter().enumerate() {
        fetch_next(keys, dim);
        let (keys, _) = keys.as_chunks();
        for v in 0..TILE / WIDTH {
            let keys = apart(&keys[v]);
            for r in 0..R {
                add_products(&mut sums[r][v], q[r][d], keys);
            }
        }
    }
    let mut out = [[0; TILE]; R];
    for r in 0..R {
        out[r] = bytemuck::cast(sums[r]);
    }
    out
}

#[target_feature(enable = "neon")]
pub(in super::super) fn weigh_int8<const R: usize>(
    products: &[[i32; TILE]; R],
    scales: [f32; R],
    tile_scales: [&[f32; TILE]; 2],
    seen: [usize; R],
    sums: &mut [&mut [f32]; R],
    weights: &mut [RoundedWeights; R],
) -> [f32; R] {
    weigh_int8_rows(products, scales, tile_scales, seen, sums, weights)
}

/// See [`add_int8_values`](super::super::kernels::add_int8_values).
#[target_feature(enable = "neon")]
pub(in super::super) fn add_int8_values<const R: usize>(
    mut sums: [&mut [f32]; R],
    weights: [&[[i16; 2]]; R],
    scales: [f32; R],
    values: &[i8],
) {
    let dim = sums[0].len();
    let mut d = 0;
    while d + VECTORS * WIDTH <= dim {
        add_columns::<R, VECTORS>(&mut sums, weights, scales, values, d);
        d += VECTORS * WIDTH;
    }
    while d + WIDTH <= dim {
        add_columns::<R, 1>(&mut sums, weights, scales, values, d);
        d += WIDTH;
    }
    if d < dim {
        scalar::add_int8_columns(&mut sums, weights, scales, values, d);
    }
}

/// Dimensions from `d` on, as many as `V` pairs of vectors hold.
#[inline]
#[target_feature(enable = "neon")]
fn add_columns<const R: usize, const V: usize>(
    sums: &mut [&mut [f32]; R],
    weights: [&[[i16; 2]]; R],
    scales: [f32; R],
    values: &[i8],
    d: usize,
) {
    let dim = sums[0].len();
    let pairs = weights[0].len();
    assert!(weights.iter().all(|weights| weights.len() == pairs));
    assert!(values.len() >= 2 * pairs * dim && d + V * WIDTH <= dim);
    let mut totals = [[zero(); V]; R];
    for j in 0..pairs {
        let values: &[[i8; 2 * WIDTH]; V] =
            values[2 * (j * dim + d)..].as_chunks().0.first_chunk().expect("asserted above");
        fetch_next(values.as_flattened(), dim);
        for v in 0..V {
            let values = apart(&values[v]);
            for r in 0..R {
                add_products(&mut totals[r][v], weights[r][j], values);
            }
        }
    }
    for r in 0..R {
        let (sums, _) = sums[r][d..].as_chunks_mut::<WIDTH>();
        for v in 0..V {
            let mut both: [float32x4_t; 2] = bytemuck::cast(sums[v]);
            for n in 0..2 {
                both[n] = vaddq_f32(both[n], vmulq_n_f32(vcvtq_f32_s32(totals[r][v][n]), scales[r]));
            }
            sums[v] = bytemuck::cast(both);
        }
    }
}

/// The first and the second numbers of eight pairs, as i16.
#[inline]
#[target_feature(enable = "neon")]
fn apart(pairs: &[i8; 2 * WIDTH]) -> [int16x8_t; 2] {
    let both: int8x16_t = bytemuck::cast(*pairs);
    let (first, second) = (vuzp1q_s8(both, both), vuzp2q_s8(both, both));
    [vmovl_s8(vget_low_s8(first)), vmovl_s8(vget_low_s8(second))]
}

/// Adds the products of eight pairs with one.
#[inline]
#[target_feature(enable = "neon")]
fn add_products(sums: &mut Eight, [first, second]: [i16; 2], [firsts, seconds]: [int16x8_t; 2]) {
    sums[0] = vmlal_n_s16(sums[0], vget_low_s16(firsts), first);
    sums[1] = vmlal_high_n_s16(sums[1], firsts, first);
    sums[0] = vmlal_n_s16(sums[0], vget_low_s16(seconds), second);
    sums[1] = vmlal_high_n_s16(sums[1], seconds, second);
}

#[inline]
#[target_feature(enable = "neon")]
fn zero() -> Eight {
    [vdupq_n_s32(0); 2]
}
