//! NEON: a group of 128 in two halves of four lanes each; with `sdot` (`DOT`) a lane's four bytes of a plane are
//! multiplied and added in one instruction.
//!
//! One token (decode): four rows at once, so that the chain of additions of one row hides behind the others, and
//! codes are unpacked straight from the file's blocks. Many tokens (prefill): a tile of weights is unpacked once
//! into the first-level cache and used for all tokens, two rows and four tokens at a time with sums and weights in
//! registers.

#![expect(clippy::needless_range_loop, reason = "registers are numbered")]

mod blocks;
pub(super) mod i8mm;

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Activations, RoundedGroup, Rows, half_block, parts};
use crate::cpu::isa::prefetch;
use crate::cpu::ops;
use crate::ternary::Packing;
use blocks::{Unpacked, group, unpack, vector};

/// Rows that one token meets together.
const DECODE_ROWS: usize = 4;
/// How early a decode asks for memory: as measured for AVX2.
const EARLY: usize = 1280;
/// A tile of unpacked weights is this many rows of this many groups: 10 KiB.
const TILE_ROWS: usize = 8;
const TILE_GROUPS: usize = 8;
/// Rows and tokens that are computed together, half a group at a time: their sums take 8 registers, the weights 10,
/// what is under way the rest.
const ROWS: usize = 2;
const TOKENS: usize = 4;
/// Tokens whose sums wait in memory while a tile of weights is in use.
const PANEL: usize = 64;

/// Unpacked weights: `[row][half][group]`.
type Tile = [[[Unpacked; TILE_GROUPS]; 2]; TILE_ROWS];
/// Sums of each row of a tile with each token of a panel, four lanes each: `[row][half][token]`.
type Sums = [[[float32x4_t; PANEL]; 2]; TILE_ROWS];

/// See [`super::rows`].
#[target_feature(enable = "neon")]
pub(super) fn rows(out: &mut [f32], weights: Rows, x: Activations) {
    any_packing::<false>(out, weights, x);
}

/// See [`super::rows`].
#[target_feature(enable = "neon,dotprod")]
pub(super) fn rows_dotprod(out: &mut [f32], weights: Rows, x: Activations) {
    any_packing::<true>(out, weights, x);
}

#[inline]
#[target_feature(enable = "neon")]
fn any_packing<const DOT: bool>(out: &mut [f32], weights: Rows, x: Activations) {
    match weights.packing {
        Packing::Q2_0 => packed_rows::<DOT, 34>(out, weights, x),
        Packing::Q2_0G64 => packed_rows::<DOT, 36>(out, weights, x),
        Packing::Tq2_0 => packed_rows::<DOT, 66>(out, weights, x),
        Packing::Ptq1_0 => packed_rows::<DOT, 28>(out, weights, x),
        Packing::Tq1_0 => packed_rows::<DOT, 54>(out, weights, x),
    }
}

/// `BLOCK` bytes hold 128 weights (one block, or two of 64) or 256; each packing has a length of its own.
#[inline]
#[target_feature(enable = "neon")]
fn packed_rows<const DOT: bool, const BLOCK: usize>(out: &mut [f32], weights: Rows, x: Activations) {
    match x.tokens() {
        1 => one_token::<DOT, BLOCK>(out, weights, x.token(0)),
        _ => many_tokens::<DOT, BLOCK>(out, weights, x),
    }
}

#[target_feature(enable = "neon")]
fn one_token<const DOT: bool, const BLOCK: usize>(out: &mut [f32], weights: Rows, x: &[RoundedGroup]) {
    let (tiles, rest) = out.as_chunks_mut::<DECODE_ROWS>();
    let done = tiles.len() * DECODE_ROWS;
    for (n, tile) in tiles.iter_mut().enumerate() {
        *tile = dots::<DOT, BLOCK, DECODE_ROWS>(weights, n * DECODE_ROWS, x);
    }
    for (n, out) in rest.iter_mut().enumerate() {
        [*out] = dots::<DOT, BLOCK, 1>(weights, done + n, x);
    }
}

/// Products of `R` rows from `first` on with one token.
#[inline]
#[target_feature(enable = "neon")]
fn dots<const DOT: bool, const BLOCK: usize, const R: usize>(
    weights: Rows,
    first: usize,
    x: &[RoundedGroup],
) -> [f32; R] {
    let mut rows: [&[[u8; BLOCK]]; R] = [&[]; R];
    let (mut sums, mut out) = ([[vdupq_n_f32(0.0); 2]; R], [0.0; R]);
    let whole = weights.row_bytes / BLOCK;
    for r in 0..R {
        rows[r] = &weights.row(first + r).as_chunks().0[..whole];
    }
    let ahead = weights.row(first).as_ptr().wrapping_add(weights.ahead(R, EARLY));
    for b in 0..whole {
        // The rows of a tile lie one behind the other, so this asks for all of the file in order.
        for line in (0..BLOCK * R).step_by(64) {
            prefetch(ahead.wrapping_add(b * BLOCK * R + line));
        }
        for part in 0..parts(BLOCK) {
            let x = &x[b * parts(BLOCK) + part];
            // Written out: a loop this long is not unrolled, and would keep its sums in memory.
            add_group::<DOT, BLOCK>(&mut sums[0], &rows[0][b], part, x);
            if R == DECODE_ROWS {
                add_group::<DOT, BLOCK>(&mut sums[1], &rows[1][b], part, x);
                add_group::<DOT, BLOCK>(&mut sums[2], &rows[2][b], part, x);
                add_group::<DOT, BLOCK>(&mut sums[3], &rows[3][b], part, x);
            }
        }
    }
    for r in 0..R {
        if let Some(x) = x.get(whole * parts(BLOCK)) {
            add_group::<DOT, BLOCK>(&mut sums[r], &half_block(weights.row(first + r)), 0, x);
        }
        out[r] = tree(sums[r]);
    }
    out
}

/// Adds the products of one group of a row with one token's activations.
#[inline]
#[target_feature(enable = "neon")]
fn add_group<const DOT: bool, const BLOCK: usize>(
    sums: &mut [float32x4_t; 2],
    block: &[u8; BLOCK],
    part: usize,
    x: &RoundedGroup,
) {
    for half in 0..2 {
        add_products::<DOT>(&mut sums[half], &unpack(block, part, half), x, half);
    }
}

#[target_feature(enable = "neon")]
fn many_tokens<const DOT: bool, const BLOCK: usize>(out: &mut [f32], weights: Rows, x: Activations) {
    let (tokens, groups) = (x.tokens(), x.groups_per_token);
    let rows = out.len() / tokens;
    let zero = Unpacked { planes: [vdupq_n_u8(0); 4], scale: vdupq_n_f32(0.0) };
    let mut tile: Tile = [[[zero; TILE_GROUPS]; 2]; TILE_ROWS];
    let mut sums: Sums = [[[vdupq_n_f32(0.0); PANEL]; 2]; TILE_ROWS];
    for first_row in (0..rows).step_by(TILE_ROWS) {
        let tile_rows = TILE_ROWS.min(rows - first_row);
        for first_token in (0..tokens).step_by(PANEL) {
            let panel = PANEL.min(tokens - first_token);
            for sums in sums.as_flattened_mut() {
                sums[..panel].fill(vdupq_n_f32(0.0));
            }
            for first_group in (0..groups).step_by(TILE_GROUPS) {
                let some = first_group..groups.min(first_group + TILE_GROUPS);
                for (r, tile) in tile[..tile_rows].iter_mut().enumerate() {
                    unpack_groups::<BLOCK>(tile, weights.row(first_row + r), some.clone());
                }
                // Of an odd number of rows, the last has what an earlier tile left as its partner.
                for r in (0..tile_rows).step_by(ROWS) {
                    let (sums, tile) = (&mut sums[r..r + ROWS], &tile[r..r + ROWS]);
                    for t in (0..panel).step_by(TOKENS) {
                        match panel - t {
                            1 => tile_products::<DOT, 1>(sums, t, tile, x, first_token, some.clone()),
                            2 => tile_products::<DOT, 2>(sums, t, tile, x, first_token, some.clone()),
                            3 => tile_products::<DOT, 3>(sums, t, tile, x, first_token, some.clone()),
                            _ => tile_products::<DOT, TOKENS>(sums, t, tile, x, first_token, some.clone()),
                        }
                    }
                }
            }
            for t in 0..panel {
                let out = &mut out[(first_token + t) * rows + first_row..][..tile_rows];
                for (out, [lower, upper]) in out.iter_mut().zip(&sums) {
                    *out = tree([lower[t], upper[t]]);
                }
            }
        }
    }
}

/// Adds the products of two rows of a tile with tokens `t..t + T` of the panel that starts at `first_token`.
#[inline]
#[target_feature(enable = "neon")]
fn tile_products<const DOT: bool, const T: usize>(
    sums: &mut [[[float32x4_t; PANEL]; 2]],
    t: usize,
    tile: &[[[Unpacked; TILE_GROUPS]; 2]],
    x: Activations,
    first_token: usize,
    groups: std::ops::Range<usize>,
) {
    let mut tokens: [&[RoundedGroup]; T] = [&[]; T];
    for i in 0..T {
        tokens[i] = &x.token(first_token + t + i)[groups.clone()];
    }
    for half in 0..2 {
        let mut acc = [[vdupq_n_f32(0.0); T]; ROWS];
        for r in 0..ROWS {
            acc[r].copy_from_slice(&sums[r][half][t..t + T]);
        }
        for g in 0..groups.len() {
            let weights = [tile[0][half][g], tile[1][half][g]];
            for i in 0..T {
                for r in 0..ROWS {
                    add_products::<DOT>(&mut acc[r][i], &weights[r], &tokens[i][g], half);
                }
            }
        }
        for r in 0..ROWS {
            sums[r][half][t..t + T].copy_from_slice(&acc[r]);
        }
    }
}

/// Unpacks some groups of a row.
#[inline]
#[target_feature(enable = "neon")]
fn unpack_groups<const BLOCK: usize>(
    tile: &mut [[Unpacked; TILE_GROUPS]; 2],
    row: &[u8],
    groups: std::ops::Range<usize>,
) {
    for (n, g) in groups.enumerate() {
        [tile[0][n], tile[1][n]] = group::<BLOCK>(row, g);
    }
}

/// Adds the products of half a group with one token's activations: the one arithmetic of this file.
#[inline]
#[target_feature(enable = "neon")]
fn add_products<const DOT: bool>(sums: &mut float32x4_t, w: &Unpacked, x: &RoundedGroup, half: usize) {
    let minus_sums = vector(&x.minus_sums[4 * half..][..4]);
    let mut planes = [vdupq_n_s8(0); 4];
    for k in 0..4 {
        planes[k] = vector(&x.planes[k][16 * half..][..16]);
    }
    let lanes = if DOT { lanes_dotprod(minus_sums, w, planes) } else { lanes(minus_sums, w, planes) };
    let scales = vmulq_f32(w.scale, vector(&x.scales[4 * half..][..4]));
    *sums = vaddq_f32(*sums, vmulq_f32(scales, vcvtq_f32_s32(lanes)));
}

/// Products of the codes with the activations, less the sums of the activations.
#[inline]
#[target_feature(enable = "neon")]
fn lanes(minus_sums: int32x4_t, w: &Unpacked, x: [int8x16_t; 4]) -> int32x4_t {
    // Four products are at most 4 * 3 * 127, and two of those fit i16 easily.
    let mut lower = vdupq_n_s16(0);
    let mut upper = vdupq_n_s16(0);
    for k in 0..4 {
        let w = vreinterpretq_s8_u8(w.planes[k]);
        lower = vmlal_s8(lower, vget_low_s8(w), vget_low_s8(x[k]));
        upper = vmlal_high_s8(upper, w, x[k]);
    }
    vpadalq_s16(minus_sums, vpaddq_s16(lower, upper))
}

/// The same by `sdot`. Assembly, because its function is not stable yet, and because one compiled for it would not be
/// inlined into those for NEON.
#[inline]
#[target_feature(enable = "neon")]
fn lanes_dotprod(minus_sums: int32x4_t, w: &Unpacked, x: [int8x16_t; 4]) -> int32x4_t {
    let mut lanes = minus_sums;
    for k in 0..4 {
        #[expect(unsafe_code, reason = "assembly")]
        // SAFETY: only `rows_dotprod` leads here, so the processor has the instruction.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {lanes:v}.4s, {w:v}.16b, {x:v}.16b",
                lanes = inout(vreg) lanes,
                w = in(vreg) w.planes[k],
                x = in(vreg) x[k],
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }
    lanes
}

/// The eight lanes in the one fixed tree.
#[inline]
#[target_feature(enable = "neon")]
fn tree(lanes: [float32x4_t; 2]) -> f32 {
    ops::tree::<8>(bytemuck::cast(lanes))
}
