//! AVX2: a group of 128 in four byte-wise multiply-adds; with AVX-VNNI (`VNNI`) they add up by themselves.
//!
//! One token (decode): four rows at once, so that the chain of additions of one row hides behind the others, and
//! codes are unpacked straight from the file's blocks. Many tokens (prefill): a tile of weights is unpacked once
//! into the first-level cache and used for all tokens, four at a time with the weights in registers.

#![expect(clippy::needless_range_loop, reason = "registers are numbered; closures are not compiled for AVX2")]

use std::arch::asm;
use std::arch::x86_64::*;

use super::avx2_blocks::{Unpacked, in_planes, in_quarters, packed, tq2_0_in_quarters, unpack};
use super::{Activations, RoundedGroup, Rows, half_block, parts};
use crate::ternary::Packing;

/// Rows that one token meets together.
const DECODE_ROWS: usize = 4;
/// How early a decode asks for memory: the processor's own guesses lose the thread among four rows. Without it a token
/// takes 1.3 times as long (Zen 4, 4 kB pages).
const EARLY: usize = 1280;
/// A tile of unpacked weights is this many rows of this many groups: 10 KiB, a third of a first-level cache, beside
/// [`TOKENS`] times as many groups of activations.
const TILE_ROWS: usize = 8;
const TILE_GROUPS: usize = 8;
/// Tokens that are computed together: with their sums and four planes of weights they fill the 16 registers.
const TOKENS: usize = 4;
/// Tokens whose sums wait in memory while a tile of weights is in use.
const PANEL: usize = 64;

/// Sums of each row of a tile with each token of a panel, eight lanes each.
type Sums = [[__m256; PANEL]; TILE_ROWS];

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
        1 => one_token::<VNNI, BLOCK>(out, weights, x.token(0)),
        _ => many_tokens::<VNNI, BLOCK>(out, weights, x),
    }
}

#[target_feature(enable = "avx2,f16c")]
fn one_token<const VNNI: bool, const BLOCK: usize>(out: &mut [f32], weights: Rows, x: &[RoundedGroup]) {
    let mut quarters = Vec::new();
    if BLOCK == 66 {
        for x in x {
            quarters.push(in_quarters(x));
        }
    }
    let x = if BLOCK == 66 { &quarters } else { x };
    let (tiles, rest) = out.as_chunks_mut::<DECODE_ROWS>();
    let done = tiles.len() * DECODE_ROWS;
    for (n, tile) in tiles.iter_mut().enumerate() {
        *tile = dots::<VNNI, BLOCK, DECODE_ROWS>(weights, n * DECODE_ROWS, x);
    }
    for (n, out) in rest.iter_mut().enumerate() {
        [*out] = dots::<VNNI, BLOCK, 1>(weights, done + n, x);
    }
}

/// Products of `R` rows from `first` on with one token.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn dots<const VNNI: bool, const BLOCK: usize, const R: usize>(
    weights: Rows,
    first: usize,
    x: &[RoundedGroup],
) -> [f32; R] {
    let mut rows: [&[[u8; BLOCK]]; R] = [&[]; R];
    let (mut sums, mut out) = ([_mm256_setzero_ps(); R], [0.0; R]);
    let whole = weights.row_bytes / BLOCK;
    for r in 0..R {
        rows[r] = &weights.row(first + r).as_chunks().0[..whole];
    }
    let f16_to_f32 = weights.f16_to_f32;
    let ahead = weights.row(first).as_ptr().wrapping_add(weights.ahead(R, EARLY));
    for b in 0..whole {
        // The rows of a tile lie one behind the other, so this asks for all of the file in order. A pointer past the
        // end does no harm: a prefetch never fails.
        for line in (0..BLOCK * R).step_by(64) {
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(b * BLOCK * R + line).cast());
        }
        for part in 0..parts(BLOCK) {
            let x = &x[b * parts(BLOCK) + part];
            for r in 0..R {
                let block = &rows[r][b];
                if BLOCK == 66 {
                    add_products::<VNNI>(&mut sums[r], &tq2_0_in_quarters(block, part), x);
                } else if in_planes(BLOCK) && !VNNI {
                    let (codes, scales) = packed(block, f16_to_f32);
                    add_lanes(&mut sums[r], lanes_of_packed(codes, x), scales, x);
                } else {
                    add_products::<VNNI>(&mut sums[r], &unpack(block, part), x);
                }
            }
        }
    }
    for r in 0..R {
        if let Some(x) = x.get(whole * parts(BLOCK)) {
            add_products::<VNNI>(&mut sums[r], &unpack(&half_block::<BLOCK>(weights.row(first + r)), 0), x);
        }
        out[r] = tree(sums[r]);
    }
    out
}

#[target_feature(enable = "avx2,f16c")]
fn many_tokens<const VNNI: bool, const BLOCK: usize>(out: &mut [f32], weights: Rows, x: Activations) {
    let (tokens, groups) = (x.tokens(), x.groups_per_token);
    let rows = out.len() / tokens;
    let zero = Unpacked { planes: [_mm256_setzero_si256(); 4], scales: _mm256_setzero_ps() };
    let mut tile = [[zero; TILE_GROUPS]; TILE_ROWS];
    let mut sums: Sums = [[_mm256_setzero_ps(); PANEL]; TILE_ROWS];
    for first_row in (0..rows).step_by(TILE_ROWS) {
        let tile_rows = TILE_ROWS.min(rows - first_row);
        for first_token in (0..tokens).step_by(PANEL) {
            let panel = PANEL.min(tokens - first_token);
            for sums in &mut sums[..tile_rows] {
                sums[..panel].fill(_mm256_setzero_ps());
            }
            for first_group in (0..groups).step_by(TILE_GROUPS) {
                let some = first_group..groups.min(first_group + TILE_GROUPS);
                for (r, tile) in tile[..tile_rows].iter_mut().enumerate() {
                    unpack_groups::<BLOCK>(tile, weights.row(first_row + r), first_group);
                }
                for t in (0..panel).step_by(TOKENS) {
                    let sums = &mut sums[..tile_rows];
                    match panel - t {
                        1 => tile_products::<VNNI, 1>(sums, t, &tile, x, first_token, some.clone()),
                        2 => tile_products::<VNNI, 2>(sums, t, &tile, x, first_token, some.clone()),
                        3 => tile_products::<VNNI, 3>(sums, t, &tile, x, first_token, some.clone()),
                        _ => tile_products::<VNNI, TOKENS>(sums, t, &tile, x, first_token, some.clone()),
                    }
                }
            }
            for t in 0..panel {
                let out = &mut out[(first_token + t) * rows + first_row..][..tile_rows];
                for (out, sums) in out.iter_mut().zip(&sums) {
                    *out = tree(sums[t]);
                }
            }
        }
    }
}

/// Adds the products of a tile of weights with tokens `t..t + T` of the panel that starts at `first_token`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn tile_products<const VNNI: bool, const T: usize>(
    sums: &mut [[__m256; PANEL]],
    t: usize,
    tile: &[[Unpacked; TILE_GROUPS]; TILE_ROWS],
    x: Activations,
    first_token: usize,
    groups: std::ops::Range<usize>,
) {
    let mut tokens: [&[RoundedGroup]; T] = [&[]; T];
    for i in 0..T {
        tokens[i] = &x.token(first_token + t + i)[groups.clone()];
    }
    for (sums, weights) in sums.iter_mut().zip(tile) {
        let sums = &mut sums[t..t + T];
        let mut acc = [_mm256_setzero_ps(); T];
        acc.copy_from_slice(sums);
        for (g, weights) in weights[..groups.len()].iter().enumerate() {
            for i in 0..T {
                add_products::<VNNI>(&mut acc[i], weights, &tokens[i][g]);
            }
        }
        sums.copy_from_slice(&acc);
    }
}

/// Unpacks the groups of a row from `first` on, as many as there are, up to a tile of them.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn unpack_groups<const BLOCK: usize>(tile: &mut [Unpacked; TILE_GROUPS], row: &[u8], first: usize) {
    let (blocks, half) = row.as_chunks::<BLOCK>();
    for (g, out) in tile.iter_mut().enumerate() {
        let (block, part) = ((first + g) / parts(BLOCK), (first + g) % parts(BLOCK));
        match blocks.get(block) {
            Some(block) => *out = unpack(block, part),
            None if block == blocks.len() && !half.is_empty() => *out = unpack(&half_block::<BLOCK>(row), 0),
            None => break,
        }
    }
}

/// Adds the products of 128 weights with one token's activations: the one arithmetic of this file.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add_products<const VNNI: bool>(sums: &mut __m256, w: &Unpacked, x: &RoundedGroup) {
    add_lanes(sums, if VNNI { lanes_vnni(w, x) } else { lanes(w, x) }, w.scales, x);
}

/// Adds the lanes' integer sums, scaled.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add_lanes(sums: &mut __m256, lanes: __m256i, scales: __m256, x: &RoundedGroup) {
    let scales = _mm256_mul_ps(scales, _mm256_castsi256_ps(vector(x, SCALES)));
    *sums = _mm256_add_ps(*sums, _mm256_mul_ps(scales, _mm256_cvtepi32_ps(lanes)));
}

/// Products of the codes with the activations, less the sums of the activations.
#[inline]
#[target_feature(enable = "avx2")]
fn lanes(w: &Unpacked, x: &RoundedGroup) -> __m256i {
    // Pairs of products are at most 2 * 3 * 127, four of those fit i16 easily: nothing saturates.
    let a = _mm256_maddubs_epi16(w.planes[0], vector(x, 0));
    let b = _mm256_maddubs_epi16(w.planes[1], vector(x, 1));
    let c = _mm256_maddubs_epi16(w.planes[2], vector(x, 2));
    let d = _mm256_maddubs_epi16(w.planes[3], vector(x, 3));
    let pairs = _mm256_add_epi16(_mm256_add_epi16(a, b), _mm256_add_epi16(c, d));
    let lanes = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    _mm256_add_epi32(lanes, vector(x, MINUS_SUMS))
}

/// The same from codes as they lie in the file: planes 1 and 3 stay where they are in their bytes, four times too large,
/// until their products are added up, which saves two of three shifts.
#[inline]
#[target_feature(enable = "avx2")]
fn lanes_of_packed(codes: __m256i, x: &RoundedGroup) -> __m256i {
    let (low, high) = (_mm256_set1_epi8(3), _mm256_set1_epi8(12));
    let upper = _mm256_srli_epi16::<4>(codes);
    let a = _mm256_maddubs_epi16(_mm256_and_si256(codes, low), vector(x, 0));
    let b = _mm256_maddubs_epi16(_mm256_and_si256(codes, high), vector(x, 1));
    let c = _mm256_maddubs_epi16(_mm256_and_si256(upper, low), vector(x, 2));
    let d = _mm256_maddubs_epi16(_mm256_and_si256(upper, high), vector(x, 3));
    let four_times = _mm256_add_epi16(b, d); // at most 4 * 2 * 2 * 3 * 127: no overflow
    let pairs = _mm256_add_epi16(_mm256_add_epi16(a, c), _mm256_srai_epi16::<2>(four_times));
    let lanes = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    _mm256_add_epi32(lanes, vector(x, MINUS_SUMS))
}

/// The same by AVX-VNNI. Assembly, because a function compiled for it would not be inlined into those for AVX2.
#[inline]
#[target_feature(enable = "avx2")]
fn lanes_vnni(w: &Unpacked, x: &RoundedGroup) -> __m256i {
    let mut lanes = vector(x, MINUS_SUMS);
    #[expect(unsafe_code, reason = "assembly")]
    // SAFETY: only `rows_vnni` leads here, so the processor has AVX-VNNI. 128 readable bytes lie behind the pointer.
    unsafe {
        asm!(
            "{{vex}} vpdpbusd {lanes}, {a}, ymmword ptr [{x}]",
            "{{vex}} vpdpbusd {lanes}, {b}, ymmword ptr [{x} + 32]",
            "{{vex}} vpdpbusd {lanes}, {c}, ymmword ptr [{x} + 64]",
            "{{vex}} vpdpbusd {lanes}, {d}, ymmword ptr [{x} + 96]",
            lanes = inout(ymm_reg) lanes,
            a = in(ymm_reg) w.planes[0],
            b = in(ymm_reg) w.planes[1],
            c = in(ymm_reg) w.planes[2],
            d = in(ymm_reg) w.planes[3],
            x = in(reg) x.planes.as_ptr(),
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    lanes
}

/// The eight lanes in the one fixed tree.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn tree(lanes: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// Vectors of a group of activations, behind its four planes.
const MINUS_SUMS: usize = 4;
const SCALES: usize = 5;

/// Vector `n` of a group: aligned, so that it becomes an operand of the instruction that uses it.
#[inline]
#[target_feature(enable = "avx2")]
fn vector(x: &RoundedGroup, n: usize) -> __m256i {
    const { assert!(size_of::<RoundedGroup>() == 32 * (SCALES + 1) && align_of::<RoundedGroup>() == 32) };
    assert!(n <= SCALES);
    #[expect(unsafe_code, reason = "a load takes a raw pointer")]
    // SAFETY: a group is six vectors of 32 bytes in a row, aligned to 32, as asserted above.
    unsafe {
        _mm256_load_si256(std::ptr::from_ref(x).cast::<__m256i>().add(n))
    }
}
