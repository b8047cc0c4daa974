//! AVX-512: kernels for floats, which widen sixteen numbers as they load them; those for int8 are in `int8`, weights in
//! `softmax`. A vector takes as long as two of AVX2 where the units are no wider (Zen 4), but half the instructions and
//! twice the registers leave more of the time to memory.

mod int8;
mod softmax;

use std::arch::x86_64::*;

use bytemuck::Pod;

use super::{Numbers, TILE};
pub(super) use int8::{add_int8_values, int8_dots};
pub(super) use softmax::{weigh, weigh_int8};

/// Floats of a vector.
const WIDTH: usize = 16;
/// Vectors of a row of sums that are kept in registers: a head of 128.
const VECTORS: usize = 8;
/// Bytes that the processor fetches together.
const LINE: usize = 64;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn unpack(out: &mut [f32], numbers: Numbers) {
    match numbers {
        Numbers::F32(numbers) => out.copy_from_slice(numbers),
        Numbers::F16(numbers) => unpack_as(out, numbers),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn unpack_as<T: Pod>(out: &mut [f32], numbers: &[T]) {
    let (out, _) = out.as_chunks_mut::<WIDTH>(); // tiles are whole vectors
    for (out, numbers) in out.iter_mut().zip(numbers.as_chunks().0) {
        *out = bytemuck::cast(widen(numbers));
    }
}

/// See [`super::kernels::dots`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn dots<const R: usize>(q: [&[f32]; R], keys: Numbers) -> [[f32; TILE]; R] {
    match keys {
        Numbers::F32(keys) => dots_as(q, keys),
        Numbers::F16(keys) => dots_as(q, keys),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn dots_as<T: Pod, const R: usize>(q: [&[f32]; R], keys: &[T]) -> [[f32; TILE]; R] {
    let keys = keys.as_chunks::<TILE>().0;
    assert!(q.iter().all(|q| q.len() == keys.len()));
    let dim = keys.len();
    let mut sums = [[_mm512_setzero_ps(); TILE / WIDTH]; R];
    for (d, keys) in keys.iter().enumerate() {
        fetch_next(keys, 2 * TILE * dim);
        let (keys, _) = keys.as_chunks();
        for v in 0..TILE / WIDTH {
            let keys = widen(&keys[v]);
            for r in 0..R {
                let product = _mm512_mul_ps(_mm512_set1_ps(q[r][d]), keys);
                sums[r][v] = _mm512_add_ps(sums[r][v], product);
            }
        }
    }
    let mut out = [[0.0; TILE]; R];
    for r in 0..R {
        out[r] = bytemuck::cast(sums[r]);
    }
    out
}

/// See [`super::kernels::add_values`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn add_values<const R: usize>(sums: [&mut [f32]; R], weights: [&[f32]; R], values: Numbers) {
    match values {
        Numbers::F32(values) => add_values_as(sums, weights, values),
        Numbers::F16(values) => add_values_as(sums, weights, values),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
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
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
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
    let mut lanes = [[_mm512_setzero_ps(); V]; R];
    for r in 0..R {
        let sums: &[_; V] = vectors(&sums[r][d..]);
        for v in 0..V {
            lanes[r][v] = widen(&sums[v]);
        }
    }
    for j in 0..seen {
        let values: &[_; V] = vectors(&values[j * dim + d..]);
        fetch_next(values.as_flattened(), 2 * TILE * dim);
        for v in 0..V {
            let values = widen(&values[v]);
            for r in 0..R {
                lanes[r][v] =
                    _mm512_add_ps(lanes[r][v], _mm512_mul_ps(_mm512_set1_ps(weights[r][j]), values));
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

/// The first numbers as vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn vectors<T, const V: usize>(numbers: &[T]) -> &[[T; WIDTH]; V] {
    numbers.as_chunks().0.first_chunk().expect("callers slice what is there")
}

/// The last dimensions, fewer than a vector holds.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
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

/// Asks for the same place in the next tile, `distance` numbers further on: see `avx2.rs`, but every line, because
/// nothing else takes any time.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn fetch_next<T: Pod>(numbers: &[T], distance: usize) {
    if size_of::<T>() == size_of::<f32>() {
        return; // most likely unpacked, and of no use again
    }
    let next: *const u8 = numbers.as_ptr().wrapping_add(distance).cast();
    for line in (0..size_of_val(numbers)).step_by(LINE) {
        _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(line).cast());
    }
}

/// Sixteen numbers as f32, which is exact: f32 as they are, f16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn widen<T: Pod>(numbers: &[T; WIDTH]) -> __m512 {
    let from = numbers.as_ptr();
    #[expect(unsafe_code, reason = "an unaligned load takes a raw pointer")]
    // SAFETY: behind the reference lie sixteen numbers of the size that each arm reads; alignment is not asked for.
    unsafe {
        match size_of::<T>() {
            4 => _mm512_loadu_ps(from.cast()),
            2 => _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())),
            _ => unreachable!("no such format"),
        }
    }
}
