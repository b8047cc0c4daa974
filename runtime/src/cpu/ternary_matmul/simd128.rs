//! WebAssembly: a group of 128 in two halves of four lanes.
//!
//! One token (decode): some rows at once, which share the activations as the products want them; codes are unpacked
//! straight from the file's blocks. Many tokens (prefill): a tile of weights is unpacked once into the first-level cache
//! and used for all tokens, four at a time.
//!
//! With the feature `relaxed-simd` the functions here, and nothing else, are compiled for relaxed instructions: given
//! them everywhere, the compiler also uses them for comparisons of floats, whose results then depend on the machine.
//! What runs once for many products has no closures, which would be calls from code that is not compiled for them.

mod blocks;
mod dots;

use std::arch::wasm32::*;

use super::{Activations, RoundedGroup, Rows, half_block, parts};
use crate::ternary::Packing;
pub(in crate::cpu) use blocks::widen_f16;
use blocks::{Unpacked, unpack};
use dots::{Spread, lanes};

/// Rows that one token meets together.
const DECODE_ROWS: usize = 4;
/// A tile of unpacked weights is this many rows of this many groups: 10 KiB, a third of a first-level cache.
const TILE_ROWS: usize = 8;
const TILE_GROUPS: usize = 8;
/// Tokens that are computed together.
const TOKENS: usize = 4;
/// Tokens whose sums wait in memory while a tile of weights is in use.
const PANEL: usize = 64;

/// Eight float lanes.
type Lanes = [v128; 2];
/// Sums of each row of a tile with each token of a panel.
type Sums = [[Lanes; PANEL]; TILE_ROWS];

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
        1 => one_token::<BLOCK>(out, weights, x.token(0)),
        _ => many_tokens::<BLOCK>(out, weights, x),
    }
}

#[cfg_attr(feature = "relaxed-simd", target_feature(enable = "relaxed-simd"))]
fn one_token<const BLOCK: usize>(out: &mut [f32], weights: Rows, x: &[RoundedGroup]) {
    let (tiles, rest) = out.as_chunks_mut::<DECODE_ROWS>();
    let done = tiles.len() * DECODE_ROWS;
    for (n, tile) in tiles.iter_mut().enumerate() {
        *tile = dots::<BLOCK, DECODE_ROWS>(weights, n * DECODE_ROWS, x);
    }
    for (n, out) in rest.iter_mut().enumerate() {
        [*out] = dots::<BLOCK, 1>(weights, done + n, x);
    }
}

/// Products of `R` rows from `first` on with one token.
#[inline]
#[cfg_attr(feature = "relaxed-simd", target_feature(enable = "relaxed-simd"))]
fn dots<const BLOCK: usize, const R: usize>(weights: Rows, first: usize, x: &[RoundedGroup]) -> [f32; R] {
    let whole = weights.row_bytes / BLOCK;
    let mut rows: [&[[u8; BLOCK]]; R] = [&[]; R];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = &weights.row(first + r).as_chunks().0[..whole];
    }
    let mut sums = [[f32x4_splat(0.0); 2]; R];
    let (x, half) = x.split_at(whole * parts(BLOCK));
    for (g, x) in x.iter().enumerate() {
        let (b, part, x) = (g / parts(BLOCK), g % parts(BLOCK), [Spread::new(x)]);
        for (sums, row) in sums.iter_mut().zip(rows) {
            add_products(std::array::from_mut(sums), &unpack(&row[b], part), &x);
        }
    }
    if let [x] = half {
        for (r, sums) in sums.iter_mut().enumerate() {
            let block = half_block::<BLOCK>(weights.row(first + r));
            add_products(std::array::from_mut(sums), &unpack(&block, 0), &[Spread::new(x)]);
        }
    }
    sums.map(tree)
}

#[cfg_attr(feature = "relaxed-simd", target_feature(enable = "relaxed-simd"))]
fn many_tokens<const BLOCK: usize>(out: &mut [f32], weights: Rows, x: Activations) {
    let (tokens, groups) = (x.tokens(), x.groups_per_token);
    let rows = out.len() / tokens;
    let mut tile = [[Unpacked::zero(); TILE_GROUPS]; TILE_ROWS];
    let mut sums: Sums = [[[f32x4_splat(0.0); 2]; PANEL]; TILE_ROWS];
    for first_row in (0..rows).step_by(TILE_ROWS) {
        let tile_rows = TILE_ROWS.min(rows - first_row);
        for first_token in (0..tokens).step_by(PANEL) {
            let panel = PANEL.min(tokens - first_token);
            let sums = &mut sums[..tile_rows];
            for sums in &mut *sums {
                sums[..panel].fill([f32x4_splat(0.0); 2]);
            }
            for first_group in (0..groups).step_by(TILE_GROUPS) {
                for (r, tile) in tile[..tile_rows].iter_mut().enumerate() {
                    unpack_groups::<BLOCK>(tile, weights.row(first_row + r), first_group);
                }
                let groups = first_group..groups.min(first_group + TILE_GROUPS);
                let whole = panel - panel % TOKENS;
                for t in (0..whole).step_by(TOKENS) {
                    tile_products::<TOKENS>(sums, t, &tile, x, first_token, groups.clone());
                }
                for t in whole..panel {
                    tile_products::<1>(sums, t, &tile, x, first_token, groups.clone());
                }
            }
            for t in 0..panel {
                let out = &mut out[(first_token + t) * rows + first_row..][..tile_rows];
                out.iter_mut().zip(&*sums).for_each(|(out, sums)| *out = tree(sums[t]));
            }
        }
    }
}

/// Adds the products of a tile of weights with tokens `t..t + T` of the panel that starts at `first_token`.
#[inline]
#[cfg_attr(feature = "relaxed-simd", target_feature(enable = "relaxed-simd"))]
fn tile_products<const T: usize>(
    sums: &mut [[Lanes; PANEL]],
    t: usize,
    tile: &[[Unpacked; TILE_GROUPS]; TILE_ROWS],
    x: Activations,
    first_token: usize,
    groups: std::ops::Range<usize>,
) {
    for (g, group) in groups.enumerate() {
        let x = spread::<T>(x, first_token + t, group);
        for (sums, weights) in sums.iter_mut().zip(tile) {
            let sums: &mut [_; T] = sums[t..t + T].as_mut_array().expect("T of them");
            add_products(sums, &weights[g], &x);
        }
    }
}

/// Activations of one group of `T` tokens from `first` on.
#[inline(always)]
fn spread<const T: usize>(x: Activations, first: usize, group: usize) -> [Spread; T] {
    std::array::from_fn(|i| Spread::new(&x.token(first + i)[group]))
}

/// Unpacks the groups of a row from `first` on, as many as there are, up to a tile of them.
#[inline(always)]
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

/// Adds the products of 128 weights with the activations of some tokens: the one arithmetic of this file.
#[inline]
#[cfg_attr(feature = "relaxed-simd", target_feature(enable = "relaxed-simd"))]
fn add_products<const T: usize>(sums: &mut [Lanes; T], w: &Unpacked, x: &[Spread; T]) {
    for half in 0..2 {
        let lanes = lanes(&w.planes[half], x, half);
        for ((sums, x), lanes) in sums.iter_mut().zip(x).zip(lanes) {
            let scales = f32x4_mul(w.scales[half], x.scales[half]);
            sums[half] = f32x4_add(sums[half], f32x4_mul(scales, f32x4_convert_i32x4(lanes)));
        }
    }
}

/// The eight lanes in the one fixed tree.
#[inline(always)]
fn tree([low, high]: Lanes) -> f32 {
    let four = f32x4_add(low, high);
    let two = f32x4_add(four, i64x2_shuffle::<1, 1>(four, four));
    f32x4_extract_lane::<0>(two) + f32x4_extract_lane::<1>(two)
}
