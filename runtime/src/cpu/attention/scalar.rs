//! The kernels that define the result.

use half::slice::HalfFloatSliceExt;

use super::super::kv_cache::{Rounded, RoundedTile};
use super::super::ops;
use super::softmax::{RoundedWeights, weigh_rounded_rows, weigh_rows};
use super::{Numbers, Seen, TILE};

pub(super) fn unpack(out: &mut [f32], numbers: Numbers) {
    match numbers {
        Numbers::F32(numbers) => out.copy_from_slice(numbers),
        Numbers::F16(numbers) => numbers.convert_to_f32_slice(out),
    }
}

/// Each product is summed over the dimensions in their order.
pub(super) fn dots<const R: usize>(q: [&[f32]; R], keys: Numbers) -> [[f32; TILE]; R] {
    let keys = unpacked(keys).as_chunks::<TILE>().0;
    q.map(|q| {
        let mut sums = [0.0; TILE];
        q.iter().zip(keys).for_each(|(&q, keys)| ops::axpy(&mut sums, q, keys));
        sums
    })
}

/// As many positions as there are weights, in their order.
pub(super) fn add_values<const R: usize>(sums: [&mut [f32]; R], weights: [&[f32]; R], values: Numbers) {
    let values = unpacked(values);
    for (sums, weights) in sums.into_iter().zip(weights) {
        let values = values.chunks_exact(sums.len());
        weights.iter().zip(values).for_each(|(&weight, value)| ops::axpy(sums, weight, value));
    }
}

fn unpacked(numbers: Numbers<'_>) -> &[f32] {
    let Numbers::F32(numbers) = numbers else { unreachable!("unpacked before") };
    numbers
}

pub(super) fn weigh(scores: &mut [[f32; TILE]], scale: f32, seen: Seen, sums: &mut [f32]) {
    weigh_rows(scores, scale, seen, sums);
}

pub(super) fn rounded_dots<const R: usize>(
    out: [&mut [i32; TILE]; R],
    q: [&[u32]; R],
    start: [i32; R],
    keys: Rounded,
    _fetch: bool,
) {
    for (r, sums) in out.into_iter().enumerate() {
        sums.fill(start[r]);
        for (n, &q) in q[r].iter().enumerate() {
            sums.iter_mut().enumerate().for_each(|(at, sum)| *sum += keys.product(q, n, at, TILE));
        }
    }
}

pub(super) fn weigh_rounded(
    products: &mut [[i32; TILE]],
    scales: &[f32],
    tile: &RoundedTile,
    seen: Seen,
    sums: &mut [f32],
    weights: &mut [RoundedWeights],
) {
    weigh_rounded_rows(products, scales, tile, seen, sums, weights);
}

pub(super) fn add_rounded_values<const R: usize>(
    mut sums: [&mut [f32]; R],
    weights: [&[u32]; R],
    start: [i32; R],
    scales: [f32; R],
    values: Rounded,
    _fetch: bool,
) {
    add_rounded_columns(&mut sums, weights, start, scales, values, 0);
}

/// Dimensions from `first` on: what the vectors of other kernels leave over.
pub(super) fn add_rounded_columns<const R: usize>(
    sums: &mut [&mut [f32]; R],
    weights: [&[u32]; R],
    start: [i32; R],
    scales: [f32; R],
    values: Rounded,
    first: usize,
) {
    for (r, sums) in sums.iter_mut().enumerate() {
        let dim = sums.len();
        for (d, sum) in sums.iter_mut().enumerate().skip(first) {
            let products = weights[r].iter().enumerate().map(|(n, &w)| values.product(w, n, d, dim));
            *sum += (start[r] + products.sum::<i32>()) as f32 * scales[r];
        }
    }
}
