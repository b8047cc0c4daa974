//! NEON with `smmla`, which multiplies two rows of eight bytes with two tokens of eight bytes: prefill only.
//!
//! The eight bytes must belong to one lane, so they are its four of plane 0 and its four of plane 1, then those of planes
//! 2 and 3: weights are brought into this order when a tile is unpacked, activations when they are rounded. The sums of
//! a lane are then a vector of row 0 with token 0, row 0 with token 1, row 1 with token 0, row 1 with token 1, and the
//! eight lanes eight such vectors: each of the four sums goes its way of scales and additions as the definition says.

#![expect(clippy::needless_range_loop, reason = "registers are numbered")]

use std::arch::aarch64::*;
use std::arch::asm;

use super::super::{Activations, CODE_BYTES, LANES, RoundedGroup, Rows};
use super::blocks::{group, vector};
use crate::ternary::Packing;

/// A tile of unpacked weights is this many pairs of rows of this many groups: 9 KiB.
const TILE_PAIRS: usize = 4;
const TILE_GROUPS: usize = 8;
/// Pairs of rows, and pairs of tokens, that are computed together, half a group at a time: sums take 16 registers,
/// weights and activations of a lane 8, scales and what is under way the rest.
const ROW_PAIRS: usize = 2;
const TOKEN_PAIRS: usize = 2;
/// Pairs of tokens whose sums wait in memory while a tile of weights is in use.
const PANEL: usize = 32;
/// Lanes of half a group.
const HALF: usize = LANES / 2;

/// Bytes of one lane of two rows or two tokens: of planes 0 and 1, and of planes 2 and 3.
type Lane<V> = [V; 2];

/// Half a group of each of two tokens, rounded.
#[derive(Clone, Copy)]
struct HalfTokens {
    planes: [Lane<int8x16_t>; HALF],
    minus_sums: [int32x4_t; HALF],
    /// Two lanes share one.
    scales: [float32x4_t; HALF / 2],
}

/// A group of each of two tokens, rounded: the lower and the upper lanes.
#[derive(Clone, Copy)]
pub(in super::super) struct TwoTokens([HalfTokens; 2]);

/// Half a group of weights of each of two rows.
#[derive(Clone, Copy)]
struct TwoRows {
    planes: [Lane<uint8x16_t>; HALF],
    scales: float32x4_t,
}

/// Unpacked weights: `[pair of rows][half][group]`.
type Tile = [[[TwoRows; TILE_GROUPS]; 2]; TILE_PAIRS];
/// Sums of each pair of rows of a tile with each pair of tokens of a panel: `[pair of rows][half][pair of tokens]`.
type Sums = [[[[float32x4_t; HALF]; PANEL]; 2]; TILE_PAIRS];

/// One group of two tokens; without a second one, zeros.
pub(in super::super) fn pair(first: &RoundedGroup, second: Option<&RoundedGroup>) -> TwoTokens {
    let zero = RoundedGroup { planes: [[0; CODE_BYTES]; 4], minus_sums: [0; LANES], scales: [0.0; LANES] };
    let tokens = [first, second.unwrap_or(&zero)];
    let half = |half: usize| {
        let piece = |token: usize, plane: usize, lane: usize| {
            let at = 4 * (HALF * half + lane);
            <[i8; 4]>::try_from(&tokens[token].planes[plane][at..at + 4]).expect("four bytes")
        };
        let bytes = |lane: usize, k: usize| {
            let pieces = [(0, k), (0, k + 1), (1, k), (1, k + 1)].map(|(token, k)| piece(token, k, lane));
            vector(pieces.as_flattened())
        };
        let sums = |lane: usize| [0, 1, 0, 1].map(|t| tokens[t].minus_sums[HALF * half + lane]);
        let scales = |two: usize| [0, 1, 0, 1].map(|t| tokens[t].scales[HALF * half + 2 * two]);
        HalfTokens {
            planes: std::array::from_fn(|lane| [bytes(lane, 0), bytes(lane, 2)]),
            minus_sums: std::array::from_fn(|lane| vector(&sums(lane))),
            scales: std::array::from_fn(|two| vector(&scales(two))),
        }
    };
    TwoTokens([half(0), half(1)])
}

/// See [`super::super::rows`].
#[target_feature(enable = "neon,i8mm")]
pub(in super::super) fn rows(out: &mut [f32], weights: Rows, x: Activations) {
    match weights.packing {
        Packing::Q2_0 => packed_rows::<34>(out, weights, x),
        Packing::Q2_0G64 => packed_rows::<36>(out, weights, x),
        Packing::Tq2_0 => packed_rows::<66>(out, weights, x),
        Packing::Ptq1_0 => packed_rows::<28>(out, weights, x),
        Packing::Tq1_0 => packed_rows::<54>(out, weights, x),
    }
}

#[target_feature(enable = "neon")]
fn packed_rows<const BLOCK: usize>(out: &mut [f32], weights: Rows, x: Activations) {
    let (tokens, groups) = (x.tokens(), x.groups_per_token);
    let rows = out.len() / tokens;
    let zero = TwoRows { planes: [[vdupq_n_u8(0); 2]; HALF], scales: vdupq_n_f32(0.0) };
    let mut tile: Tile = [[[zero; TILE_GROUPS]; 2]; TILE_PAIRS];
    let mut sums: Sums = [[[[vdupq_n_f32(0.0); HALF]; PANEL]; 2]; TILE_PAIRS];
    for first_row in (0..rows).step_by(2 * TILE_PAIRS) {
        let pairs = TILE_PAIRS.min((rows - first_row).div_ceil(2));
        for first in (0..tokens.div_ceil(2)).step_by(PANEL) {
            let panel = PANEL.min(tokens.div_ceil(2) - first);
            for sums in sums.as_flattened_mut() {
                sums[..panel].fill([vdupq_n_f32(0.0); HALF]);
            }
            for first_group in (0..groups).step_by(TILE_GROUPS) {
                let some = first_group..groups.min(first_group + TILE_GROUPS);
                for (p, tile) in tile[..pairs].iter_mut().enumerate() {
                    // The last of an odd number of rows is its own partner.
                    let row = |n: usize| weights.row((first_row + 2 * p + n).min(rows - 1));
                    unpack_groups::<BLOCK>(tile, [row(0), row(1)], some.clone());
                }
                // Of an odd number of pairs, the last has what an earlier tile left as its partner.
                for p in (0..pairs).step_by(ROW_PAIRS) {
                    let (sums, tile) = (&mut sums[p..p + ROW_PAIRS], &tile[p..p + ROW_PAIRS]);
                    for t in (0..panel).step_by(TOKEN_PAIRS) {
                        match panel - t {
                            1 => tile_products::<1>(sums, t, tile, x, first + t, some.clone()),
                            _ => tile_products::<TOKEN_PAIRS>(sums, t, tile, x, first + t, some.clone()),
                        }
                    }
                }
            }
            for (p, [lower, upper]) in sums[..pairs].iter().enumerate() {
                for t in 0..panel {
                    store(out, rows, [first_row + 2 * p, 2 * (first + t)], trees(&lower[t], &upper[t]));
                }
            }
        }
    }
}

/// Adds the products of two pairs of rows of a tile with `T` pairs of tokens from `first` on, whose sums lie at `t`.
#[inline]
#[target_feature(enable = "neon")]
fn tile_products<const T: usize>(
    sums: &mut [[[[float32x4_t; HALF]; PANEL]; 2]],
    t: usize,
    tile: &[[[TwoRows; TILE_GROUPS]; 2]],
    x: Activations,
    first: usize,
    groups: std::ops::Range<usize>,
) {
    let mut tokens: [&[TwoTokens]; T] = [&[]; T];
    for i in 0..T {
        tokens[i] = &x.pairs[(first + i) * x.groups_per_token..][groups.clone()];
    }
    for half in 0..2 {
        let mut acc = [[[vdupq_n_f32(0.0); HALF]; T]; ROW_PAIRS];
        for p in 0..ROW_PAIRS {
            acc[p].copy_from_slice(&sums[p][half][t..t + T]);
        }
        for g in 0..groups.len() {
            let weights = [&tile[0][half][g], &tile[1][half][g]];
            for two in 0..HALF / 2 {
                for i in 0..T {
                    let x = &tokens[i][g].0[half];
                    for p in 0..ROW_PAIRS {
                        let scales = vmulq_f32(weights[p].scales, x.scales[two]);
                        for lane in [2 * two, 2 * two + 1] {
                            let products =
                                products(x.minus_sums[lane], weights[p].planes[lane], x.planes[lane]);
                            let products = vmulq_f32(scales, vcvtq_f32_s32(products));
                            acc[p][i][lane] = vaddq_f32(acc[p][i][lane], products);
                        }
                    }
                }
            }
        }
        for p in 0..ROW_PAIRS {
            sums[p][half][t..t + T].copy_from_slice(&acc[p]);
        }
    }
}

/// Products of the codes of a lane with its activations, less the sums of the activations. Assembly, because the function
/// for `smmla` is not stable yet, and because one compiled for it would not be inlined into those for NEON.
#[inline]
#[target_feature(enable = "neon")]
fn products(minus_sums: int32x4_t, w: Lane<uint8x16_t>, x: Lane<int8x16_t>) -> int32x4_t {
    let mut sums = minus_sums;
    for k in 0..2 {
        #[expect(unsafe_code, reason = "assembly")]
        // SAFETY: only `rows` leads here, so the processor has the instruction.
        unsafe {
            asm!(
                ".arch_extension i8mm",
                "smmla {sums:v}.4s, {w:v}.16b, {x:v}.16b",
                sums = inout(vreg) sums,
                w = in(vreg) w[k],
                x = in(vreg) x[k],
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }
    sums
}

/// Unpacks some groups of two rows.
#[inline]
#[target_feature(enable = "neon")]
fn unpack_groups<const BLOCK: usize>(
    tile: &mut [[TwoRows; TILE_GROUPS]; 2],
    rows: [&[u8]; 2],
    groups: std::ops::Range<usize>,
) {
    for (n, g) in groups.enumerate() {
        let (first, second) = (group::<BLOCK>(rows[0], g), group::<BLOCK>(rows[1], g));
        for half in 0..2 {
            let [a, b] = [first[half].planes, second[half].planes];
            let mut planes = [[a[0]; 2]; HALF];
            for k in 0..2 {
                let four = lanes([a[2 * k], a[2 * k + 1]], [b[2 * k], b[2 * k + 1]]);
                for lane in 0..HALF {
                    planes[lane][k] = four[lane];
                }
            }
            let scales = vextq_f32::<2>(first[half].scale, second[half].scale);
            tile[half][n] = TwoRows { planes, scales };
        }
    }
}

/// Two planes of each of two rows: four bytes of every plane to each lane.
#[inline]
#[target_feature(enable = "neon")]
fn lanes(a: [uint8x16_t; 2], b: [uint8x16_t; 2]) -> [uint8x16_t; HALF] {
    let [a0, a1] = [vreinterpretq_u32_u8(a[0]), vreinterpretq_u32_u8(a[1])];
    let [b0, b1] = [vreinterpretq_u32_u8(b[0]), vreinterpretq_u32_u8(b[1])];
    let a = [vreinterpretq_u64_u32(vzip1q_u32(a0, a1)), vreinterpretq_u64_u32(vzip2q_u32(a0, a1))];
    let b = [vreinterpretq_u64_u32(vzip1q_u32(b0, b1)), vreinterpretq_u64_u32(vzip2q_u32(b0, b1))];
    [
        vreinterpretq_u8_u64(vzip1q_u64(a[0], b[0])),
        vreinterpretq_u8_u64(vzip2q_u64(a[0], b[0])),
        vreinterpretq_u8_u64(vzip1q_u64(a[1], b[1])),
        vreinterpretq_u8_u64(vzip2q_u64(a[1], b[1])),
    ]
}

/// The eight lanes of each of the four sums in the one fixed tree.
#[inline]
#[target_feature(enable = "neon")]
fn trees(lower: &[float32x4_t; HALF], upper: &[float32x4_t; HALF]) -> [[f32; 2]; 2] {
    let mut four = *lower;
    for lane in 0..HALF {
        four[lane] = vaddq_f32(lower[lane], upper[lane]);
    }
    let two = [vaddq_f32(four[0], four[2]), vaddq_f32(four[1], four[3])];
    bytemuck::cast(vaddq_f32(two[0], two[1]))
}

/// Writes the results of two rows with two tokens, as far as there are that many.
fn store(out: &mut [f32], rows: usize, [row, token]: [usize; 2], results: [[f32; 2]; 2]) {
    for (r, results) in results.into_iter().enumerate().take(rows - row) {
        for (t, result) in results.into_iter().enumerate() {
            if let Some(out) = out.get_mut((token + t) * rows + row + r) {
                *out = result;
            }
        }
    }
}
