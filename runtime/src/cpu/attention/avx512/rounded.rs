//! AVX-512 with VNNI, for rounded caches: int8 become i16, and one instruction multiplies pairs of them by a repeated pair
//! and adds both products to sixteen sums of i32; int4 become bytes, and another does that with four of them.

use std::arch::x86_64::*;

const WIDTH: usize = 16;
const SCORES: usize = TILE / WIDTH;
const VECTORS: usize = 8; // a head of 128
const CHAINS: usize = 2;

type Sums = __m512i;

super::super::loops::rounded_kernels!(#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]);

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn all(x: i32) -> Sums {
    _mm512_set1_epi32(x)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add(a: Sums, b: Sums) -> Sums {
    _mm512_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn widen_int16(numbers: &[i16; 2 * WIDTH]) -> [__m512i; 1] {
    [bytemuck::cast(*numbers)]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn widen_int8(numbers: &[i8; 2 * WIDTH]) -> [__m512i; 1] {
    [_mm512_cvtepi8_epi16(bytemuck::cast(*numbers))]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn widen_int4(words: &[u32; WIDTH]) -> [__m512i; 2] {
    let (words, four) = (bytemuck::cast(*words), _mm512_set1_epi8(0xf));
    [_mm512_and_si512(words, four), _mm512_and_si512(_mm512_srli_epi16::<4>(words), four)]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_pairs(sums: &mut Sums, pair: u32, pairs: __m512i) {
    *sums = _mm512_dpwssd_epi32(*sums, pairs, _mm512_set1_epi32(pair as i32));
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_quads(sums: &mut Sums, quad: u32, quads: __m512i) {
    *sums = _mm512_dpbusd_epi32(*sums, quads, _mm512_set1_epi32(quad as i32));
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_scaled(out: &mut [f32; WIDTH], sums: Sums, scale: f32) {
    let found = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(scale));
    *out = bytemuck::cast(_mm512_add_ps(bytemuck::cast(*out), found));
}
