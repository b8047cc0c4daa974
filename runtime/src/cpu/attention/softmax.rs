//! Softmax in one pass: a row of sums keeps its largest score and the sum of its weights in front, and what comes
//! later is merged.

use super::super::kv_cache::RoundedTile;
use super::super::ops;
use super::{FRONT, TILE};

/// Weights of the values of a tile, rounded to 16 or 8 bits.
pub(super) type RoundedWeights = [i16; TILE];

/// Turns products of `R` rows with the keys of a tile, times `scale`, into weights of the values, of which the first `seen`
/// count, and scales down what the rows summed before.
#[inline(always)]
pub(super) fn weigh_rows<const R: usize>(
    scores: &mut [[f32; TILE]; R],
    scale: f32,
    seen: [usize; R],
    sums: &mut [&mut [f32]; R],
) {
    for r in 0..R {
        scores[r].iter_mut().for_each(|score| *score *= scale);
        exponents(&mut scores[r], seen[r], sums[r]);
    }
}

/// The same for a rounded cache. Returns the scales of the rounded weights.
#[inline(always)]
pub(super) fn weigh_rounded_rows<const R: usize>(
    products: &[[i32; TILE]; R],
    scales: [f32; R],
    tile: &RoundedTile,
    seen: [usize; R],
    sums: &mut [&mut [f32]; R],
    weights: &mut [RoundedWeights; R],
) -> [f32; R] {
    let mut out = [0.0; R];
    for r in 0..R {
        out[r] = weigh_rounded_row(&products[r], scales[r], tile, seen[r], sums[r], &mut weights[r]);
    }
    out
}

/// Products of integers become scores by `scale` and the scale of each key; weights take the scale of each value over
/// and are rounded.
#[inline(always)]
fn weigh_rounded_row(
    products: &[i32; TILE],
    scale: f32,
    tile: &RoundedTile,
    seen: usize,
    sums: &mut [f32],
    weights: &mut RoundedWeights,
) -> f32 {
    let (mut scores, [key_scales, value_scales]) = ([0.0; TILE], tile.scales);
    for ((score, &product), key) in scores.iter_mut().zip(products).zip(key_scales) {
        *score = product as f32 * (key * scale);
    }
    exponents(&mut scores, seen, sums);
    scores.iter_mut().zip(value_scales).for_each(|(weight, value)| *weight *= value);
    scores[seen..].fill(0.0); // what the cache forgot may have any scale
    ops::round(&scores, tile.values.largest_factor(), |n, weight| weights[n] = weight as i16)
}

/// Scores become weights: `e^(score - largest)`, 0 behind those seen.
#[inline(always)]
fn exponents(scores: &mut [f32; TILE], seen: usize, sums: &mut [f32]) {
    let [largest, total, ..] = sums else { return };
    scores[seen..].fill(f32::NEG_INFINITY);
    let new = larger(*largest, max(scores));
    let shrink = ops::exp(*largest - new);
    for score in scores.iter_mut() {
        *score = ops::exp(*score - new);
    }
    *total = *total * shrink + ops::sum(scores, |x| x);
    *largest = new;
    if shrink != 1.0 {
        sums[FRONT..].iter_mut().for_each(|sum| *sum *= shrink);
    }
}

#[inline(always)]
pub(super) fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// The largest of a tile, compared by their bits: compilers make vectors of a largest integer, but branches of a
/// largest float.
#[inline(always)]
fn max(x: &[f32; TILE]) -> f32 {
    from_ordered(x.iter().fold(i32::MIN, |max, x| max.max(turn(x.to_bits() as i32))))
}

/// The float of an integer that was made to be ordered like it.
#[inline(always)]
pub(super) fn from_ordered(bits: i32) -> f32 {
    f32::from_bits(turn(bits) as u32)
}

/// Makes the bits of floats integers of the same order, and back: those of negative ones are turned around.
#[inline(always)]
fn turn(bits: i32) -> i32 {
    bits ^ ((bits >> 31) & i32::MAX)
}

/// Adds a later segment to the sums of those before it.
#[inline(always)]
pub(super) fn merge(sums: &mut [f32], later: &[f32]) {
    let (front, sums) = sums.split_at_mut(FRONT);
    if let [largest, total, ..] = front {
        let mut pair = [*largest, *total];
        merge_into(&mut pair, sums, later);
        [*largest, *total] = pair;
    }
}

#[inline(always)]
pub(super) fn merge_into([largest, total]: &mut [f32; 2], sums: &mut [f32], later: &[f32]) {
    let new = larger(*largest, later[0]);
    let (a, b) = (ops::exp(*largest - new), ops::exp(later[0] - new));
    *total = *total * a + later[1] * b;
    *largest = new;
    for (sum, later) in sums.iter_mut().zip(&later[FRONT..]) {
        *sum = *sum * a + later * b;
    }
}
