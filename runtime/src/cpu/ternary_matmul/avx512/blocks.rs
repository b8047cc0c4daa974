//! Blocks of eight rows, unpacked to two rows in a register.

use std::arch::x86_64::*;

use super::super::avx2::blocks::{self as avx2_blocks, load, load_half};
use super::super::{Rows, half_block};
use super::{PAIRS, ROWS};

/// 128 weights of each of two rows, unpacked.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Unpacked {
    pub(super) planes: [__m512i; 4],
    /// Scale of each lane.
    pub(super) scales: __m512,
}

/// Eight rows of weights.
pub(super) struct EightRows<'a, const BLOCK: usize> {
    /// Whole blocks of each row.
    pub(super) whole: usize,
    rows: [&'a [[u8; BLOCK]]; ROWS],
}

impl<'a, const BLOCK: usize> EightRows<'a, BLOCK> {
    /// `count` rows from `first` on; if that is less than eight, the last one again and again.
    #[inline(always)]
    pub(super) fn new(weights: Rows<'a>, first: usize, count: usize) -> Self {
        let whole = weights.row_bytes / BLOCK;
        let mut rows = Self { whole, rows: [&[]; ROWS] };
        for r in 0..ROWS {
            rows.rows[r] = &weights.row(first + r.min(count - 1)).as_chunks().0[..whole];
        }
        rows
    }

    #[inline(always)]
    pub(super) fn blocks(&self, b: usize) -> [&'a [u8; BLOCK]; ROWS] {
        let mut blocks = [&[0; BLOCK]; ROWS];
        for r in 0..ROWS {
            blocks[r] = &self.rows[r][b];
        }
        blocks
    }
}

/// The half groups that eight rows of an odd number of 64s end in.
pub(super) fn half_blocks<const BLOCK: usize>(
    weights: Rows,
    first: usize,
    count: usize,
) -> [[u8; BLOCK]; ROWS] {
    std::array::from_fn(|r| half_block(weights.row(first + r.min(count - 1))))
}

/// Codes and scales of the 128 weights `part` of a block of each of eight rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn unpack<const BLOCK: usize>(
    unpacked: &mut [Unpacked; PAIRS],
    blocks: &[&[u8; BLOCK]; ROWS],
    part: usize,
) {
    if BLOCK == 34 || BLOCK == 36 {
        return unpack_q2_0(unpacked, blocks);
    }
    for p in 0..PAIRS {
        let first = avx2_blocks::unpack(blocks[2 * p], part);
        let second = avx2_blocks::unpack(blocks[2 * p + 1], part);
        for k in 0..4 {
            unpacked[p].planes[k] = two(first.planes[k], second.planes[k]);
        }
        let scales = two(_mm256_castps_si256(first.scales), _mm256_castps_si256(second.scales));
        unpacked[p].scales = _mm512_castsi512_ps(scales);
    }
}

/// The same for blocks of Q2_0, whose scales come first: those of eight rows are converted together.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn unpack_q2_0<const BLOCK: usize>(unpacked: &mut [Unpacked; PAIRS], blocks: &[&[u8; BLOCK]; ROWS]) {
    let (scales, lanes) = scales(blocks);
    let mask = _mm512_set1_epi8(3);
    for p in 0..PAIRS {
        let codes = two(codes(blocks[2 * p]), codes(blocks[2 * p + 1]));
        unpacked[p].planes = [
            _mm512_and_si512(codes, mask),
            _mm512_and_si512(_mm512_srli_epi16::<2>(codes), mask),
            _mm512_and_si512(_mm512_srli_epi16::<4>(codes), mask),
            _mm512_and_si512(_mm512_srli_epi16::<6>(codes), mask),
        ];
        let lanes = _mm512_add_epi32(lanes, _mm512_set1_epi32(2 * p as i32));
        unpacked[p].scales = _mm512_permutexvar_ps(lanes, scales);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn zero() -> Unpacked {
    Unpacked { planes: [_mm512_setzero_si512(); 4], scales: _mm512_setzero_ps() }
}

/// Two vectors, the first in the lower half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn two(first: __m256i, second: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second)
}

/// The scales of eight rows, the second ones of blocks of 64 in the upper lanes, and where the lanes of the first
/// pair of rows find theirs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn scales<const BLOCK: usize>(blocks: &[&[u8; BLOCK]; ROWS]) -> (__m512, __m512i) {
    let first = f16s(blocks, 0);
    if BLOCK == 34 {
        let lanes = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
        return (_mm512_castps256_ps512(_mm256_cvtph_ps(first)), lanes);
    }
    let lanes = _mm512_setr_epi32(0, 0, 0, 0, 8, 8, 8, 8, 1, 1, 1, 1, 9, 9, 9, 9);
    (_mm512_cvtph_ps(_mm256_set_m128i(f16s(blocks, 18), first)), lanes)
}

/// The two bytes at `at` of each block, from loads of four (which need no shuffle).
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn f16s<const BLOCK: usize>(blocks: &[&[u8; BLOCK]; ROWS], at: usize) -> __m128i {
    let mut twos = [_mm_setzero_si128(); PAIRS];
    for p in 0..PAIRS {
        let (even, odd) = (&blocks[2 * p][at..], &blocks[2 * p + 1][at..]);
        let even = _mm_cvtsi32_si128(i32::from_le_bytes([even[0], even[1], even[2], even[3]]));
        let odd = _mm_cvtsi32_si128(i32::from_le_bytes([odd[0], odd[1], odd[2], odd[3]]));
        twos[p] = _mm_unpacklo_epi16(even, odd);
    }
    _mm_unpacklo_epi64(_mm_unpacklo_epi32(twos[0], twos[1]), _mm_unpacklo_epi32(twos[2], twos[3]))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn codes<const BLOCK: usize>(block: &[u8; BLOCK]) -> __m256i {
    if BLOCK == 34 {
        return load::<u8, 32>(block[2..].as_array().expect("34 bytes"));
    }
    _mm256_set_m128i(load_half(block, 20), load_half(block, 2))
}
