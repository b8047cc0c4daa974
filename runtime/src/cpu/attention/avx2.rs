//! AVX2 and F16C: vectors of eight floats; those for rounded numbers are in `rounded`, weights in `softmax`.

mod rounded;
mod softmax;

use std::arch::x86_64::*;

use bytemuck::Pod;

pub(super) use rounded::{add_rounded_values, rounded_dots};
pub(super) use softmax::{weigh, weigh_rounded};

const WIDTH: usize = 8;
const SCORES: usize = TILE / WIDTH;
const VECTORS: usize = 4;

type Floats = __m256;

super::loops::float_kernels!(#[target_feature(enable = "avx2,f16c")]);

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn zero() -> Floats {
    _mm256_setzero_ps()
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add_product(sum: &mut Floats, factor: f32, numbers: Floats) {
    *sum = _mm256_add_ps(*sum, _mm256_mul_ps(_mm256_set1_ps(factor), numbers));
}

/// Eight numbers as f32, which is exact: f32 as they are, f16.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen<T: Pod>(numbers: &[T; WIDTH]) -> Floats {
    let from = numbers.as_ptr();
    #[expect(unsafe_code, reason = "an unaligned load takes a raw pointer")]
    // SAFETY: behind the reference lie eight numbers of the size that each arm reads; alignment is not asked for.
    unsafe {
        match size_of::<T>() {
            4 => _mm256_loadu_ps(from.cast()),
            2 => _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
            _ => unreachable!("no such format"),
        }
    }
}
