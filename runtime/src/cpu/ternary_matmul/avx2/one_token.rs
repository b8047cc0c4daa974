//! One token: four rows at once, unpacked straight from the file's blocks.

use std::arch::x86_64::*;

use super::super::{RoundedGroup, Rows, half_block, parts};
use super::base_3::{ptq1_0, tq1_0_first, tq1_0_second};
use super::blocks::{broadcast_scale, in_planes, in_quarters, packed, tq2_0_in_quarters, unpack};
use super::natural::{in_order_of_lanes, in_turns, lanes_of_digits, lanes_of_two_bits, natural};
use super::{SCALES, add_products, add_scaled, another, lanes_of_packed, vector};

/// Rows that one token meets together.
const DECODE_ROWS: usize = 4;
/// How early a decode asks for memory: the processor's own guesses lose the thread among four rows. Without it a token
/// takes 1.3 times as long (Zen 4, 4 kB pages).
const EARLY: usize = 1280;

#[target_feature(enable = "avx2,f16c")]
pub(super) fn one_token<const VNNI: bool, const BLOCK: usize>(
    out: &mut [f32],
    weights: Rows,
    x: &[RoundedGroup],
) {
    let mut reordered = Vec::new();
    for x in x {
        reordered.push(match BLOCK {
            66 if VNNI => in_quarters(x),
            66 => in_turns(x),
            _ if is_natural::<VNNI>(BLOCK) => natural(x),
            _ => break,
        });
    }
    let x = if reordered.is_empty() { x } else { &reordered };
    let (tiles, rest) = out.as_chunks_mut::<DECODE_ROWS>();
    let done = tiles.len() * DECODE_ROWS;
    for (n, tile) in tiles.iter_mut().enumerate() {
        *tile = dots::<VNNI, BLOCK, DECODE_ROWS>(weights, n * DECODE_ROWS, x);
    }
    for (n, out) in rest.iter_mut().enumerate() {
        [*out] = dots::<VNNI, BLOCK, 1>(weights, done + n, x);
    }
}

/// Whether lanes come out in the order of `natural.rs`.
const fn is_natural<const VNNI: bool>(block: usize) -> bool {
    !VNNI && !in_planes(block)
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
        let x = &x[b * parts(BLOCK)..][..parts(BLOCK)];
        if VNNI {
            for r in 0..R {
                add_unpacked::<BLOCK>(&mut sums[r], &rows[r][b], x);
            }
            continue;
        }
        // Two rows at a time: more do not fit the registers.
        let ((twos, ones), (sums, last)) = (rows.as_chunks::<2>(), sums.as_chunks_mut::<2>());
        for n in 0..twos.len() {
            add_blocks::<BLOCK, 2>(&mut sums[n], [&twos[n][0][b], &twos[n][1][b]], f16_to_f32, x);
        }
        for n in 0..ones.len() {
            add_blocks::<BLOCK, 1>(last.as_mut_array().expect("one"), [&ones[n][b]], f16_to_f32, x);
        }
    }
    for r in 0..R {
        if let Some(x) = x.get(whole * parts(BLOCK)) {
            let half = unpack(&half_block::<BLOCK>(weights.row(first + r)), 0);
            add_products::<VNNI, 1>(std::array::from_mut(&mut sums[r]), &half, [x]);
        }
        out[r] = tree(if is_natural::<VNNI>(BLOCK) { in_order_of_lanes(sums[r]) } else { sums[r] });
    }
    out
}

/// Adds the products of a block with one token's activations, by AVX-VNNI.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add_unpacked<const BLOCK: usize>(sum: &mut __m256, block: &[u8; BLOCK], x: &[RoundedGroup]) {
    for part in 0..parts(BLOCK) {
        let weights = if BLOCK == 66 { tq2_0_in_quarters(block, part) } else { unpack(block, part) };
        add_products::<true, 1>(std::array::from_mut(sum), &weights, [&x[part]]);
    }
}

/// Adds the products of blocks of `R` rows with one token's activations.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add_blocks<const BLOCK: usize, const R: usize>(
    sums: &mut [__m256; R],
    blocks: [&[u8; BLOCK]; R],
    f16_to_f32: &[f32; 1 << 16],
    x: &[RoundedGroup],
) {
    if BLOCK == 28 || BLOCK == 54 {
        for r in 0..R {
            add_base_3(&mut sums[r], blocks[r], f16_to_f32, x);
        }
        return;
    }
    for part in 0..parts(BLOCK) {
        let x = &x[part];
        let (mut codes, mut scales) = ([_mm256_setzero_si256(); R], [_mm256_setzero_ps(); R]);
        for r in 0..R {
            (codes[r], scales[r]) = packed(blocks[r], part, f16_to_f32);
            scales[r] = _mm256_mul_ps(scales[r], _mm256_castsi256_ps(vector(x, SCALES)));
        }
        let lanes = if BLOCK == 66 { lanes_of_two_bits(codes, x) } else { lanes_of_packed(codes, x) };
        add_scaled(sums, lanes, scales);
    }
}

/// The same of one block in base 3.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add_base_3<const BLOCK: usize>(
    sum: &mut __m256,
    block: &[u8; BLOCK],
    f16_to_f32: &[f32; 1 << 16],
    x: &[RoundedGroup],
) {
    let scales = broadcast_scale(block, BLOCK - 2, f16_to_f32);
    if BLOCK == 28 {
        return add_digits(sum, ptq1_0(block), scales, &x[0]);
    }
    let (first, rest) = tq1_0_first(block);
    add_digits(sum, first, scales, &x[0]);
    add_digits(sum, tq1_0_second(block, rest), scales, &x[1]);
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add_digits(sum: &mut __m256, digits: [__m256i; 4], scales: __m256, x: &RoundedGroup) {
    let x = another(x);
    let scales = _mm256_mul_ps(scales, _mm256_castsi256_ps(vector(x, SCALES)));
    add_scaled(std::array::from_mut(sum), [lanes_of_digits(digits, x)], [scales]);
}

/// The eight lanes in the one fixed tree.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn tree(lanes: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}
