//! The kernels that define the result, on f32.

use half::slice::HalfFloatSliceExt;

use super::super::ops;
use super::{Numbers, TILE};

pub(super) fn unpack(out: &mut [f32], numbers: Numbers) {
    match numbers {
        Numbers::F32(numbers) => out.copy_from_slice(numbers),
        Numbers::F16(numbers) => numbers.convert_to_f32_slice(out),
        Numbers::Int8(numbers) => out.iter_mut().zip(numbers).for_each(|(out, &x)| *out = f32::from(x)),
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
