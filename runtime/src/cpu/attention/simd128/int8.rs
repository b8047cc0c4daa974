//! WebAssembly for int8 caches: eight bytes become i16, and one instruction multiplies them by a repeated pair and adds
//! the two products: four sums of i32.

use std::arch::wasm32::*;

const WIDTH: usize = 4;
const SCORES: usize = 4;
const VECTORS: usize = 4;
const CHAINS: usize = 1;

type Sums = v128;

super::super::loops::int8_kernels!();

#[inline(always)]
fn zero() -> Sums {
    i32x4_splat(0)
}

#[inline(always)]
fn widen(numbers: &[i8; 2 * WIDTH]) -> v128 {
    i16x8_extend_low_i8x16(i64x2(i64::from_le_bytes(bytemuck::cast(*numbers)), 0))
}

#[inline(always)]
fn add_products(sums: &mut Sums, pair: [i16; 2], pairs: v128) {
    *sums = i32x4_add(*sums, i32x4_dot_i16x8(pairs, i32x4_splat(bytemuck::cast(pair))));
}

#[inline(always)]
fn add_scaled(out: &mut [f32; WIDTH], sums: Sums, scale: f32) {
    let found = f32x4_mul(f32x4_convert_i32x4(sums), f32x4_splat(scale));
    *out = bytemuck::cast(f32x4_add(bytemuck::cast(*out), found));
}
