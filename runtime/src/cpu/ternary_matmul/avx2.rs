//! AVX2: a group of 128 in four byte-wise multiply-adds; with AVX-VNNI (`VNNI`) they add up by themselves.
//!
//! One token (decode): four rows at once, so that the chain of additions of one row hides behind the others, and
//! codes are unpacked straight from the file's blocks. Many tokens (prefill): a tile of weights is unpacked once
//! into the first-level cache and used for all tokens, four at a time.

#![expect(clippy::needless_range_loop, reason = "registers are numbered; closures are not compiled for AVX2")]

mod base_3;
pub(super) mod blocks;
pub(super) mod many_tokens;
mod natural;
mod one_token;
pub(super) mod round;

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::offset_of;

use super::tile::many_tokens;
use super::{Activations, RoundedGroup, Rows};
use crate::ternary::Packing;
use many_tokens::{TOKENS, tile_products};
use one_token::one_token;

/// See [`super::rows`].
#[target_feature(enable = "avx2,f16c")]
pub(super) fn rows(out: &mut [f32], weights: Rows, x: Activations) {
    any_packing::<false>(out, weights, x);
}

/// See [`super::rows`].
#[target_feature(enable = "avx2,f16c,avxvnni")]
pub(super) fn rows_vnni(out: &mut [f32], weights: Rows, x: Activations) {
    any_packing::<true>(out, weights, x);
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn any_packing<const VNNI: bool>(out: &mut [f32], weights: Rows, x: Activations) {
    match weights.packing {
        Packing::Q2_0 => packed_rows::<VNNI, 34>(out, weights, x),
        Packing::Q2_0G64 => packed_rows::<VNNI, 36>(out, weights, x),
        Packing::Tq2_0 => packed_rows::<VNNI, 66>(out, weights, x),
        Packing::Ptq1_0 => packed_rows::<VNNI, 28>(out, weights, x),
        Packing::Tq1_0 => packed_rows::<VNNI, 54>(out, weights, x),
    }
}

/// `BLOCK` bytes hold 128 weights (one block, or two of 64) or 256; each packing has a length of its own.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn packed_rows<const VNNI: bool, const BLOCK: usize>(out: &mut [f32], weights: Rows, x: Activations) {
    match x.tokens() {
        1 if !x.side_by_side => one_token::<VNNI, BLOCK>(out, weights, x),
        #[expect(unsafe_code, reason = "the loop takes kernels of any level")]
        // SAFETY: only `rows_vnni` asks for AVX-VNNI.
        _ => unsafe { many_tokens::<BLOCK>(out, weights, x, tile_products::<VNNI>, TOKENS) },
    }
}

/// Sums of the products of `R` rows, whose codes are as they lie in the file, with one token: two 16-bit numbers of each lane.
/// Planes 1 and 3 stay where they are in their bytes, four times too large, until their products are added up, which saves two
/// of three shifts. Instructions of the rows alternate, because those of one row wait for each other: 1.1 times as fast in a
/// loop on Zen 1 (docs/optimisation-log.md).
#[inline]
#[target_feature(enable = "avx2")]
fn sums_of_packed<const R: usize>(codes: [__m256i; R], x: &RoundedGroup) -> [__m256i; R] {
    let (low, high) = (_mm256_set1_epi8(3), _mm256_set1_epi8(12));
    let mut own = [x; R];
    for x in &mut own {
        *x = another(x);
    }
    let x = own;
    let zero = [_mm256_setzero_si256(); R];
    let (mut upper, mut once, mut four_times, mut sums) = (zero, zero, zero, zero);
    for r in 0..R {
        once[r] = _mm256_maddubs_epi16(_mm256_and_si256(codes[r], low), vector(x[r], 0));
        upper[r] = _mm256_srli_epi16::<4>(codes[r]);
    }
    in_order(&mut once);
    for r in 0..R {
        four_times[r] = _mm256_maddubs_epi16(_mm256_and_si256(codes[r], high), vector(x[r], 1));
    }
    in_order(&mut four_times);
    for r in 0..R {
        let products = _mm256_maddubs_epi16(_mm256_and_si256(upper[r], low), vector(x[r], 2));
        once[r] = _mm256_add_epi16(once[r], products);
    }
    in_order(&mut once);
    for r in 0..R {
        let products = _mm256_maddubs_epi16(_mm256_and_si256(upper[r], high), vector(x[r], 3));
        four_times[r] = _mm256_add_epi16(four_times[r], products); // at most 4 * 2 * 2 * 3 * 127: no overflow
    }
    in_order(&mut four_times);
    for r in 0..R {
        sums[r] = _mm256_add_epi16(once[r], _mm256_srai_epi16::<2>(four_times[r]));
    }
    in_order(&mut sums);
    sums
}

/// Has these computed before what is computed of them, and in this order: left alone, the compiler puts the instructions of
/// one token or row next to each other again.
#[inline]
#[target_feature(enable = "avx2")]
fn in_order<const N: usize>(vectors: &mut [__m256i; N]) {
    if N == 1 {
        return; // nothing to alternate with, and rows that follow may mix
    }
    for n in 0..N {
        #[expect(unsafe_code, reason = "assembly")]
        // SAFETY: no instruction at all.
        unsafe {
            asm!("/* {v} */", v = inout(ymm_reg) vectors[n], options(nomem, nostack, preserves_flags));
        }
    }
}

/// The same reference, which the compiler takes for another one: so it loads what lies there again for each row, as an
/// operand of the instruction that uses it, instead of keeping it in registers that the sums then lack.
#[inline(always)]
fn another<T>(x: &T) -> &T {
    let mut at = std::ptr::from_ref(x);
    #[expect(unsafe_code, clippy::pointers_in_nomem_asm_block, reason = "assembly that reads nothing")]
    // SAFETY: no instruction at all, so the pointer stays that of the reference.
    unsafe {
        asm!("/* {at} */", at = inout(reg) at, options(nomem, nostack, preserves_flags));
        &*at
    }
}

/// Sums of the products of a row's four planes by AVX-VNNI, 32 bits a lane. Assembly, because a function compiled for it would
/// not be inlined into those for AVX2.
#[inline]
#[target_feature(enable = "avx2")]
fn sums_vnni(planes: [__m256i; 4], x: &RoundedGroup) -> __m256i {
    const { assert!(offset_of!(RoundedGroup, planes) == 0) };
    let mut sums = _mm256_setzero_si256();
    #[expect(unsafe_code, reason = "assembly")]
    // SAFETY: only `rows_vnni` leads here, so the processor has AVX-VNNI. 128 readable bytes lie behind the pointer.
    unsafe {
        asm!(
            "{{vex}} vpdpbusd {sums}, {a}, ymmword ptr [{x}]",
            "{{vex}} vpdpbusd {sums}, {b}, ymmword ptr [{x} + 32]",
            "{{vex}} vpdpbusd {sums}, {c}, ymmword ptr [{x} + 64]",
            "{{vex}} vpdpbusd {sums}, {d}, ymmword ptr [{x} + 96]",
            sums = inout(ymm_reg) sums,
            a = in(ymm_reg) planes[0],
            b = in(ymm_reg) planes[1],
            c = in(ymm_reg) planes[2],
            d = in(ymm_reg) planes[3],
            x = in(reg) x,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    sums
}

/// Plane `n` of a group: aligned, so that it becomes an operand of the instruction that uses it.
#[inline]
#[target_feature(enable = "avx2")]
fn vector(x: &RoundedGroup, n: usize) -> __m256i {
    const { assert!(offset_of!(RoundedGroup, planes) == 0 && align_of::<RoundedGroup>() == 32) };
    assert!(n < 4);
    #[expect(unsafe_code, reason = "a load takes a raw pointer")]
    // SAFETY: a group begins with four vectors of 32 bytes, aligned to 32, as asserted above.
    unsafe {
        _mm256_load_si256(std::ptr::from_ref(x).cast::<__m256i>().add(n))
    }
}
