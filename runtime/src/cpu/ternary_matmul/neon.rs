//! NEON: of a group of 128, a unit of 64 at a time, whose codes of a plane fill a register. Bytes are multiplied by
//! `smull`; by `sdot` (`DOT`), which also adds the four products of a lane; or by `smmla` (`i8mm.rs`).
//!
//! One token (decode): four rows at once, whose sums come to lie in one vector, so that all that follows is done for
//! four rows together; codes are unpacked straight from the file's blocks. Many tokens (prefill): `many_tokens.rs`.

#![expect(clippy::needless_range_loop, reason = "registers are numbered")]

mod blocks;
mod dots;
pub(super) mod i8mm;
mod many_tokens;

use std::arch::aarch64::*;

use super::{Activations, RoundedGroup, Rows, half_block, parts};
use crate::cpu::isa::prefetch;
use crate::ternary::Packing;
use blocks::{codes, scales};
use dots::{add_up, add_up_dotprod, multipliers, planes, products, products_dotprod};
use many_tokens::{SDOT, SMULL, many_tokens};

/// Rows that one token meets together: the lanes of a vector.
const DECODE_ROWS: usize = 4;
/// How early a decode asks for memory: as measured for AVX2.
const EARLY: usize = 1280;

/// See [`super::rows`].
#[target_feature(enable = "neon")]
pub(super) fn rows(out: &mut [f32], weights: Rows, x: Activations) {
    any_packing::<SMULL>(out, weights, x);
}

/// See [`super::rows`].
#[target_feature(enable = "neon,dotprod")]
pub(super) fn rows_dotprod(out: &mut [f32], weights: Rows, x: Activations) {
    any_packing::<SDOT>(out, weights, x);
}

#[inline]
#[target_feature(enable = "neon")]
fn any_packing<const BY: u8>(out: &mut [f32], weights: Rows, x: Activations) {
    match weights.packing {
        Packing::Q2_0 => packed_rows::<BY, 34>(out, weights, x),
        Packing::Q2_0G64 => packed_rows::<BY, 36>(out, weights, x),
        Packing::Tq2_0 => packed_rows::<BY, 66>(out, weights, x),
        Packing::Ptq1_0 => packed_rows::<BY, 28>(out, weights, x),
        Packing::Tq1_0 => packed_rows::<BY, 54>(out, weights, x),
    }
}

/// `BLOCK` bytes hold 128 weights (one block, or two of 64) or 256; each packing has a length of its own.
#[inline]
#[target_feature(enable = "neon")]
fn packed_rows<const BY: u8, const BLOCK: usize>(out: &mut [f32], weights: Rows, x: Activations) {
    match (x.tokens(), BY) {
        (1, SMULL) => one_token::<false, BLOCK>(out, weights, x),
        (1, _) => one_token::<true, BLOCK>(out, weights, x),
        _ => many_tokens::<BY, BLOCK>(out, weights, x),
    }
}

#[target_feature(enable = "neon")]
fn one_token<const DOT: bool, const BLOCK: usize>(out: &mut [f32], weights: Rows, x: Activations) {
    let rows = out.len();
    for (n, out) in out.chunks_mut(DECODE_ROWS).enumerate() {
        // The last row also stands for those that are missing.
        let rows = std::array::from_fn(|r| (n * DECODE_ROWS + r).min(rows - 1));
        let sums = row_dots::<DOT, BLOCK>(weights, rows, x.token(0));
        write::<DECODE_ROWS>(out, bytemuck::cast(vmulq_n_f32(sums, x.scales[0])));
    }
}

/// Products of four rows with one token, but for its scale.
#[inline]
#[target_feature(enable = "neon")]
fn row_dots<const DOT: bool, const BLOCK: usize>(
    weights: Rows,
    rows: [usize; DECODE_ROWS],
    x: &[RoundedGroup],
) -> float32x4_t {
    let whole = weights.row_bytes / BLOCK;
    let mut blocks: [&[[u8; BLOCK]]; DECODE_ROWS] = [&[]; DECODE_ROWS];
    for r in 0..DECODE_ROWS {
        blocks[r] = &weights.row(rows[r]).as_chunks().0[..whole];
    }
    let mut sums = [vdupq_n_f32(0.0); 2];
    let ahead = weights.row(rows[0]).as_ptr().wrapping_add(weights.ahead(DECODE_ROWS, EARLY));
    for b in 0..whole {
        // The rows of a tile lie one behind the other, so this asks for all of the file in order.
        for line in (0..BLOCK * DECODE_ROWS).step_by(64) {
            prefetch(ahead.wrapping_add(b * BLOCK * DECODE_ROWS + line));
        }
        let blocks = blocks.map(|blocks| &blocks[b]);
        let x = &x[b * parts(BLOCK)..][..parts(BLOCK)];
        // Written out: loops this long are not unrolled, and each unit of a block lies there in its own way.
        sums[0] = add_unit::<DOT, BLOCK, 0>(sums[0], blocks, &x[0]);
        sums[1] = add_unit::<DOT, BLOCK, 1>(sums[1], blocks, &x[0]);
        if parts(BLOCK) == 2 {
            sums[0] = add_unit::<DOT, BLOCK, 2>(sums[0], blocks, &x[1]);
            sums[1] = add_unit::<DOT, BLOCK, 3>(sums[1], blocks, &x[1]);
        }
    }
    // Only groups of 64 can end in half a group; its other unit is zero.
    if BLOCK == 36
        && let Some(x) = x.get(whole)
    {
        let halves = rows.map(|row| half_block(weights.row(row)));
        sums[0] = add_unit::<DOT, BLOCK, 0>(sums[0], halves.each_ref(), x);
    }
    vaddq_f32(sums[0], sums[1])
}

/// Adds the products of unit `U` of blocks of four rows with one token's activations.
#[inline]
#[target_feature(enable = "neon")]
fn add_unit<const DOT: bool, const BLOCK: usize, const U: usize>(
    sums: float32x4_t,
    blocks: [&[u8; BLOCK]; DECODE_ROWS],
    x: &RoundedGroup,
) -> float32x4_t {
    let (planes, multipliers) = (planes(x, U % 2), multipliers(x, U % 2));
    let products = if DOT {
        let a = products_dotprod(codes::<BLOCK, U>(blocks[0]), planes);
        let b = products_dotprod(codes::<BLOCK, U>(blocks[1]), planes);
        let c = products_dotprod(codes::<BLOCK, U>(blocks[2]), planes);
        let d = products_dotprod(codes::<BLOCK, U>(blocks[3]), planes);
        add_up_dotprod([a, b, c, d], multipliers)
    } else {
        let a = products(codes::<BLOCK, U>(blocks[0]), planes);
        let b = products(codes::<BLOCK, U>(blocks[1]), planes);
        let c = products(codes::<BLOCK, U>(blocks[2]), planes);
        let d = products(codes::<BLOCK, U>(blocks[3]), planes);
        add_up([a, b, c, d], multipliers)
    };
    let products = vaddq_s32(products, vdupq_n_s32(x.minus_sums[U % 2]));
    add_scaled(sums, scales::<BLOCK, U>(blocks), products)
}

/// Adds the products of a unit, which are integers up to here: the one float arithmetic of these kernels.
#[inline]
#[target_feature(enable = "neon")]
fn add_scaled(sums: float32x4_t, scales: float32x4_t, products: int32x4_t) -> float32x4_t {
    vaddq_f32(sums, vmulq_f32(scales, vcvtq_f32_s32(products)))
}

/// Results of `N` rows, or of the first of them as many as there is room for. Mostly it is `N`, and then no call.
#[inline(always)]
fn write<const N: usize>(out: &mut [f32], rows: [f32; N]) {
    match out.as_mut_array() {
        Some(out) => *out = rows,
        None => out.copy_from_slice(&rows[..out.len()]),
    }
}
