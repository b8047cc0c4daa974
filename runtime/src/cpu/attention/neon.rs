//! NEON: kernels for floats, which widen eight numbers to two vectors as they load them; those for int8 are in `int8`.

mod int8;

use std::arch::aarch64::*;

use bytemuck::{Pod, cast_slice, pod_read_unaligned};

use super::super::isa::prefetch;
use super::softmax::weigh_rows;
use super::{Numbers, TILE};
pub(super) use int8::{add_int8_values, int8_dots, weigh_int8};

/// Floats of a pair of vectors.
const WIDTH: usize = 8;
/// Pairs of vectors of a row of sums that are kept in registers.
const VECTORS: usize = 4;

/// Eight floats.
type Eight = [float32x4_t; 2];

#[target_feature(enable = "neon")]
pub(super) fn unpack(out: &mut [f32], numbers: Numbers) {
    match numbers {
        Numbers::F32(numbers) => out.copy_from_slice(numbers),
        Numbers::F16(numbers) => unpack_as(out, numbers),
    }
}

#[target_feature(enable = "neon")]
fn unpack_as<T: Pod>(out: &mut [f32], numbers: &[T]) {
    let (out, _) = out.as_chunks_mut::<WIDTH>(); // tiles are whole vectors
    for (out, numbers) in out.iter_mut().zip(numbers.as_chunks().0) {
        *out = bytemuck::cast(widen(numbers));
    }
}

/// See [`super::kernels::dots`].
#[target_feature(enable = "neon")]
pub(super) fn dots<const R: usize>(q: [&[f32]; R], keys: Numbers) -> [[f32; TILE]; R] {
    match keys {
        Numbers::F32(keys) => dots_as(q, keys),
        Numbers::F16(keys) => dots_as(q, keys),
    }
}

#[target_feature(enable = "neon")]
fn dots_as<T: Pod, const R: usize>(q: [&[f32]; R], keys: &[T]) -> [[f32; TILE]; R] {
    let keys = keys.as_chunks::<TILE>().0;
    assert!(q.iter().all(|q| q.len() == keys.len()));
    let dim = keys.len();
    let mut sums = [[zero(); TILE / WIDTH]; R];
    for (d, keys) in keys.iter().enumerate() {
        fetch_next(keys, dim);
        let (keys, _) = keys.as_chunks();
        for v in 0..TILE / WIDTH {
            let keys = widen(&keys[v]);
            for r in 0..R {
                add_product(&mut sums[r][v], q[r][d], keys);
            }
        }
    }
    let mut out = [[0.0; TILE]; R];
    for r in 0..R {
        out[r] = bytemuck::cast(sums[r]);
    }
    out
}

#[target_feature(enable = "neon")]
pub(super) fn weigh<const R: usize>(
    scores: &mut [[f32; TILE]; R],
    scale: f32,
    seen: [usize; R],
    sums: &mut [&mut [f32]; R],
) {
    weigh_rows(scores, scale, seen, sums);
}

/// See [`super::kernels::add_values`].
#[target_feature(enable = "neon")]
pub(super) fn add_values<const R: usize>(sums: [&mut [f32]; R], weights: [&[f32]; R], values: Numbers) {
    match values {
        Numbers::F32(values) => add_values_as(sums, weights, values),
        Numbers::F16(values) => add_values_as(sums, weights, values),
    }
}

#[target_feature(enable = "neon")]
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

/// Dimensions from `d` on, as many as `V` pairs of vectors hold.
#[inline]
#[target_feature(enable = "neon")]
fn add_columns<T: Pod, const R: usize, const V: usize>(
    sums: &mut [&mut [f32]; R],
    weights: [&[f32]; R],
    values: &[T],
    d: usize,
) {
    let dim = sums[0].len();
    let seen = weights[0].len();
    assert!(weights.iter().all(|weights| weights.len() == seen));
    assert!(values.len() >= seen * dim && d + V * WIDTH <= dim);
    let mut lanes = [[zero(); V]; R];
    for r in 0..R {
        let sums: &[_; V] = vectors(&sums[r][d..]);
        for v in 0..V {
            lanes[r][v] = widen(&sums[v]);
        }
    }
    for j in 0..seen {
        let values: &[_; V] = vectors(&values[j * dim + d..]);
        fetch_next(values.as_flattened(), dim);
        for v in 0..V {
            let values = widen(&values[v]);
            for r in 0..R {
                add_product(&mut lanes[r][v], weights[r][j], values);
            }
        }
    }
    for r in 0..R {
        let (sums, _) = sums[r][d..].as_chunks_mut();
        let sums: &mut [[f32; WIDTH]; V] = sums.first_chunk_mut().expect("asserted above");
        for v in 0..V {
            sums[v] = bytemuck::cast(lanes[r][v]);
        }
    }
}

/// The first numbers, eight by eight.
#[inline]
#[target_feature(enable = "neon")]
fn vectors<T, const V: usize>(numbers: &[T]) -> &[[T; WIDTH]; V] {
    numbers.as_chunks().0.first_chunk().expect("callers slice what is there")
}

/// The last dimensions, fewer than eight.
#[target_feature(enable = "neon")]
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
        for r in 0..R {
            sums[r][d..].iter_mut().zip(values).for_each(|(sum, value)| *sum += weights[r][j] * value);
        }
    }
}

/// `sums += factor * numbers`, multiplied and added separately.
#[inline]
#[target_feature(enable = "neon")]
fn add_product(sums: &mut Eight, factor: f32, numbers: Eight) {
    for n in 0..2 {
        sums[n] = vaddq_f32(sums[n], vmulq_n_f32(numbers[n], factor));
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn zero() -> Eight {
    [vdupq_n_f32(0.0); 2]
}

/// Asks for the same place in the next tile, which lies behind the values of this one.
#[inline]
#[target_feature(enable = "neon")]
fn fetch_next<T: Pod>(numbers: &[T], dim: usize) {
    if size_of::<T>() != size_of::<f32>() {
        prefetch(numbers.as_ptr().wrapping_add(2 * TILE * dim)); // f32 is most likely unpacked, and of no use again
    }
}

/// Eight numbers as f32, which is exact: f32 as they are, f16.
#[inline]
#[target_feature(enable = "neon")]
fn widen<T: Pod>(numbers: &[T; WIDTH]) -> Eight {
    let bytes = cast_slice::<T, u8>(numbers);
    match size_of::<T>() {
        4 => pod_read_unaligned(bytes),
        2 => {
            let halves = vreinterpretq_f16_u16(pod_read_unaligned(bytes));
            [vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)]
        }
        _ => unreachable!("no such format"),
    }
}
