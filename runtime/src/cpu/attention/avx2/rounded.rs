//! AVX2 for rounded caches: numbers become i16, and one instruction multiplies pairs of them by a repeated pair and adds
//! the two products: eight sums of i32.

use std::arch::x86_64::*;

const WIDTH: usize = 8;
const SCORES: usize = TILE / WIDTH;
const VECTORS: usize = 4;
const CHAINS: usize = 1;

type Sums = __m256i;
type Pairs = __m256i;

super::super::loops::rounded_kernels!(#[target_feature(enable = "avx2,f16c")]);

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn zero() -> Sums {
    _mm256_setzero_si256()
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen_int8(numbers: &[i8; 2 * WIDTH]) -> [Pairs; 1] {
    [_mm256_cvtepi8_epi16(bytemuck::cast(*numbers))]
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen_int4(words: &[u32; WIDTH]) -> [Pairs; 4] {
    let words = bytemuck::cast(*words);
    [
        _mm256_srai_epi16::<12>(_mm256_slli_epi16::<12>(words)),
        _mm256_srai_epi16::<12>(_mm256_slli_epi16::<8>(words)),
        _mm256_srai_epi16::<12>(_mm256_slli_epi16::<4>(words)),
        _mm256_srai_epi16::<12>(words),
    ]
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add_products(sums: &mut Sums, pair: [i16; 2], pairs: Pairs) {
    let repeated = _mm256_set1_epi32(bytemuck::cast(pair));
    *sums = _mm256_add_epi32(*sums, _mm256_madd_epi16(pairs, repeated));
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add_scaled(out: &mut [f32; WIDTH], sums: Sums, scale: f32) {
    let found = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_set1_ps(scale));
    *out = bytemuck::cast(_mm256_add_ps(bytemuck::cast(*out), found));
}
