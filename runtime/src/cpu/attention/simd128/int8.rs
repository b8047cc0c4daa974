//! WebAssembly for int8 caches: eight bytes become i16, and one instruction multiplies them by a repeated pair and adds
//! the two products: four sums of i32.

use std::arch::wasm32::*;

use super::super::{TILE, scalar};
use super::vectors;

/// Sums of a vector.
const WIDTH: usize = 4;
/// Vectors of a row of sums that are kept in registers.
const VECTORS: usize = 4;

/// See [`int8_dots`](super::super::kernels::int8_dots).
pub(in super::super) fn int8_dots<const R: usize>(q: [&[[i16; 2]]; R], keys: &[i8]) -> [[i32; TILE]; R] {
    let mut out = [[0; TILE]; R];
    for first in (0..TILE).step_by(VECTORS * WIDTH) {
        for (out, sums) in out.iter_mut().zip(some_dots(q, keys, first)) {
            out[first..first + VECTORS * WIDTH]
                .copy_from_slice(&bytemuck::cast::<_, [i32; VECTORS * WIDTH]>(sums));
        }
    }
    out
}

/// For the positions of a tile from `first` on, as many as the registers hold.
#[inline(always)]
fn some_dots<const R: usize>(q: [&[[i16; 2]]; R], keys: &[i8], first: usize) -> [[v128; VECTORS]; R] {
    let keys = keys.as_chunks::<{ 2 * TILE }>().0;
    assert!(q.iter().all(|q| q.len() == keys.len()));
    let mut sums = [[i32x4_splat(0); VECTORS]; R];
    for (d, keys) in keys.iter().enumerate() {
        let pairs = q.map(|q| repeated(q[d]));
        let keys: &[_; VECTORS] = vectors(&keys[2 * first..]);
        for (v, keys) in keys.iter().enumerate() {
            let keys = widen(keys);
            for (sums, pair) in sums.iter_mut().zip(pairs) {
                sums[v] = i32x4_add(sums[v], i32x4_dot_i16x8(keys, pair));
            }
        }
    }
    sums
}

/// See [`add_int8_values`](super::super::kernels::add_int8_values).
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

/// Dimensions from `d` on, as many as `V` vectors hold.
#[inline(always)]
fn add_columns<const R: usize, const V: usize>(
    sums: &mut [&mut [f32]; R],
    weights: [&[[i16; 2]]; R],
    scales: [f32; R],
    values: &[i8],
    d: usize,
) {
    let (dim, pairs) = (sums[0].len(), weights[0].len());
    assert!(weights.iter().all(|weights| weights.len() == pairs));
    assert!(values.len() >= 2 * pairs * dim && d + V * WIDTH <= dim);
    let mut totals = [[i32x4_splat(0); V]; R];
    for j in 0..pairs {
        let values: &[_; V] = vectors(&values[2 * (j * dim + d)..]);
        let factors = weights.map(|weights| repeated(weights[j]));
        for (v, values) in values.iter().enumerate() {
            let values = widen(values);
            for (totals, factor) in totals.iter_mut().zip(factors) {
                totals[v] = i32x4_add(totals[v], i32x4_dot_i16x8(values, factor));
            }
        }
    }
    for ((sums, totals), scale) in sums.iter_mut().zip(totals).zip(scales) {
        for (sums, total) in sums[d..].as_chunks_mut::<WIDTH>().0.iter_mut().zip(totals) {
            let found = f32x4_mul(f32x4_convert_i32x4(total), f32x4_splat(scale));
            *sums = bytemuck::cast(f32x4_add(bytemuck::cast(*sums), found));
        }
    }
}

/// A pair in every lane.
#[inline(always)]
fn repeated(pair: [i16; 2]) -> v128 {
    i32x4_splat(bytemuck::cast(pair))
}

/// Eight i8 as i16.
#[inline(always)]
fn widen(numbers: &[i8; 2 * WIDTH]) -> v128 {
    i16x8_extend_low_i8x16(i64x2(i64::from_le_bytes(bytemuck::cast(*numbers)), 0))
}
