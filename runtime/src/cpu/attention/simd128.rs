//! WebAssembly: vectors of four floats; those for rounded numbers are in `rounded`.

mod rounded;

use std::arch::wasm32::*;

use bytemuck::Pod;

pub(super) use super::scalar::{weigh, weigh_rounded};
use crate::cpu::ternary_matmul::widen_f16;
pub(super) use rounded::{add_rounded_values, rounded_dots};

const WIDTH: usize = 4;
const SCORES: usize = 4;
const VECTORS: usize = 4;

type Floats = v128;

super::loops::float_kernels!();

#[inline(always)]
fn zero() -> Floats {
    f32x4_splat(0.0)
}

#[inline(always)]
fn add_product(sum: &mut Floats, factor: f32, numbers: Floats) {
    *sum = f32x4_add(*sum, f32x4_mul(f32x4_splat(factor), numbers));
}

/// Four numbers as f32, which is exact: f32 as they are, f16.
#[inline(always)]
fn widen<T: Pod>(numbers: &[T; WIDTH]) -> Floats {
    match bytemuck::bytes_of(numbers) {
        bytes if let Some(floats) = bytes.as_array::<16>() => bytemuck::cast(*floats),
        bytes => {
            let halves = *bytes.as_array::<8>().expect("f16, as no other format is left");
            widen_f16(u32x4_extend_low_u16x8(u64x2(u64::from_le_bytes(halves), 0)))
        }
    }
}
