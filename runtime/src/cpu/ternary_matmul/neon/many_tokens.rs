//! NEON, many tokens: a tile of eight rows is unpacked once into the first-level cache, in the order that the products want,
//! and used for all tokens. A weight is there its code less one, so that no sums of activations are to be subtracted.

use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

use super::super::{Activations, RoundedGroup, Rows, half_block, parts};
use super::blocks::{codes, scales, vector};
use super::dots::{self, add_up, multipliers, planes};
use super::{add_scaled, i8mm, write};

/// What multiplies.
pub(super) const SMULL: u8 = 0;
pub(super) const SDOT: u8 = 1;
pub(super) const SMMLA: u8 = 2;

/// A tile of unpacked weights is this many rows of this many groups: 9 KiB.
pub(super) const ROWS: usize = 8;
const TILE_GROUPS: usize = 8;
/// Tokens that are computed together, a unit at a time: with eight rows, sums take 8 registers, and those of products 16.
const TOKENS: usize = 4;
/// Tokens whose sums wait in memory while a tile of weights is in use.
const PANEL: usize = 16 * TOKENS;

/// A unit of eight rows, unpacked: the codes, less one.
#[derive(Clone, Copy)]
pub(super) struct EightRows {
    /// Of each plane. By `smull`, a register holds a row; by `sdot`, four bytes of each of four rows, and the registers
    /// take turns between the first four rows and the others; by `smmla`, eight bytes of each of two rows, first those
    /// with one multiplier.
    pub(super) planes: [[int8x16_t; ROWS]; 4],
    pub(super) scales: [float32x4_t; 2],
}

/// Unpacked weights: both units of each group.
type Tile = [[EightRows; 2]; TILE_GROUPS];
/// Sums of the rows of a tile with one token. By `smmla`, those of two tokens are two rows with both, and so on.
pub(super) type Sums = [float32x4_t; 2];

/// Part of the activations.
pub(super) struct Part<'a> {
    pub(super) x: Activations<'a>,
    pub(super) first_token: usize,
    pub(super) groups: Range<usize>,
    pub(super) unit: usize,
}

#[target_feature(enable = "neon")]
pub(super) fn many_tokens<const BY: u8, const BLOCK: usize>(out: &mut [f32], weights: Rows, x: Activations) {
    let (tokens, groups) = (x.tokens(), x.groups_per_token);
    let rows = out.len() / tokens;
    let zero = EightRows { planes: [[vdupq_n_s8(0); ROWS]; 4], scales: [vdupq_n_f32(0.0); 2] };
    let mut tile: Tile = [[zero; 2]; TILE_GROUPS];
    let mut sums = [[[vdupq_n_f32(0.0); 2]; PANEL]; 2];
    for first_row in (0..rows).step_by(ROWS) {
        // The last row also stands for those that are missing.
        let tile_rows = std::array::from_fn(|r| weights.row((first_row + r).min(rows - 1)));
        for first_token in (0..tokens).step_by(PANEL) {
            let panel = PANEL.min(tokens - first_token);
            let pairs = panel.next_multiple_of(2);
            let [sums, odd] = &mut sums;
            let mut sums = [&mut sums[..pairs], &mut odd[..pairs]];
            for sums in &mut sums {
                sums.fill([vdupq_n_f32(0.0); 2]);
            }
            for first_group in (0..groups).step_by(TILE_GROUPS) {
                let some = first_group..groups.min(first_group + TILE_GROUPS);
                let tile = &mut tile[..some.len()];
                for (g, tile) in some.clone().zip(&mut *tile) {
                    unpack::<BY, BLOCK>(tile, tile_rows, g);
                }
                for unit in 0..2 {
                    for (n, sums) in sums[unit].chunks_mut(TOKENS).enumerate() {
                        let x = Part { x, first_token: first_token + n * TOKENS, groups: some.clone(), unit };
                        tile_products::<BY>(sums, tile, x);
                    }
                }
            }
            let [sums, odd] = sums;
            for (sums, odd) in sums.iter_mut().zip(odd) {
                *sums = [vaddq_f32(sums[0], odd[0]), vaddq_f32(sums[1], odd[1])];
            }
            if BY == SMMLA {
                sums.as_chunks_mut().0.iter_mut().for_each(|sums| *sums = i8mm::by_token(*sums));
            }
            for (t, sums) in (first_token..).zip(&sums[..panel]) {
                let scale = x.scales[t];
                let results = [vmulq_n_f32(sums[0], scale), vmulq_n_f32(sums[1], scale)];
                let at = t * rows + first_row;
                write::<ROWS>(&mut out[at..at + ROWS.min(rows - first_row)], bytemuck::cast(results));
            }
        }
    }
}

/// Unpacks group `g` of some rows.
#[inline]
#[target_feature(enable = "neon")]
fn unpack<const BY: u8, const BLOCK: usize>(tile: &mut [EightRows; 2], rows: [&[u8]; ROWS], g: usize) {
    let (block, part) = (g / parts(BLOCK), g % parts(BLOCK));
    let [first, second] = tile;
    if BLOCK == 36 && (block + 1) * BLOCK > rows[0].len() {
        let halves = rows.map(half_block);
        unpack_unit::<BY, BLOCK, 0>(first, &halves.each_ref());
        return unpack_unit::<BY, BLOCK, 1>(second, &halves.each_ref());
    }
    let mut blocks = [&[0; BLOCK]; ROWS];
    for r in 0..ROWS {
        blocks[r] = &rows[r].as_chunks().0[block];
    }
    if part == 0 {
        unpack_unit::<BY, BLOCK, 0>(first, &blocks);
        unpack_unit::<BY, BLOCK, 1>(second, &blocks);
    } else {
        unpack_unit::<BY, BLOCK, 2>(first, &blocks);
        unpack_unit::<BY, BLOCK, 3>(second, &blocks);
    }
}

/// Unpacks unit `U` of some blocks.
#[inline]
#[target_feature(enable = "neon")]
fn unpack_unit<const BY: u8, const BLOCK: usize, const U: usize>(
    unit: &mut EightRows,
    blocks: &[&[u8; BLOCK]; ROWS],
) {
    for r in 0..ROWS {
        let codes = codes::<BLOCK, U>(blocks[r]);
        for k in 0..4 {
            unit.planes[k][r] = vsubq_s8(codes[k], vdupq_n_s8(1));
        }
    }
    for plane in &mut unit.planes {
        match BY {
            SDOT => *plane = by_four_rows(*plane),
            SMMLA => *plane = i8mm::by_two_rows(*plane),
            _ => {}
        }
    }
    let [a, b, c, d, e, f, g, h] = *blocks;
    unit.scales = [scales::<BLOCK, U>([a, b, c, d]), scales::<BLOCK, U>([e, f, g, h])];
}

/// Four bytes of each of four rows to a register.
#[inline]
#[target_feature(enable = "neon")]
fn by_four_rows(plane: [int8x16_t; ROWS]) -> [int8x16_t; ROWS] {
    let (mut out, rows): (_, [uint32x4_t; ROWS]) = (plane, bytemuck::cast(plane));
    for four in 0..2 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|r| rows[4 * four + r]);
        let low: [uint64x2_t; 2] = bytemuck::cast([vzip1q_u32(a, b), vzip1q_u32(c, d)]);
        let high: [uint64x2_t; 2] = bytemuck::cast([vzip2q_u32(a, b), vzip2q_u32(c, d)]);
        out[four] = vreinterpretq_s8_u64(vzip1q_u64(low[0], low[1]));
        out[2 + four] = vreinterpretq_s8_u64(vzip2q_u64(low[0], low[1]));
        out[4 + four] = vreinterpretq_s8_u64(vzip1q_u64(high[0], high[1]));
        out[6 + four] = vreinterpretq_s8_u64(vzip2q_u64(high[0], high[1]));
    }
    out
}

/// Adds the products of a tile of weights with as many tokens as there are sums for. That may be one more than there are,
/// which only `smmla` computes.
#[inline]
#[target_feature(enable = "neon")]
fn tile_products<const BY: u8>(sums: &mut [Sums], tile: &[[EightRows; 2]], x: Part) {
    match (BY, sums.len().min(x.x.tokens() - x.first_token)) {
        (SMMLA, 1 | 2) => i8mm::add_products::<1>(sums, tile, &x),
        (SMMLA, _) => i8mm::add_products::<{ TOKENS / 2 }>(sums, tile, &x),
        (SDOT, 1) => add_products::<SDOT, 1>(sums, tile, &x),
        (SDOT, 2) => add_products::<SDOT, 2>(sums, tile, &x),
        (SDOT, 3) => add_products::<SDOT, 3>(sums, tile, &x),
        (SDOT, _) => add_products::<SDOT, TOKENS>(sums, tile, &x),
        (_, tokens) => {
            // The compiler keeps no more than one token in registers.
            for (t, sums) in sums[..tokens].chunks_mut(1).enumerate() {
                let x = Part { first_token: x.first_token + t, groups: x.groups.clone(), ..x };
                add_products::<SMULL, 1>(sums, tile, &x);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn add_products<const BY: u8, const T: usize>(sums: &mut [Sums], tile: &[[EightRows; 2]], x: &Part) {
    let mut tokens: [&[RoundedGroup]; T] = [&[]; T];
    let mut acc = [[vdupq_n_f32(0.0); 2]; T];
    for t in 0..T {
        tokens[t] = &x.x.token(x.first_token + t)[x.groups.clone()];
        acc[t] = sums[t];
    }
    for (g, weights) in tile.iter().enumerate() {
        let weights = &weights[x.unit];
        let mut groups = [&RoundedGroup::ZERO; T];
        for t in 0..T {
            groups[t] = &tokens[t][g];
        }
        let products = if BY == SDOT {
            products_dotprod(&weights.planes, groups, x.unit)
        } else {
            products(&weights.planes, groups, x.unit)
        };
        for t in 0..T {
            for four in 0..2 {
                acc[t][four] = add_scaled(acc[t][four], weights.scales[four], products[t][four]);
            }
        }
    }
    sums[..T].copy_from_slice(&acc);
}

/// Products of a unit of eight rows with `T` tokens.
#[inline]
#[target_feature(enable = "neon")]
fn products<const T: usize>(
    w: &[[int8x16_t; ROWS]; 4],
    x: [&RoundedGroup; T],
    unit: usize,
) -> [[int32x4_t; 2]; T] {
    let mut products = [[vdupq_n_s32(0); 2]; T];
    for t in 0..T {
        let (planes, multipliers) = (planes(x[t], unit), multipliers(x[t], unit));
        for four in 0..2 {
            let mut sums = [vdupq_n_s16(0); 4];
            for r in 0..4 {
                sums[r] = dots::products([0, 1, 2, 3].map(|k| w[k][4 * four + r]), planes);
            }
            products[t][four] = add_up(sums, multipliers);
        }
    }
    products
}

/// The same by `sdot`: no sums have to be added across a register.
#[inline]
#[target_feature(enable = "neon")]
fn products_dotprod<const T: usize>(
    w: &[[int8x16_t; ROWS]; 4],
    x: [&RoundedGroup; T],
    unit: usize,
) -> [[int32x4_t; 2]; T] {
    // Of each multiplier.
    let mut sums = [[[vdupq_n_s32(0); 2]; T]; 2];
    for k in 0..4 {
        for t in 0..T {
            let x = vector(&x[t].planes[k][16 * unit..][..16]);
            for four in 0..2 {
                sums[0][t][four] = sdot::<0>(sums[0][t][four], w[k][four], x);
                sums[0][t][four] = sdot::<1>(sums[0][t][four], w[k][2 + four], x);
                sums[1][t][four] = sdot::<2>(sums[1][t][four], w[k][4 + four], x);
                sums[1][t][four] = sdot::<3>(sums[1][t][four], w[k][6 + four], x);
            }
        }
    }
    let [mut products, second] = sums;
    for t in 0..T {
        let multipliers = vreinterpret_s32_u32(vshr_n_u32::<16>(bytemuck::cast(multipliers(x[t], unit))));
        for four in 0..2 {
            let products = &mut products[t][four];
            *products = vmulq_lane_s32::<0>(*products, multipliers);
            *products = vmlaq_lane_s32::<1>(*products, second[t][four], multipliers);
        }
    }
    products
}

/// Adds to each lane the four products of a row with one four of the token's sixteen bytes.
#[inline]
#[target_feature(enable = "neon")]
fn sdot<const FOUR: u8>(mut sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    #[expect(unsafe_code, reason = "assembly")]
    // SAFETY: only `rows_dotprod` leads here, so the processor has the instruction.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {sums:v}.4s, {w:v}.16b, {x:v}.4b[{four}]",
            sums = inout(vreg) sums,
            w = in(vreg) w,
            x = in(vreg) x,
            four = const FOUR,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}
