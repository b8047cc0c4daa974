//! AVX-512 with VNNI, for int8 caches: 32 bytes become i16, and one instruction multiplies them by a repeated pair and
//! adds both products to sixteen sums of i32. Keys and values then cost less than reading them.

use std::arch::x86_64::*;

const WIDTH: usize = 16;
const SCORES: usize = TILE / WIDTH;
const VECTORS: usize = 8; // a head of 128
const CHAINS: usize = 2;

type Sums = __m512i;

super::super::loops::int8_kernels!(#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]);

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn zero() -> Sums {
    _mm512_setzero_si512()
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn widen(numbers: &[i8; 2 * WIDTH]) -> __m512i {
    _mm512_cvtepi8_epi16(bytemuck::cast(*numbers))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_products(sums: &mut Sums, pair: [i16; 2], pairs: __m512i) {
    *sums = _mm512_dpwssd_epi32(*sums, pairs, _mm512_set1_epi32(bytemuck::cast(pair)));
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_scaled(out: &mut [f32; WIDTH], sums: Sums, scale: f32) {
    let found = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(scale));
    *out = bytemuck::cast(_mm512_add_ps(bytemuck::cast(*out), found));
}
