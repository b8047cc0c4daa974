//! Many tokens: a tile of eight rows is unpacked once into the first-level cache and used for all tokens.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::offset_of;
use std::ops::Range;

use super::super::{Activations, RoundedGroup, Rows, parts, write_rows};
use super::blocks::{EightRows, Unpacked, half_blocks, unpack, zero};
use super::{PAIRS, ROWS, Sums, add_products, trees, twice_rounded};

/// A tile of unpacked weights is [`ROWS`] rows of this many groups: 10 KiB, beside [`TOKENS`] times as many groups of
/// activations (6 KiB).
const TILE_GROUPS: usize = 8;
/// Tokens that are computed together: their sums take 16 of the 32 registers, a token's activations 6 and the sums of
/// their products 4. Six tokens with two pairs of rows, which would load fewer weights, are a tenth slower (Zen 4).
const TOKENS: usize = 4;
/// Tokens whose sums wait in memory while a tile of weights is in use.
const PANEL: usize = 16 * TOKENS;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn many_tokens<const BLOCK: usize>(out: &mut [f32], weights: Rows, x: Activations) {
    let (tokens, groups) = (x.tokens(), x.groups_per_token);
    let rows = out.len() / tokens;
    let mut tile = [[zero(); PAIRS]; TILE_GROUPS];
    let mut sums = [[_mm512_setzero_ps(); PAIRS]; PANEL];
    for first_row in (0..rows).step_by(ROWS) {
        let tile_rows = ROWS.min(rows - first_row);
        let blocks = EightRows::<BLOCK>::new(weights, first_row, tile_rows);
        weights.ask_for(first_row + ROWS, ROWS);
        for first_token in (0..tokens).step_by(PANEL) {
            let panel = PANEL.min(tokens - first_token);
            for first_group in (0..groups).step_by(TILE_GROUPS) {
                let some = first_group..groups.min(first_group + TILE_GROUPS);
                for (g, tile) in some.clone().zip(&mut tile) {
                    let (b, part) = (g / parts(BLOCK), g % parts(BLOCK));
                    if BLOCK != 36 || b < blocks.whole {
                        unpack(tile, &blocks.blocks(b), part);
                    } else {
                        unpack::<BLOCK>(tile, &half_blocks(weights, first_row, tile_rows).each_ref(), part);
                    }
                }
                for (n, sums) in sums[..panel].chunks_mut(TOKENS).enumerate() {
                    let first = first_token + n * TOKENS;
                    match sums.len() {
                        1 => tile_products::<1>(sums, &tile, x, first, some.clone()),
                        2 => tile_products::<2>(sums, &tile, x, first, some.clone()),
                        3 => tile_products::<3>(sums, &tile, x, first, some.clone()),
                        _ => tile_products::<TOKENS>(sums, &tile, x, first, some.clone()),
                    }
                    if some.end == groups {
                        // Now and not for the whole panel later: results of neighbouring tokens often lie whole pages
                        // apart, where they share a set of the first-level cache and push each other out of it.
                        for (t, &sums) in sums.iter().enumerate() {
                            write_rows(&mut out[(first + t) * rows + first_row..][..tile_rows], trees(sums));
                        }
                    }
                }
            }
        }
    }
}

/// Adds the products of a tile of weights with tokens `first..first + T`; sums of the first tile begin at zero.
#[inline]
#[expect(
    clippy::manual_memcpy,
    reason = "a copy of slices calls a function, which takes the sums out of registers"
)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn tile_products<const T: usize>(
    sums: &mut [Sums],
    tile: &[[Unpacked; PAIRS]; TILE_GROUPS],
    x: Activations,
    first: usize,
    groups: Range<usize>,
) {
    let mut tokens: [&[RoundedGroup]; T] = [&[]; T];
    let mut acc = [[_mm512_setzero_ps(); PAIRS]; T];
    for t in 0..T {
        tokens[t] = &x.token(first + t)[groups.clone()];
        if groups.start > 0 {
            acc[t] = sums[t];
        }
    }
    for (g, weights) in tile[..groups.len()].iter().enumerate() {
        for t in (0..T - T % 2).step_by(2) {
            let two = acc[t..t + 2].as_mut_array().expect("two tokens");
            add_products_of_two(two, weights, [&tokens[t][g], &tokens[t + 1][g]]);
        }
        if T % 2 == 1 {
            add_products(&mut acc[T - 1], weights, &twice_rounded(&tokens[T - 1][g]));
        }
    }
    for t in 0..T {
        sums[t] = acc[t];
    }
}

/// The instructions of [`add_products_of_two`] for two of its four pairs of rows, `$p` and `$q`, whose weights begin at
/// `$at`. The activations are in zmm16-19 and zmm20-23, the lanes of both pairs with both tokens in zmm27-30.
macro_rules! two_pairs {
    ($at:literal, $p:literal, $q:literal) => {
        concat!(
            "vbroadcasti64x4 zmm27, ymmword ptr [{x0} + 128]\n",
            "vbroadcasti64x4 zmm28, ymmword ptr [{x1} + 128]\n",
            "vmovdqa64 zmm29, zmm27\n",
            "vmovdqa64 zmm30, zmm28\n",
            two_pairs!(plane $at, "0", "zmm16", "zmm20"),
            two_pairs!(plane $at, "64", "zmm17", "zmm21"),
            two_pairs!(plane $at, "128", "zmm18", "zmm22"),
            two_pairs!(plane $at, "192", "zmm19", "zmm23"),
            "vbroadcastf64x4 zmm24, ymmword ptr [{x0} + 160]\n",
            "vbroadcastf64x4 zmm25, ymmword ptr [{x1} + 160]\n",
            two_pairs!(add $at, "256", "zmm24", "zmm27", "{sum0", $p),
            two_pairs!(add $at, "256", "zmm25", "zmm28", "{sum1", $p),
            two_pairs!(add $at, "576", "zmm24", "zmm29", "{sum0", $q),
            two_pairs!(add $at, "576", "zmm25", "zmm30", "{sum1", $q),
        )
    };
    (plane $at:literal, $plane:literal, $x0:literal, $x1:literal) => {
        concat!(
            "vmovdqa64 zmm24, zmmword ptr [{w} + ", $at, " + ", $plane, "]\n",
            "vmovdqa64 zmm25, zmmword ptr [{w} + ", $at, " + ", $plane, " + 320]\n",
            "vpdpbusd zmm27, zmm24, ", $x0, "\n",
            "vpdpbusd zmm28, zmm24, ", $x1, "\n",
            "vpdpbusd zmm29, zmm25, ", $x0, "\n",
            "vpdpbusd zmm30, zmm25, ", $x1, "\n",
        )
    };
    (add $at:literal, $scales:literal, $x_scales:literal, $lanes:literal, $token:literal, $pair:literal) => {
        concat!(
            "vcvtdq2ps ", $lanes, ", ", $lanes, "\n",
            "vmulps zmm26, ", $x_scales, ", zmmword ptr [{w} + ", $at, " + ", $scales, "]\n",
            "vmulps ", $lanes, ", zmm26, ", $lanes, "\n",
            "vaddps ", $token, $pair, "}, ", $token, $pair, "}, ", $lanes, "\n",
        )
    };
}

/// [`add_products`] for two tokens, which share each load of weights. Assembly, because LLVM would rather keep weights
/// in registers and put the sums into memory.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_products_of_two(sums: &mut [Sums; 2], w: &[Unpacked; PAIRS], x: [&RoundedGroup; 2]) {
    const {
        assert!(size_of::<Unpacked>() == 320 && offset_of!(Unpacked, scales) == 256);
        assert!(offset_of!(RoundedGroup, minus_sums) == 128 && offset_of!(RoundedGroup, scales) == 160);
    }
    let [[sum00, sum01, sum02, sum03], [sum10, sum11, sum12, sum13]] = sums;
    #[expect(unsafe_code, reason = "assembly")]
    // SAFETY: the processor has these instructions, and they read the three structures only, whose layout is asserted.
    unsafe {
        asm!(
            "vbroadcasti64x4 zmm16, ymmword ptr [{x0}]",
            "vbroadcasti64x4 zmm17, ymmword ptr [{x0} + 32]",
            "vbroadcasti64x4 zmm18, ymmword ptr [{x0} + 64]",
            "vbroadcasti64x4 zmm19, ymmword ptr [{x0} + 96]",
            "vbroadcasti64x4 zmm20, ymmword ptr [{x1}]",
            "vbroadcasti64x4 zmm21, ymmword ptr [{x1} + 32]",
            "vbroadcasti64x4 zmm22, ymmword ptr [{x1} + 64]",
            "vbroadcasti64x4 zmm23, ymmword ptr [{x1} + 96]",
            two_pairs!("0", "0", "1"),
            two_pairs!("640", "2", "3"),
            w = in(reg) w, x0 = in(reg) x[0], x1 = in(reg) x[1],
            sum00 = inout(zmm_reg) *sum00, sum01 = inout(zmm_reg) *sum01, sum02 = inout(zmm_reg) *sum02,
            sum03 = inout(zmm_reg) *sum03, sum10 = inout(zmm_reg) *sum10, sum11 = inout(zmm_reg) *sum11,
            sum12 = inout(zmm_reg) *sum12, sum13 = inout(zmm_reg) *sum13,
            out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _, out("zmm20") _,
            out("zmm21") _, out("zmm22") _, out("zmm23") _, out("zmm24") _, out("zmm25") _,
            out("zmm26") _, out("zmm27") _, out("zmm28") _, out("zmm29") _, out("zmm30") _,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
}
