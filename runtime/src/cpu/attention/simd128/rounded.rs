//! WebAssembly for rounded caches: numbers become i16, and one instruction multiplies pairs of them by a repeated pair and
//! adds the two products: four sums of i32.

use std::arch::wasm32::*;

const WIDTH: usize = 4;
const SCORES: usize = 4;
const VECTORS: usize = 4;
const CHAINS: usize = 1;

type Sums = v128;
type Pairs = v128;

super::super::loops::rounded_kernels!();

#[inline(always)]
fn zero() -> Sums {
    i32x4_splat(0)
}

#[inline(always)]
fn widen_int8(numbers: &[i8; 2 * WIDTH]) -> [Pairs; 1] {
    [i16x8_extend_low_i8x16(i64x2(i64::from_le_bytes(bytemuck::cast(*numbers)), 0))]
}

#[inline(always)]
fn widen_int4(&[a, b, c, d]: &[u32; WIDTH]) -> [Pairs; 4] {
    let words = u32x4(a, b, c, d);
    [
        i16x8_shr(i16x8_shl(words, 12), 12),
        i16x8_shr(i16x8_shl(words, 8), 12),
        i16x8_shr(i16x8_shl(words, 4), 12),
        i16x8_shr(words, 12),
    ]
}

#[inline(always)]
fn add_products(sums: &mut Sums, pair: [i16; 2], pairs: Pairs) {
    *sums = i32x4_add(*sums, i32x4_dot_i16x8(pairs, i32x4_splat(bytemuck::cast(pair))));
}

#[inline(always)]
fn add_scaled(out: &mut [f32; WIDTH], sums: Sums, scale: f32) {
    let found = f32x4_mul(f32x4_convert_i32x4(sums), f32x4_splat(scale));
    *out = bytemuck::cast(f32x4_add(bytemuck::cast(*out), found));
}
