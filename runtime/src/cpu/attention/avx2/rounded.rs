//! AVX2 for rounded caches. int8 become i16, and one instruction multiplies pairs of them by a repeated pair and adds the
//! two products: eight sums of i32. int4 become bytes, and two instructions do that with four of them.

use std::arch::x86_64::*;

const WIDTH: usize = 8;
const SCORES: usize = TILE / WIDTH;
const VECTORS: usize = 4;
const CHAINS: usize = 1;

type Sums = __m256i;

super::super::loops::rounded_kernels!(#[target_feature(enable = "avx2,f16c")]);

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn all(x: i32) -> Sums {
    _mm256_set1_epi32(x)
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add(a: Sums, b: Sums) -> Sums {
    _mm256_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen_int16(numbers: &[i16; 2 * WIDTH]) -> [__m256i; 1] {
    [bytemuck::cast(*numbers)]
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen_int8(numbers: &[i8; 2 * WIDTH]) -> [__m256i; 1] {
    [_mm256_cvtepi8_epi16(bytemuck::cast(*numbers))]
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen_int4(words: &[u32; WIDTH]) -> [__m256i; 2] {
    let (words, four) = (bytemuck::cast(*words), _mm256_set1_epi8(0xf));
    [_mm256_and_si256(words, four), _mm256_and_si256(_mm256_srli_epi16::<4>(words), four)]
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add_pairs(sums: &mut Sums, pair: u32, pairs: __m256i) {
    *sums = _mm256_add_epi32(*sums, _mm256_madd_epi16(pairs, _mm256_set1_epi32(pair as i32)));
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add_quads(sums: &mut Sums, quad: u32, quads: __m256i) {
    let pairs = _mm256_maddubs_epi16(quads, _mm256_set1_epi32(quad as i32)); // at most 2 * 15 * 127
    *sums = _mm256_add_epi32(*sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add_scaled(out: &mut [f32; WIDTH], sums: Sums, scale: f32) {
    let found = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_set1_ps(scale));
    *out = bytemuck::cast(_mm256_add_ps(bytemuck::cast(*out), found));
}
