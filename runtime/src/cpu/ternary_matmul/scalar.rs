//! The definition of the result, one weight at a time.

use super::{CODE_BYTES, GROUP, LANES, Rounded, RoundedGroup, Rows};
use crate::cpu::ops;
use crate::ternary::q2_0::{block_bytes, scale};

/// See [`super::rows`].
pub(super) fn rows(out: &mut [f32], weights: Rows, x: &Rounded) {
    let rows = out.len() / x.tokens();
    for (token, out) in out.chunks_exact_mut(rows).enumerate() {
        for (row, out) in out.iter_mut().enumerate() {
            *out = row_dot(weights.row(row), weights.group, x.token(token));
        }
    }
}

fn row_dot(row: &[u8], group: usize, x: &[RoundedGroup]) -> f32 {
    let mut acc = [0.0f32; LANES];
    for (blocks, x) in row.chunks(GROUP / group * block_bytes(group)).zip(x) {
        let (codes, scales) = read_group(blocks, group);
        for l in 0..LANES {
            let products: i32 = (16 * l..16 * l + 16).map(|i| code(&codes, i) * activation(x, i)).sum();
            acc[l] += (scales[l / 4] * x.scales[l]) * (products + x.minus_sums[l]) as f32;
        }
    }
    ops::tree(acc)
}

/// Codes and the scales of the two halves of 128 weights, from one block of 128 or one or two of 64.
fn read_group(blocks: &[u8], group: usize) -> ([u8; CODE_BYTES], [f32; 2]) {
    let (mut codes, mut scales) = ([0; CODE_BYTES], [0.0; 2]);
    for (half, block) in blocks.chunks_exact(block_bytes(group)).enumerate() {
        codes[half * 16..half * 16 + group / 4].copy_from_slice(&block[2..]);
        scales[half..].fill(scale(block).to_f32());
    }
    if blocks.len() == block_bytes(64) {
        scales[1] = 0.0; // half a group at the end of a row: the upper lanes add zero
    }
    (codes, scales)
}

fn code(codes: &[u8; CODE_BYTES], i: usize) -> i32 {
    i32::from(codes[i / 4] >> (2 * (i % 4)) & 3)
}

fn activation(x: &RoundedGroup, i: usize) -> i32 {
    i32::from(x.planes[i % 4][i / 4])
}
