//! WebAssembly for rounded caches: numbers become i16, and one instruction multiplies pairs of them by a repeated pair and
//! adds the two products: four sums of i32.

use std::arch::wasm32::*;

const WIDTH: usize = 4;
const SCORES: usize = 4;
const VECTORS: usize = 4;
const CHAINS: usize = 1;

type Sums = v128;
/// Of four neighbours, the first and third, and the second and fourth.
type Quads = [v128; 2];

super::super::loops::rounded_kernels!();

#[inline(always)]
fn all(x: i32) -> Sums {
    i32x4_splat(x)
}

#[inline(always)]
fn add(a: Sums, b: Sums) -> Sums {
    i32x4_add(a, b)
}

#[inline(always)]
fn widen_int16(numbers: &[i16; 2 * WIDTH]) -> [v128; 1] {
    [bytemuck::cast(*numbers)]
}

#[inline(always)]
fn widen_int8(numbers: &[i8; 2 * WIDTH]) -> [v128; 1] {
    [i16x8_extend_low_i8x16(i64x2(i64::from_le_bytes(bytemuck::cast(*numbers)), 0))]
}

#[inline(always)]
fn widen_int4(&[a, b, c, d]: &[u32; WIDTH]) -> [Quads; 2] {
    let (words, four) = (u32x4(a, b, c, d), u16x8_splat(0xf));
    let bits = [words, u16x8_shr(words, 8), u16x8_shr(words, 4), u16x8_shr(words, 12)];
    let [a, b, c, d] = bits.map(|bits| v128_and(bits, four));
    [[a, b], [c, d]]
}

#[inline(always)]
fn add_pairs(sums: &mut Sums, pair: u32, pairs: v128) {
    *sums = i32x4_add(*sums, i32x4_dot_i16x8(pairs, u32x4_splat(pair)));
}

#[inline(always)]
fn add_quads(sums: &mut Sums, quad: u32, [even, odd]: Quads) {
    let repeated = u32x4_splat(quad);
    let even = i32x4_dot_i16x8(even, i16x8_shr(i16x8_shl(repeated, 8), 8));
    let odd = i32x4_dot_i16x8(odd, i16x8_shr(repeated, 8));
    *sums = i32x4_add(*sums, i32x4_add(even, odd));
}

#[inline(always)]
fn add_scaled(out: &mut [f32; WIDTH], sums: Sums, scale: f32) {
    let found = f32x4_mul(f32x4_convert_i32x4(sums), f32x4_splat(scale));
    *out = bytemuck::cast(f32x4_add(bytemuck::cast(*out), found));
}
