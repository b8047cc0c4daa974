//! NEON: pairs of vectors, eight floats; those for rounded numbers are in `rounded`.

mod rounded;

use std::arch::aarch64::*;

use bytemuck::{Pod, cast_slice, pod_read_unaligned};

use super::Seen;
use super::softmax::weigh_rows;
pub(super) use rounded::{add_rounded_values, rounded_dots, weigh_rounded};

const WIDTH: usize = 8;
const SCORES: usize = TILE / WIDTH;
const VECTORS: usize = 4;

type Floats = [float32x4_t; 2];

super::loops::float_kernels!(#[target_feature(enable = "neon")]);

#[target_feature(enable = "neon")]
pub(super) fn weigh(scores: &mut [[f32; TILE]], scale: f32, seen: Seen, sums: &mut [f32]) {
    weigh_rows(scores, scale, seen, sums);
}

#[inline]
#[target_feature(enable = "neon")]
fn zero() -> Floats {
    [vdupq_n_f32(0.0); 2]
}

#[inline]
#[target_feature(enable = "neon")]
fn add_product(sums: &mut Floats, factor: f32, numbers: Floats) {
    for n in 0..2 {
        sums[n] = vaddq_f32(sums[n], vmulq_n_f32(numbers[n], factor));
    }
}

/// Eight numbers as f32, which is exact: f32 as they are, f16.
#[inline]
#[target_feature(enable = "neon")]
fn widen<T: Pod>(numbers: &[T; WIDTH]) -> Floats {
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
