//! AVX-512 with VNNI, for rounded caches: numbers become i16, and one instruction multiplies pairs of them by a repeated
//! pair and adds both products to sixteen sums of i32. Keys and values then cost less than reading them.

use std::arch::x86_64::*;

const WIDTH: usize = 16;
const SCORES: usize = TILE / WIDTH;
const VECTORS: usize = 8; // a head of 128
const CHAINS: usize = 2;

type Sums = __m512i;
type Pairs = __m512i;

super::super::loops::rounded_kernels!(#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]);

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn zero() -> Sums {
    _mm512_setzero_si512()
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn widen_int8(numbers: &[i8; 2 * WIDTH]) -> [Pairs; 1] {
    [_mm512_cvtepi8_epi16(bytemuck::cast(*numbers))]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn widen_int4(words: &[u32; WIDTH]) -> [Pairs; 4] {
    let words = bytemuck::cast(*words);
    [
        _mm512_srai_epi16::<12>(_mm512_slli_epi16::<12>(words)),
        _mm512_srai_epi16::<12>(_mm512_slli_epi16::<8>(words)),
        _mm512_srai_epi16::<12>(_mm512_slli_epi16::<4>(words)),
        _mm512_srai_epi16::<12>(words),
    ]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_products(sums: &mut Sums, pair: [i16; 2], pairs: Pairs) {
    *sums = _mm512_dpwssd_epi32(*sums, pairs, _mm512_set1_epi32(bytemuck::cast(pair)));
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_scaled(out: &mut [f32; WIDTH], sums: Sums, scale: f32) {
    let found = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(scale));
    *out = bytemuck::cast(_mm512_add_ps(bytemuck::cast(*out), found));
}
