//! WebAssembly: kernels for floats, which widen four numbers as they load them; those for int8 are in `int8`.

mod int8;

use std::arch::wasm32::*;

use bytemuck::Pod;

use super::{Numbers, TILE};

pub(super) use super::scalar::{weigh, weigh_int8};
use crate::cpu::ternary_matmul::widen_f16;
pub(super) use int8::{add_int8_values, int8_dots};

/// Floats of a vector.
const WIDTH: usize = 4;
/// Vectors of a row of scores or sums that are kept in registers.
const VECTORS: usize = 4;

pub(super) fn unpack(out: &mut [f32], numbers: Numbers) {
    match numbers {
        Numbers::F32(numbers) => out.copy_from_slice(numbers),
        Numbers::F16(numbers) => unpack_as(out, numbers),
    }
}

fn unpack_as<T: Pod>(out: &mut [f32], numbers: &[T]) {
    let (out, _) = out.as_chunks_mut::<WIDTH>(); // tiles are whole vectors
    for (out, numbers) in out.iter_mut().zip(numbers.as_chunks().0) {
        *out = bytemuck::cast(widen(numbers));
    }
}

/// See [`super::kernels::dots`].
pub(super) fn dots<const R: usize>(q: [&[f32]; R], keys: Numbers) -> [[f32; TILE]; R] {
    match keys {
        Numbers::F32(keys) => dots_as(q, keys),
        Numbers::F16(keys) => dots_as(q, keys),
    }
}

fn dots_as<T: Pod, const R: usize>(q: [&[f32]; R], keys: &[T]) -> [[f32; TILE]; R] {
    let mut out = [[0.0; TILE]; R];
    for first in (0..TILE).step_by(VECTORS * WIDTH) {
        let sums = some_dots(q, keys, first);
        for (out, sums) in out.iter_mut().zip(sums) {
            out[first..first + VECTORS * WIDTH]
                .copy_from_slice(&bytemuck::cast::<_, [f32; VECTORS * WIDTH]>(sums));
        }
    }
    out
}

/// For the positions of a tile from `first` on, as many as the registers hold.
#[inline(always)]
fn some_dots<T: Pod, const R: usize>(q: [&[f32]; R], keys: &[T], first: usize) -> [[v128; VECTORS]; R] {
    let keys = keys.as_chunks::<TILE>().0;
    assert!(q.iter().all(|q| q.len() == keys.len()));
    let mut sums = [[f32x4_splat(0.0); VECTORS]; R];
    for (d, keys) in keys.iter().enumerate() {
        let lanes = q.map(|q| f32x4_splat(q[d]));
        let keys: &[_; VECTORS] = vectors(&keys[first..]);
        for (v, keys) in keys.iter().enumerate() {
            let keys = widen(keys);
            for (sums, lanes) in sums.iter_mut().zip(lanes) {
                sums[v] = f32x4_add(sums[v], f32x4_mul(lanes, keys));
            }
        }
    }
    sums
}

/// See [`super::kernels::add_values`].
pub(super) fn add_values<const R: usize>(sums: [&mut [f32]; R], weights: [&[f32]; R], values: Numbers) {
    match values {
        Numbers::F32(values) => add_values_as(sums, weights, values),
        Numbers::F16(values) => add_values_as(sums, weights, values),
    }
}

fn add_values_as<T: Pod, const R: usize>(mut sums: [&mut [f32]; R], weights: [&[f32]; R], values: &[T]) {
    let dim = sums[0].len();
    let mut d = 0;
    while d + VECTORS * WIDTH <= dim {
        add_columns::<T, R, VECTORS>(&mut sums, weights, values, d);
        d += VECTORS * WIDTH;
    }
    while d + WIDTH <= dim {
        add_columns::<T, R, 1>(&mut sums, weights, values, d);
        d += WIDTH;
    }
    if d < dim {
        add_rest(&mut sums, weights, values, d);
    }
}

/// Dimensions from `d` on, as many as `V` vectors hold.
#[inline(always)]
fn add_columns<T: Pod, const R: usize, const V: usize>(
    sums: &mut [&mut [f32]; R],
    weights: [&[f32]; R],
    values: &[T],
    d: usize,
) {
    let (dim, seen) = (sums[0].len(), weights[0].len());
    assert!(weights.iter().all(|weights| weights.len() == seen));
    assert!(values.len() >= seen * dim && d + V * WIDTH <= dim);
    let mut lanes: [[v128; V]; R] =
        sums.each_ref().map(|sums| vectors::<_, WIDTH, V>(&sums[d..]).map(bytemuck::cast));
    for j in 0..seen {
        let values: &[_; V] = vectors(&values[j * dim + d..]);
        let factors = weights.map(|weights| f32x4_splat(weights[j]));
        for (v, values) in values.iter().enumerate() {
            let values = widen(values);
            for (lanes, factor) in lanes.iter_mut().zip(factors) {
                lanes[v] = f32x4_add(lanes[v], f32x4_mul(factor, values));
            }
        }
    }
    for (sums, lanes) in sums.iter_mut().zip(lanes) {
        for (sums, lanes) in sums[d..].as_chunks_mut::<WIDTH>().0.iter_mut().zip(lanes) {
            *sums = bytemuck::cast(lanes);
        }
    }
}

/// The first numbers as vectors.
#[inline(always)]
fn vectors<T, const W: usize, const V: usize>(numbers: &[T]) -> &[[T; W]; V] {
    numbers.as_chunks().0.first_chunk().expect("callers slice what is there")
}

/// The last dimensions, fewer than a vector holds.
fn add_rest<T: Pod, const R: usize>(
    sums: &mut [&mut [f32]; R],
    weights: [&[f32]; R],
    values: &[T],
    d: usize,
) {
    let dim = sums[0].len();
    for (j, values) in values.chunks_exact(dim).take(weights[0].len()).enumerate() {
        let mut padded = [T::zeroed(); WIDTH];
        padded[..dim - d].copy_from_slice(&values[d..]);
        let values: [f32; WIDTH] = bytemuck::cast(widen(&padded));
        for (sums, weights) in sums.iter_mut().zip(weights) {
            sums[d..].iter_mut().zip(values).for_each(|(sum, value)| *sum += weights[j] * value);
        }
    }
}

/// Four numbers as f32, which is exact: f32 as they are, f16.
#[inline(always)]
fn widen<T: Pod>(numbers: &[T; WIDTH]) -> v128 {
    match bytemuck::bytes_of(numbers) {
        bytes if let Some(floats) = bytes.as_array::<16>() => bytemuck::cast(*floats),
        bytes => {
            let halves = *bytes.as_array::<8>().expect("f16, as no other format is left");
            widen_f16(u32x4_extend_low_u16x8(u64x2(u64::from_le_bytes(halves), 0)))
        }
    }
}
