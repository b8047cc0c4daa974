//! AVX2: a group of 128 in four byte-wise multiply-adds; with AVX-VNNI (`VNNI`) they add up by themselves.
//!
//! One token (decode): four rows at once, so that the chain of additions of one row hides behind the others, and
//! codes are unpacked straight from the file's blocks. Many tokens (prefill): a tile of weights is unpacked once
//! into the first-level cache and used for all tokens, four at a time with the weights in registers.

#![expect(clippy::needless_range_loop, reason = "registers are numbered; closures are not compiled for AVX2")]

use std::arch::asm;
use std::arch::x86_64::*;

use super::{CODE_BYTES, Rounded, RoundedGroup, Rows};

/// Rows that one token meets together.
const DECODE_ROWS: usize = 4;
/// A tile of unpacked weights is this many rows of this many groups: 10 KiB, a third of a first-level cache, beside
/// [`TOKENS`] times as many groups of activations.
const TILE_ROWS: usize = 8;
const TILE_GROUPS: usize = 8;
/// Tokens that are computed together: with their sums and four planes of weights they fill the 16 registers.
const TOKENS: usize = 4;
/// Tokens whose sums wait in memory while a tile of weights is in use.
const PANEL: usize = 64;

/// 128 weights, unpacked.
#[derive(Clone, Copy)]
struct Unpacked {
    planes: [__m256i; 4],
    /// Scale of each lane.
    scales: __m256,
}

/// Sums of each row of a tile with each token of a panel, eight lanes each.
type Sums = [[__m256; PANEL]; TILE_ROWS];

/// See [`super::rows`].
#[target_feature(enable = "avx2,f16c")]
pub(super) fn rows(out: &mut [f32], weights: Rows, x: &Rounded) {
    any_rows::<false>(out, weights, x);
}

/// See [`super::rows`].
#[target_feature(enable = "avx2,f16c,avxvnni")]
pub(super) fn rows_vnni(out: &mut [f32], weights: Rows, x: &Rounded) {
    any_rows::<true>(out, weights, x);
}

#[target_feature(enable = "avx2,f16c")]
fn any_rows<const VNNI: bool>(out: &mut [f32], weights: Rows, x: &Rounded) {
    match (weights.group, x.tokens()) {
        (128, 1) => one_token::<VNNI, 34>(out, weights, x.token(0)),
        (128, _) => many_tokens::<VNNI, 34>(out, weights, x),
        (_, 1) => one_token::<VNNI, 36>(out, weights, x.token(0)),
        _ => many_tokens::<VNNI, 36>(out, weights, x),
    }
}

#[target_feature(enable = "avx2,f16c")]
fn one_token<const VNNI: bool, const BLOCK: usize>(out: &mut [f32], weights: Rows, x: &[RoundedGroup]) {
    let (tiles, rest) = out.as_chunks_mut::<DECODE_ROWS>();
    let done = tiles.len() * DECODE_ROWS;
    for (n, tile) in tiles.iter_mut().enumerate() {
        *tile = dots::<VNNI, BLOCK, DECODE_ROWS>(weights, n * DECODE_ROWS, x);
    }
    for (n, out) in rest.iter_mut().enumerate() {
        [*out] = dots::<VNNI, BLOCK, 1>(weights, done + n, x);
    }
}

/// Products of `R` rows from `first` on with one token. `BLOCK` bytes hold 128 weights: one block of 34 or two of 18.
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
    for (g, x) in x[..whole].iter().enumerate() {
        for r in 0..R {
            add_products::<VNNI>(&mut sums[r], &unpack(&rows[r][g]), x);
        }
    }
    for r in 0..R {
        if let Some(x) = x.get(whole) {
            add_products::<VNNI>(&mut sums[r], &unpack(&half_block::<BLOCK>(weights.row(first + r))), x);
        }
        out[r] = tree(sums[r]);
    }
    out
}

#[target_feature(enable = "avx2,f16c")]
fn many_tokens<const VNNI: bool, const BLOCK: usize>(out: &mut [f32], weights: Rows, x: &Rounded) {
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
    x: &Rounded,
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
        match blocks.get(first + g) {
            Some(block) => *out = unpack(block),
            None if first + g == blocks.len() && !half.is_empty() => *out = unpack(&half_block::<BLOCK>(row)),
            None => break,
        }
    }
}

/// The half group that a row of an odd number of 64s ends in: a scale of zero for the upper lanes.
fn half_block<const BLOCK: usize>(row: &[u8]) -> [u8; BLOCK] {
    let half = row.as_chunks::<BLOCK>().1;
    let mut padded = [0; BLOCK];
    padded[..half.len()].copy_from_slice(half);
    padded
}

/// Adds the products of 128 weights with one token's activations: the one arithmetic of this file.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add_products<const VNNI: bool>(sums: &mut __m256, w: &Unpacked, x: &RoundedGroup) {
    let lanes = _mm256_cvtepi32_ps(if VNNI { lanes_vnni(w, x) } else { lanes(w, x) });
    let scales = _mm256_mul_ps(w.scales, _mm256_castsi256_ps(load(&x.scales)));
    *sums = _mm256_add_ps(*sums, _mm256_mul_ps(scales, lanes));
}

/// Products of the codes with the activations, less the sums of the activations.
#[inline]
#[target_feature(enable = "avx2")]
fn lanes(w: &Unpacked, x: &RoundedGroup) -> __m256i {
    // Pairs of products are at most 2 * 3 * 127, four of those fit i16 easily: nothing saturates.
    let a = _mm256_maddubs_epi16(w.planes[0], load(&x.planes[0]));
    let b = _mm256_maddubs_epi16(w.planes[1], load(&x.planes[1]));
    let c = _mm256_maddubs_epi16(w.planes[2], load(&x.planes[2]));
    let d = _mm256_maddubs_epi16(w.planes[3], load(&x.planes[3]));
    let pairs = _mm256_add_epi16(_mm256_add_epi16(a, b), _mm256_add_epi16(c, d));
    let lanes = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    _mm256_add_epi32(lanes, load(&x.minus_sums))
}

/// The same by AVX-VNNI. Assembly, because a function compiled for it would not be inlined into those for AVX2.
#[inline]
#[target_feature(enable = "avx2")]
fn lanes_vnni(w: &Unpacked, x: &RoundedGroup) -> __m256i {
    let mut lanes = load(&x.minus_sums);
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

/// Codes and scales of one block of 128 or two of 64.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn unpack<const BLOCK: usize>(block: &[u8; BLOCK]) -> Unpacked {
    let (codes, scales) = if BLOCK == 34 { block_of_128(block) } else { blocks_of_64(block) };
    let mask = _mm256_set1_epi8(3);
    let planes = [
        _mm256_and_si256(codes, mask),
        _mm256_and_si256(_mm256_srli_epi16::<2>(codes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<4>(codes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<6>(codes), mask),
    ];
    Unpacked { planes, scales }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn block_of_128(block: &[u8]) -> (__m256i, __m256) {
    let codes: &[u8; CODE_BYTES] = block[2..].as_array().expect("34 bytes");
    (load(codes), _mm256_broadcastss_ps(scale([block[0], block[1]])))
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn blocks_of_64(blocks: &[u8]) -> (__m256i, __m256) {
    let mut codes = [0u8; CODE_BYTES];
    codes[..16].copy_from_slice(&blocks[2..18]);
    codes[16..].copy_from_slice(&blocks[20..36]);
    let low = _mm_broadcastss_ps(scale([blocks[0], blocks[1]]));
    let high = _mm_broadcastss_ps(scale([blocks[18], blocks[19]]));
    (load(&codes), _mm256_set_m128(high, low))
}

/// An f16 as f32, in the lowest lane.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn scale(bytes: [u8; 2]) -> __m128 {
    _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(u16::from_le_bytes(bytes))))
}

/// The eight lanes in the one fixed tree.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn tree(lanes: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// 32 bytes from anywhere. Not `loadu`: for a processor that it knows nothing of, LLVM splits that in two.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load<T: bytemuck::Pod, const N: usize>(from: &[T; N]) -> __m256i {
    const { assert!(size_of::<T>() * N == 32) };
    #[expect(unsafe_code, reason = "an unaligned load takes a raw pointer")]
    // SAFETY: 32 readable bytes lie behind the reference, as asserted above; alignment is not asked for.
    unsafe {
        _mm256_lddqu_si256(from.as_ptr().cast())
    }
}
