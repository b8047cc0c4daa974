//! AVX-512: vectors of sixteen floats; those for rounded numbers are in `rounded`, weights in `softmax`.
//! A vector takes as long as two of AVX2 where the units are no wider (Zen 4), but half the instructions and twice the
//! registers leave more of the time to memory.

mod rounded;
mod softmax;

use std::arch::x86_64::*;

use bytemuck::Pod;

pub(super) use rounded::{add_rounded_values, rounded_dots};
pub(super) use softmax::{weigh, weigh_rounded};

const WIDTH: usize = 16;
const SCORES: usize = TILE / WIDTH;
const VECTORS: usize = 8; // a head of 128

type Floats = __m512;

super::loops::float_kernels!(#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]);

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn zero() -> Floats {
    _mm512_setzero_ps()
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_product(sum: &mut Floats, factor: f32, numbers: Floats) {
    *sum = _mm512_add_ps(*sum, _mm512_mul_ps(_mm512_set1_ps(factor), numbers));
}

/// Sixteen numbers as f32, which is exact: f32 as they are, f16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn widen<T: Pod>(numbers: &[T; WIDTH]) -> Floats {
    let from = numbers.as_ptr();
    #[expect(unsafe_code, reason = "an unaligned load takes a raw pointer")]
    // SAFETY: behind the reference lie sixteen numbers of the size that each arm reads; alignment is not asked for.
    unsafe {
        match size_of::<T>() {
            4 => _mm512_loadu_ps(from.cast()),
            2 => _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())),
            _ => unreachable!("no such format"),
        }
    }
}
