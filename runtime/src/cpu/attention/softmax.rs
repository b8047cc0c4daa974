//! Softmax in one pass: a row of sums keeps what was subtracted from its scores and the sum of its weights in front, and
//! what comes later is merged.

use super::super::kv_cache::{INT4_OFFSET, Rounded, RoundedTile};
use super::super::ops;
use super::{FRONT, Seen, TILE};

/// Weights of the values of a tile, as kernels take them.
#[derive(Clone, Copy, Default)]
pub(super) struct RoundedWeights {
    /// Pairs of i16; for int4 there are quads of i8 in the first half.
    words: [u32; TILE / 2],
    /// What undoes the offset of all values.
    pub start: i32,
    /// What the products count.
    pub scale: f32,
}

impl RoundedWeights {
    /// Where pairs are written.
    #[inline(always)]
    pub(super) fn pairs(&mut self) -> &mut [i16; TILE] {
        bytemuck::cast_mut(&mut self.words)
    }

    /// Makes the pairs quads for int4.
    fn narrow(&mut self) {
        let numbers: [i16; TILE] = bytemuck::cast(self.words);
        let (quads, _) = self.words.as_chunks_mut::<{ TILE / 4 }>();
        quads[0] = bytemuck::cast(numbers.map(|weight| weight as i8));
        self.start = -INT4_OFFSET * numbers.iter().map(|&weight| i32::from(weight)).sum::<i32>();
    }

    /// Words for the first `seen` positions.
    #[inline(always)]
    pub(super) fn words(&self, values: Rounded, seen: usize) -> &[u32] {
        &self.words[..values.words(seen)]
    }
}

/// Makes weights what the kernels for `values` take.
pub(super) fn narrow(weights: &mut [RoundedWeights], values: Rounded) {
    if let Rounded::Int4(_) = values {
        weights.iter_mut().for_each(RoundedWeights::narrow);
    }
}

/// Turns products of rows with the keys of a tile, times `scale`, into weights of the values, of which those seen count, and
/// scales down what the rows summed before. `sums` are as many rows.
#[inline(always)]
pub(super) fn weigh_rows(scores: &mut [[f32; TILE]], scale: f32, seen: Seen, sums: &mut [f32]) {
    let row_len = sums.len() / scores.len();
    for (row, (scores, sums)) in scores.iter_mut().zip(sums.chunks_exact_mut(row_len)).enumerate() {
        scores.iter_mut().for_each(|score| *score *= scale);
        exponents(scores, seen.by(row), sums);
    }
}

/// The same for a rounded cache. Products of integers become scores by the scale of each query and of each key; weights take
/// the scale of each value over and are rounded. Nothing sensible is left of the products.
#[inline(always)]
pub(super) fn weigh_rounded_rows(
    products: &mut [[i32; TILE]],
    scales: &[f32],
    tile: &RoundedTile,
    seen: Seen,
    sums: &mut [f32],
    weights: &mut [RoundedWeights],
) {
    let row_len = sums.len() / products.len();
    let [key_scales, value_scales] = tile.scales;
    for (row, sums) in sums.chunks_exact_mut(row_len).enumerate() {
        let (mut scores, seen) = ([0.0; TILE], seen.by(row));
        for ((score, &product), key) in scores.iter_mut().zip(&products[row]).zip(key_scales) {
            *score = product as f32 * (key * scales[row]);
        }
        exponents(&mut scores, seen, sums);
        scores.iter_mut().zip(value_scales).for_each(|(weight, value)| *weight *= value);
        scores[seen..].fill(0.0); // what the cache forgot may have any scale
        let pairs = weights[row].pairs();
        weights[row].scale =
            ops::round(&scores, tile.values.largest_factor(), |n, weight| pairs[n] = weight as i16);
    }
}

/// How far scores may exceed what is subtracted from them. Without it, whatever a row has summed would have to be scaled
/// down whenever a tile brings a larger score, which at the beginning of a context most tiles do; weights are floats, or
/// rounded by the largest of them, and may as well be up to e^8.
const SLACK: f32 = 8.0;

/// What is subtracted from scores of which the largest is `score`, after `before` was.
#[inline(always)]
pub(super) fn moved(before: f32, score: f32) -> f32 {
    if score > before + SLACK { score } else { before }
}

/// What was summed must be scaled by, if `new` is subtracted instead of `before`; the first tile of a segment finds nothing.
#[inline(always)]
pub(super) fn shrink(before: f32, new: f32) -> Option<f32> {
    (new != before && before != f32::NEG_INFINITY).then(|| ops::exp(before - new))
}

/// Scores become weights: `e^(score - subtracted)`, 0 behind those seen.
#[inline(always)]
fn exponents(scores: &mut [f32; TILE], seen: usize, sums: &mut [f32]) {
    let [subtracted, total, ..] = sums else { return };
    scores[seen..].fill(f32::NEG_INFINITY);
    let before = *subtracted;
    let new = moved(before, max(scores));
    *subtracted = new;
    if let Some(shrink) = shrink(before, new) {
        *total *= shrink;
        sums[FRONT..].iter_mut().for_each(|sum| *sum *= shrink);
    }
    for score in scores.iter_mut() {
        *score = ops::exp(*score - new);
    }
    sums[1] += ops::sum(scores, |x| x);
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
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
    if let [subtracted, total, ..] = front {
        let mut pair = [*subtracted, *total];
        merge_into(&mut pair, sums, later);
        [*subtracted, *total] = pair;
    }
}

#[inline(always)]
pub(super) fn merge_into([subtracted, total]: &mut [f32; 2], sums: &mut [f32], later: &[f32]) {
    let new = larger(*subtracted, later[0]);
    let (a, b) = (ops::exp(*subtracted - new), ops::exp(later[0] - new));
    *total = *total * a + later[1] * b;
    *subtracted = new;
    for (sum, later) in sums.iter_mut().zip(&later[FRONT..]) {
        *sum = *sum * a + later * b;
    }
}
