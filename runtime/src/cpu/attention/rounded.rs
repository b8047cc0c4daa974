//! A tile of rounded numbers: queries and weights are rounded too, and products are summed as integers.
//!
//! Rounding a query to 15 bits and a sign costs a hundredth of what rounding keys to int8 did, and to 7 bits a hundredth of
//! what int4 did; the same holds for weights and values.

use std::ops::Range;

use bytemuck::cast_slice_mut;

use super::kernels::{add_rounded_values, rounded_dots, weigh_rounded};
use super::softmax::RoundedWeights;
use super::{Chunk, FRONT, TILE, View};
use crate::cpu::kv_cache::{INT4_OFFSET, KvFormat, Rounded, RoundedTile};
use crate::cpu::ops;
use crate::vectorized;

/// The queries of a block of tokens, rounded.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[rows, words]`.
    queries: Vec<u32>,
    /// Of a row.
    words: usize,
    /// Of each row: what its numbers, multiplied by a key, must be multiplied by to be a score.
    scales: Vec<f32>,
    /// Of each row: what undoes the offset of all keys.
    starts: Vec<i32>,
    /// A query that is multiplied by a Hadamard matrix.
    turned: Vec<f32>,
}

impl Scratch {
    /// Rounds the queries of `tokens` that look at `head`.
    pub(super) fn round_queries(&mut self, chunk: &Chunk, head: usize, tokens: Range<usize>) {
        let rows = tokens.len() * chunk.group;
        self.words = chunk.cache.key_words();
        self.queries.clear();
        self.queries.resize(rows * self.words, 0);
        self.scales.resize(rows, 0.0);
        self.starts.resize(rows, 0);
        let queries = tokens.flat_map(|token| (0..chunk.group).map(move |n| chunk.query(head, token, n)));
        for (n, (query, row)) in queries.zip(self.queries.chunks_exact_mut(self.words)).enumerate() {
            (self.scales[n], self.starts[n]) = if chunk.cache.format() == KvFormat::Int4 {
                self.turned.clear();
                self.turned.extend_from_slice(query);
                vectorized!(chunk.isa, round_int4(&mut self.turned, cast_slice_mut(row)))
            } else {
                let row: &mut [i16] = cast_slice_mut(row);
                (vectorized!(chunk.isa, ops::round(query, most(query.len()), |i, x| row[i] = x as i16)), 0)
            };
            self.scales[n] *= chunk.scale();
        }
    }
}

/// The scale of a query's numbers, and minus the offset of its products.
#[inline(always)]
fn round_int4(query: &mut [f32], row: &mut [i8]) -> (f32, i32) {
    let turned = ops::hadamard(query);
    let mut sum = 0;
    let scale = ops::round(query, i8::MAX.into(), |i, x| {
        row[i] = x as i8;
        sum += x;
    });
    (scale / turned, -sum * INT4_OFFSET)
}

/// The largest rounded query: a sum of `dim` products with keys of up to 127 must be an i32.
fn most(dim: usize) -> f32 {
    let most = i32::MAX as usize / (127 * dim);
    most.min(i16::MAX as usize) as f32
}

/// Adds what the rows of `view` find in a tile; all of them see some of it.
pub(super) fn tile(view: &View, tile: &RoundedTile, sums: &mut [f32], scratch: &Scratch) {
    let row_len = view.chunk.row_len();
    let before = scratch.scales.len() - sums.len() / row_len; // rows that see nothing of the tile
    for (n, sums) in sums.chunks_mut(2 * row_len).enumerate() {
        let (a, b) = sums.split_at_mut(row_len);
        let seen = |row| view.seen(2 * n + row);
        match b {
            [] => rows(view.chunk, tile, scratch, before + 2 * n, [seen(0)], [a]),
            b => rows(view.chunk, tile, scratch, before + 2 * n, [seen(0), seen(1)], [a, b]),
        }
    }
}

/// Adds what `R` rows from `row` on find.
fn rows<const R: usize>(
    chunk: &Chunk,
    tile: &RoundedTile,
    scratch: &Scratch,
    row: usize,
    seen: [usize; R],
    mut sums: [&mut [f32]; R],
) {
    let isa = chunk.isa;
    let queries = std::array::from_fn(|r| &scratch.queries[(row + r) * scratch.words..][..scratch.words]);
    let starts = std::array::from_fn(|r| scratch.starts[row + r]);
    let products: [_; R] = rounded_dots(isa, queries, starts, tile.keys);
    let scales = std::array::from_fn(|r| scratch.scales[row + r]);
    let mut weights = [[0; TILE]; R];
    let scales = weigh_rounded(isa, &products, scales, tile, seen, &mut sums, &mut weights);
    let seen = seen.into_iter().max().unwrap_or(0); // weights of what a row does not see are 0
    let factors = weights.map(|weights| factors(tile.values, weights));
    let words = factors.each_ref().map(|(words, _)| &words[..tile.values.words(seen)]);
    let starts = factors.map(|(_, start)| start);
    add_rounded_values(
        isa,
        sums.each_mut().map(|sums| &mut sums[FRONT..]),
        words,
        starts,
        scales,
        tile.values,
    );
}

/// The weights of a tile as words, and minus the offset of their products.
fn factors(values: Rounded, weights: RoundedWeights) -> ([u32; TILE / 2], i32) {
    match values {
        Rounded::Int8(_) => (bytemuck::cast(weights), 0),
        Rounded::Int4(_) => {
            let narrow: [u32; TILE / 4] = bytemuck::cast(weights.map(|weight| weight as i8));
            let mut words = [0; TILE / 2];
            words[..TILE / 4].copy_from_slice(&narrow);
            (words, -INT4_OFFSET * weights.iter().map(|&weight| i32::from(weight)).sum::<i32>())
        }
    }
}
