//! AVX-512 with VNNI: two rows to a register. The lower eight lanes are one row's and the upper eight the next
//! row's, so that every row is added up group after group, as the definition says.
//!
//! One token (decode): eight rows at once, unpacked straight from the file's blocks. Many tokens (prefill): a tile of
//! eight rows is unpacked once into the first-level cache and used for all tokens, four at a time.
//!
//! Vector instructions for 128 weights and one token: 4 in prefill (half of 4 `vpdpbusd` and 4 of floats, which the
//! contract asks for every 128 weights: so half of Intel's peak, where both share units, and two thirds of Zen 4's),
//! 10 in decode, which waits for memory (34 bytes in 5 clock cycles).

#![expect(
    clippy::needless_range_loop,
    reason = "registers are numbered; closures are not compiled for AVX-512"
)]

mod blocks;
mod many_tokens;
mod one_token;
pub(super) mod vbmi;

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::{Activations, RoundedGroup, Rows};
use crate::ternary::Packing;
use blocks::Unpacked;
use many_tokens::many_tokens;
use one_token::one_token;

/// Rows that are computed together.
const ROWS: usize = 8;
const PAIRS: usize = ROWS / 2;

/// A [`RoundedGroup`], once for each of two rows.
struct TwiceRounded {
    planes: [__m512i; 4],
    minus_sums: __m512i,
    scales: __m512,
}

/// Sums of each pair of rows of a tile with one token.
type Sums = [__m512; PAIRS];

/// See [`super::rows`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn rows(out: &mut [f32], weights: Rows, x: Activations) {
    match weights.packing {
        Packing::Q2_0 => packed_rows::<34>(out, weights, x),
        Packing::Q2_0G64 => packed_rows::<36>(out, weights, x),
        Packing::Tq2_0 => packed_rows::<66>(out, weights, x),
        Packing::Ptq1_0 => packed_rows::<28>(out, weights, x),
        Packing::Tq1_0 => packed_rows::<54>(out, weights, x),
    }
}

/// `BLOCK` bytes hold 128 weights (one block, or two of 64) or 256; each packing has a length of its own.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn packed_rows<const BLOCK: usize>(out: &mut [f32], weights: Rows, x: Activations) {
    match x.tokens() {
        1 => one_token::<BLOCK>(out, weights, x.token(0)),
        _ => many_tokens::<BLOCK>(out, weights, x),
    }
}

/// Adds the products of 128 weights of eight rows with one token's activations: the one arithmetic of this file. The
/// pairs of rows take turns, because each of a pair's products waits for the one before.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_products(sums: &mut Sums, w: &[Unpacked; PAIRS], x: &TwiceRounded) {
    let mut lanes = [x.minus_sums; PAIRS];
    for k in 0..4 {
        for p in 0..PAIRS {
            lanes[p] = _mm512_dpbusd_epi32(lanes[p], w[p].planes[k], x.planes[k]);
        }
    }
    for p in 0..PAIRS {
        let scales = _mm512_mul_ps(w[p].scales, x.scales);
        sums[p] = _mm512_add_ps(sums[p], _mm512_mul_ps(scales, _mm512_cvtepi32_ps(lanes[p])));
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn twice_rounded(x: &RoundedGroup) -> TwiceRounded {
    TwiceRounded {
        planes: [twice::<0>(x), twice::<32>(x), twice::<64>(x), twice::<96>(x)],
        minus_sums: twice::<{ offset_of!(RoundedGroup, minus_sums) }>(x),
        scales: _mm512_castsi512_ps(twice::<{ offset_of!(RoundedGroup, scales) }>(x)),
    }
}

/// 32 bytes of a group in both halves: one load. An aligned one, because LLVM would split another in two.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn twice<const OFFSET: usize>(x: &RoundedGroup) -> __m512i {
    const {
        assert!(OFFSET.is_multiple_of(align_of::<RoundedGroup>()) && OFFSET + 32 <= size_of::<RoundedGroup>())
    };
    #[expect(unsafe_code, reason = "a load takes a raw pointer")]
    // SAFETY: 32 readable bytes lie there, aligned to 32, as asserted above.
    let half = unsafe { _mm256_load_si256(std::ptr::from_ref(x).cast::<__m256i>().byte_add(OFFSET)) };
    _mm512_broadcast_i64x4(half)
}

/// The eight lanes of each of eight rows in the one fixed tree: all rows take its steps together.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn trees([a, b, c, d]: [__m512; PAIRS]) -> [f32; ROWS] {
    let (ab, cd) = (_mm512_castps_pd(add_halves(a, b)), _mm512_castps_pd(add_halves(c, d))); // four lanes a row
    let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
    let two = _mm512_add_ps(low, _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    let one = _mm512_add_ps(two, _mm512_movehdup_ps(two));
    let rows = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    bytemuck::cast(_mm512_castps512_ps256(_mm512_permutexvar_ps(rows, one)))
}

/// Lanes 0-3 and 4-7 of each of four rows, added.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_halves(first: __m512, second: __m512) -> __m512 {
    let low = _mm512_shuffle_f32x4::<0b10_00_10_00>(first, second);
    _mm512_add_ps(low, _mm512_shuffle_f32x4::<0b11_01_11_01>(first, second))
}
