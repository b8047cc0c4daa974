//! NEON, many tokens, with `smmla`, which multiplies two rows of eight bytes with two tokens of eight bytes. Weights are
//! brought into this order when a tile is unpacked, activations when they are rounded. Sums are row 0 with token 0, row 0
//! with token 1, row 1 with token 0, row 1 with token 1.

use std::arch::aarch64::*;
use std::arch::asm;

use super::super::{Activations, RoundedGroup, Rows};
use super::blocks::vector;
use super::many_tokens::{EightRows, Part, ROWS, SMMLA, Sums};
use super::{add_scaled, any_packing};

/// Pairs of the rows of a tile.
const PAIRS: usize = ROWS / 2;

/// A unit of each of two tokens, rounded.
#[derive(Clone, Copy)]
struct UnitOfTwo {
    /// Of each plane eight bytes of each token, then the other eight.
    planes: [[int8x16_t; 2]; 4],
    /// Of each half, in the order of the sums.
    multipliers: [int32x4_t; 2],
}

/// A group of each of two tokens, rounded.
#[derive(Clone, Copy)]
pub(in super::super) struct TwoTokens([UnitOfTwo; 2]);

/// One group of two tokens; without a second one, zeros.
pub(in super::super) fn pair(first: &RoundedGroup, second: Option<&RoundedGroup>) -> TwoTokens {
    let tokens = [first, second.unwrap_or(&RoundedGroup::ZERO)];
    let bytes = |part: usize, k: usize| {
        let both = tokens.map(|x| x.planes[k].as_chunks::<8>().0[part]);
        vector(both.as_flattened())
    };
    let multipliers = |part: usize| vector(&[0, 1, 0, 1].map(|t| i32::from(tokens[t].multipliers[part][0])));
    TwoTokens([[0, 1], [2, 3]].map(|halves| UnitOfTwo {
        planes: [0, 1, 2, 3].map(|k| halves.map(|part| bytes(part, k))),
        multipliers: halves.map(multipliers),
    }))
}

/// See [`super::super::rows`].
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(in super::super) fn rows(out: &mut [f32], weights: Rows, x: Activations) {
    any_packing::<SMMLA>(out, weights, x);
}

/// Eight bytes of each of two rows to a register.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn by_two_rows(plane: [int8x16_t; ROWS]) -> [int8x16_t; ROWS] {
    let (mut out, rows): (_, [uint64x2_t; ROWS]) = (plane, bytemuck::cast(plane));
    for p in 0..PAIRS {
        let [a, b] = [rows[2 * p], rows[2 * p + 1]];
        out[p] = vreinterpretq_s8_u64(vzip1q_u64(a, b));
        out[PAIRS + p] = vreinterpretq_s8_u64(vzip2q_u64(a, b));
    }
    out
}

/// Adds the products of a tile of weights with `T` pairs of tokens.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn add_products<const T: usize>(sums: &mut [Sums], tile: &[[EightRows; 2]], x: &Part) {
    let sums: &mut [[Sums; 2]; T] = sums.as_chunks_mut().0.as_mut_array().expect("two of each pair");
    let mut tokens: [&[TwoTokens]; T] = [&[]; T];
    let mut acc = [[vdupq_n_f32(0.0); PAIRS]; T];
    for t in 0..T {
        tokens[t] = &x.x.pairs[(x.first_token / 2 + t) * x.x.groups_per_token..][x.groups.clone()];
        acc[t].copy_from_slice(sums[t].as_flattened());
    }
    for (g, weights) in tile.iter().enumerate() {
        let weights = &weights[x.unit];
        let mut units = [&tokens[0][g].0[x.unit]; T];
        for t in 1..T {
            units[t] = &tokens[t][g].0[x.unit];
        }
        let products = products(&weights.planes, units);
        let [a, b] = weights.scales;
        let scales = [vzip1q_f32(a, a), vzip2q_f32(a, a), vzip1q_f32(b, b), vzip2q_f32(b, b)];
        for t in 0..T {
            for p in 0..PAIRS {
                acc[t][p] = add_scaled(acc[t][p], scales[p], products[t][p]);
            }
        }
    }
    for t in 0..T {
        sums[t].as_flattened_mut().copy_from_slice(&acc[t]);
    }
}

/// Products of a unit of eight rows with `T` pairs of tokens.
#[inline]
#[target_feature(enable = "neon")]
fn products<const T: usize>(w: &[[int8x16_t; ROWS]; 4], x: [&UnitOfTwo; T]) -> [[int32x4_t; PAIRS]; T] {
    // Of each half, which has a multiplier.
    let mut sums = [[[vdupq_n_s32(0); PAIRS]; T]; 2];
    for k in 0..4 {
        for half in 0..2 {
            for t in 0..T {
                for p in 0..PAIRS {
                    let sums = &mut sums[half][t][p];
                    *sums = smmla(*sums, w[k][PAIRS * half + p], x[t].planes[k][half]);
                }
            }
        }
    }
    let [mut products, second] = sums;
    for t in 0..T {
        let multipliers = x[t].multipliers;
        for p in 0..PAIRS {
            products[t][p] = vmulq_s32(products[t][p], multipliers[0]);
            products[t][p] = vmlaq_s32(products[t][p], second[t][p], multipliers[1]);
        }
    }
    products
}

/// Adds the products of two rows with two tokens. Assembly, for the reasons of [`super::dots`].
#[inline]
#[target_feature(enable = "neon")]
fn smmla(mut sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    #[expect(unsafe_code, reason = "assembly")]
    // SAFETY: only `rows` leads here, so the processor has the instruction.
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "smmla {sums:v}.4s, {w:v}.16b, {x:v}.16b",
            sums = inout(vreg) sums,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Sums of eight rows with two tokens, one token after the other.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn by_token([[a, b], [c, d]]: [Sums; 2]) -> [Sums; 2] {
    [[vuzp1q_f32(a, b), vuzp1q_f32(c, d)], [vuzp2q_f32(a, b), vuzp2q_f32(c, d)]]
}
