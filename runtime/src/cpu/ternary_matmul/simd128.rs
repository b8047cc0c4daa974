//! WebAssembly: a unit of 64 weights in four lanes, then four rows' units in one register.
//!
//! One token (decode): some rows at once, unpacked straight from the file's blocks. Many tokens (prefill): a tile of weights
//! is unpacked once into the first-level cache and used for all tokens, four at a time.
//!
//! With the feature `relaxed-simd` the functions here, and nothing else, are compiled for relaxed instructions: given
//! them everywhere, the compiler also uses them for comparisons of floats, whose results then depend on the machine.
//! What runs once for many products has no closures, which would be calls from code that is not compiled for them.
//!
//! The loops over the rows of four end where the matrix does, and so stay loops: unrolled, they are more than engines find
//! registers for, and the sums of one row after the other in memory cost less than what they then spill.

mod blocks;
mod dots;

use std::arch::wasm32::*;
use std::ops::Range;

use super::{Activations, Rows, half_block, parts};
use crate::ternary::Packing;
pub(in crate::cpu) use blocks::widen_f16;
use blocks::{scales, shift, unpack};
use dots::{Codes, Spread, lanes, products};

/// Rows whose sums share a register.
const ROWS: usize = 4;
/// A tile of unpacked weights is this many times four rows of this many groups: 16 KiB, half of a first-level cache.
const TILE_ROWS: usize = 8;
const TILE_GROUPS: usize = 2;
/// Tokens that are computed together.
const TOKENS: usize = 4;
/// Tokens whose sums wait in memory while a tile of weights is in use.
const PANEL: usize = 64;

const ZERO: v128 = f32x4(0.0, 0.0, 0.0, 0.0);

/// 64 weights of each of four rows, unpacked. Rows that there are not may hold anything: their lanes go nowhere.
#[derive(Clone, Copy)]
struct UnitRows {
    codes: [Codes; ROWS],
    scales: v128,
}

/// Units of a tile, for each four rows.
type Tile = [[UnitRows; 2 * TILE_GROUPS]; TILE_ROWS];
/// Both accumulators of four rows.
type Sums = [v128; 2];
/// Those of each four rows of a tile with each token of a panel.
type PanelSums = [[Sums; PANEL]; TILE_ROWS];

/// See [`super::rows`].
#[cfg_attr(feature = "relaxed-simd", target_feature(enable = "relaxed-simd"))]
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
#[cfg_attr(feature = "relaxed-simd", target_feature(enable = "relaxed-simd"))]
fn packed_rows<const BLOCK: usize>(out: &mut [f32], weights: Rows, x: Activations) {
    match x.tokens() {
        1 => one_token::<BLOCK>(out, weights, x),
        _ => many_tokens::<BLOCK>(out, weights, x),
    }
}

#[cfg_attr(feature = "relaxed-simd", target_feature(enable = "relaxed-simd"))]
fn one_token<const BLOCK: usize>(out: &mut [f32], weights: Rows, x: Activations) {
    let spread = |x| [0, 1].map(|unit| [Spread::new(x, unit, shift(BLOCK))]);
    let token: Vec<[[Spread; 1]; 2]> = x.token(0).iter().map(spread).collect();
    for (n, out) in out.chunks_mut(ROWS).enumerate() {
        let mut sums = [ZERO; 2];
        let (mut rows, mut halves) = ([[ZERO; ROWS]; 2], [[0; ROWS]; 2]);
        for (g, x) in token.iter().enumerate() {
            for r in 0..out.len() {
                let (codes, scales) = group::<BLOCK>(weights.row(n * ROWS + r), g);
                for unit in 0..2 {
                    [rows[unit][r]] = lanes(&codes[unit], &x[unit]);
                    halves[unit][r] = scales[unit];
                }
            }
            for unit in 0..2 {
                add_products(&mut sums[unit], &rows[unit], widen(halves[unit]), &x[unit][0]);
            }
        }
        finish(out, sums, x.scales[0], shift(BLOCK));
    }
}

#[cfg_attr(feature = "relaxed-simd", target_feature(enable = "relaxed-simd"))]
fn many_tokens<const BLOCK: usize>(out: &mut [f32], weights: Rows, x: Activations) {
    let (tokens, groups) = (x.tokens(), x.groups_per_token);
    let rows = out.len() / tokens;
    let mut tile: Tile = [[UnitRows { codes: [[ZERO; _]; ROWS], scales: ZERO }; _]; _];
    let mut sums: PanelSums = [[[ZERO; 2]; _]; _];
    for first_row in (0..rows).step_by(TILE_ROWS * ROWS) {
        let tile_rows = first_row..rows.min(first_row + TILE_ROWS * ROWS);
        for first_token in (0..tokens).step_by(PANEL) {
            let panel = first_token..tokens.min(first_token + PANEL);
            for sums in &mut sums {
                sums[..panel.len()].fill([ZERO; 2]);
            }
            for first_group in (0..groups).step_by(TILE_GROUPS) {
                let groups = first_group..groups.min(first_group + TILE_GROUPS);
                unpack_tile::<BLOCK>(&mut tile, weights, tile_rows.clone(), groups.clone());
                panel_products(&mut sums, &tile, tile_rows.len(), x, panel.clone(), groups, shift(BLOCK));
            }
            for (t, token) in panel.enumerate() {
                let out = &mut out[token * rows..][tile_rows.clone()];
                for (out, sums) in out.chunks_mut(ROWS).zip(&sums) {
                    finish(out, sums[t], x.scales[token], shift(BLOCK));
                }
            }
        }
    }
}

/// Unpacks a tile, its rows as many as there are.
#[inline(always)]
fn unpack_tile<const BLOCK: usize>(tile: &mut Tile, weights: Rows, rows: Range<usize>, groups: Range<usize>) {
    for (tile, first) in tile.iter_mut().zip(rows.clone().step_by(ROWS)) {
        for (units, g) in tile.as_chunks_mut::<2>().0.iter_mut().zip(groups.clone()) {
            let mut halves = [[0; ROWS]; 2];
            for (r, row) in (first..rows.end.min(first + ROWS)).enumerate() {
                let (codes, scales) = group::<BLOCK>(weights.row(row), g);
                for unit in 0..2 {
                    units[unit].codes[r] = codes[unit];
                    halves[unit][r] = scales[unit];
                }
            }
            for (unit, halves) in units.iter_mut().zip(halves) {
                unit.scales = widen(halves);
            }
        }
    }
}

/// Adds the products of a tile of so many rows with the tokens of a panel.
#[inline(never)]
#[cfg_attr(feature = "relaxed-simd", target_feature(enable = "relaxed-simd"))]
fn panel_products(
    sums: &mut PanelSums,
    tile: &Tile,
    rows: usize,
    x: Activations,
    panel: Range<usize>,
    groups: Range<usize>,
    shift: u32,
) {
    let whole = panel.len() - panel.len() % TOKENS;
    for unit in 2 * groups.start..2 * groups.end {
        let n = unit - 2 * groups.start;
        for t in (0..whole).step_by(TOKENS) {
            let x = spread::<TOKENS>(x, panel.start + t, unit, shift);
            unit_products(sums, t, tile, n, rows, &x);
        }
        for t in whole..panel.len() {
            let x = spread::<1>(x, panel.start + t, unit, shift);
            unit_products(sums, t, tile, n, rows, &x);
        }
    }
}

/// Activations of one unit of `T` tokens from `first` on.
#[inline(always)]
fn spread<const T: usize>(x: Activations, first: usize, unit: usize, shift: u32) -> [Spread; T] {
    std::array::from_fn(|i| Spread::new(&x.token(first + i)[unit / 2], unit % 2, shift))
}

/// Adds the products of unit `n` of a tile with tokens `t..t + T` of a panel.
#[inline]
#[cfg_attr(feature = "relaxed-simd", target_feature(enable = "relaxed-simd"))]
fn unit_products<const T: usize>(
    sums: &mut PanelSums,
    t: usize,
    tile: &Tile,
    n: usize,
    rows: usize,
    x: &[Spread; T],
) {
    let mut four = [[ZERO; ROWS]; T];
    for (i, first) in (0..rows).step_by(ROWS).enumerate() {
        let w = &tile[i][n];
        for r in 0..ROWS.min(rows - first) {
            for (four, row) in four.iter_mut().zip(lanes(&w.codes[r], x)) {
                four[r] = row;
            }
        }
        for ((sums, four), x) in sums[i][t..t + T].iter_mut().zip(&four).zip(x) {
            add_products(&mut sums[n % 2], four, w.scales, x);
        }
    }
}

/// Codes of a row's group, and the f16 bits of its units' scales.
#[inline(always)]
fn group<const BLOCK: usize>(row: &[u8], group: usize) -> ([Codes; 2], [u32; 2]) {
    let half;
    let block = match row.as_chunks::<BLOCK>().0.get(group / parts(BLOCK)) {
        Some(block) => block,
        None => {
            half = half_block(row);
            &half
        }
    };
    (unpack(block, group % parts(BLOCK)), scales(block))
}

/// Scales of four rows, from their f16 bits.
#[inline(always)]
fn widen([a, b, c, d]: [u32; ROWS]) -> v128 {
    widen_f16(u32x4(a, b, c, d))
}

/// Adds the products of a unit of four rows with the activations of a token: the one float arithmetic of this file.
#[inline(always)]
fn add_products(sums: &mut v128, rows: &[v128; ROWS], scales: v128, x: &Spread) {
    *sums = f32x4_add(*sums, f32x4_mul(scales, f32x4_convert_i32x4(products(rows, x))));
}

/// Results of four rows, their shift undone, or of the first of them as many as there is room for.
#[inline(always)]
fn finish(out: &mut [f32], [even, odd]: Sums, scale: f32, shift: u32) {
    let sums = f32x4_mul(f32x4_add(even, odd), f32x4_splat(1.0 / (1 << shift) as f32));
    let four: [f32; ROWS] = bytemuck::cast(f32x4_mul(sums, f32x4_splat(scale)));
    out.copy_from_slice(&four[..out.len()]);
}
