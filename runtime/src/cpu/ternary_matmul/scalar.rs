//! The definition of the result, one weight at a time.

use super::{Activations, GROUP, PART, RoundedGroup, Rows, UNIT};

/// See [`super::rows`].
pub(super) fn rows(out: &mut [f32], weights: Rows, x: Activations) {
    let rows = out.len() / x.tokens();
    for row in 0..rows {
        let (codes, scales) = unpack(weights, row, x.groups_per_token);
        for (token, out) in out.chunks_exact_mut(rows).enumerate() {
            out[row] = row_dot(&codes, &scales, x.token(token)) * x.scales[token];
        }
    }
}

/// Codes of a row, one to a byte, and a scale for each unit. Where a row ends in half a group, the scale of the
/// other half is zero.
fn unpack(weights: Rows, row: usize, groups: usize) -> (Vec<[u8; GROUP]>, Vec<[f32; 2]>) {
    let (packing, group) = (weights.packing, weights.packing.group());
    let (mut codes, mut scales) = (vec![[0; GROUP]; groups], vec![[0.0; 2]; groups]);
    let blocks = weights.row(row).chunks_exact(packing.block_bytes());
    for (n, block) in blocks.enumerate() {
        let weights = n * group..(n + 1) * group;
        packing.read_codes(block, &mut codes.as_flattened_mut()[weights.clone()]);
        scales.as_flattened_mut()[weights.start / UNIT..weights.end / UNIT]
            .fill(packing.scale(block).to_f32());
    }
    (codes, scales)
}

fn row_dot(codes: &[[u8; GROUP]], scales: &[[f32; 2]], x: &[RoundedGroup]) -> f32 {
    let mut acc = [0.0f32; 2];
    for ((codes, scales), x) in codes.iter().zip(scales).zip(x) {
        for unit in 0..2 {
            let weights = UNIT * unit..UNIT * (unit + 1);
            let products: i32 = weights.map(|i| i32::from(codes[i]) * activation(x, i)).sum();
            acc[unit] += scales[unit] * (products + x.minus_sums[unit]) as f32;
        }
    }
    acc[0] + acc[1]
}

fn activation(x: &RoundedGroup, i: usize) -> i32 {
    i32::from(x.planes[i % 4][i / 4]) * i32::from(x.multipliers[i / PART][0])
}
