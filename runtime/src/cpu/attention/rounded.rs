//! A tile of rounded numbers: queries and weights are rounded too, and products are summed as integers.
//!
//! Rounding a query to 15 bits and a sign costs a hundredth of what rounding keys to int8 did, and to 7 bits a hundredth of
//! what int4 did; the same holds for weights and values. Beside int16, queries have as many bits as the sum of their products
//! leaves in an i32, 12 to 16, and weights 14.

use std::ops::Range;

use bytemuck::cast_slice_mut;

use super::kernels::{add_rounded_values, rounded_dots, weigh_rounded};
use super::softmax::{RoundedWeights, narrow};
use super::{Chunk, FRONT, TILE, View};
use crate::cpu::isa::{Isa, prefetch};
use crate::cpu::kv_cache::{INT4_OFFSET, INT16_MOST, KvFormat, Rounded, RoundedTile};
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
    /// Of each row with the keys of a tile.
    products: Vec<[i32; TILE]>,
    /// Of each row, for the values of a tile.
    weights: Vec<RoundedWeights>,
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
                let most = if chunk.cache.format() == KvFormat::Int16 { INT16_MOST } else { i8::MAX.into() };
                (vectorized!(chunk.isa, round_pairs(query, most, row)), 0)
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

/// The scale of a query's numbers, which are as large as an i16 can be and the sum of their products with keys of up to
/// `key`, an i32.
#[inline(always)]
fn round_pairs(query: &[f32], key: i16, row: &mut [i16]) -> f32 {
    let sum = (i32::MAX / i32::from(key)) as f32 - query.len() as f32; // of all magnitudes; each may be rounded up by a half
    let most = sum * (ops::largest(query) / ops::sum(query, f32::abs));
    ops::round(query, most.min(i16::MAX.into()), |i, x| row[i] = x as i16)
}

/// Adds what the rows of `view` find in a tile; all of them see some of it. All rows take the keys before any takes the
/// values, and those wait for the weights of all: step by step, each row would wait for itself.
pub(super) fn tile(view: &View, tile: &RoundedTile, sums: &mut [f32], scratch: &mut Scratch) {
    let (isa, row_len) = (view.chunk.isa, view.chunk.row_len());
    let rows = sums.len() / row_len;
    let Scratch { queries, words, scales, starts, products, weights, .. } = scratch;
    fetch_scales(tile);
    let before = scales.len() - rows; // rows that see nothing of the tile
    products.resize(rows, [0; TILE]);
    for (n, products) in products.chunks_mut(2).enumerate() {
        let (row, fetch) = (before + 2 * n, n == 0);
        let query = |n| &queries[(row + n) * *words..][..*words];
        match products {
            [a, b] => {
                let starts = [starts[row], starts[row + 1]];
                rounded_dots(isa, [a, b], [query(0), query(1)], starts, tile.keys, fetch);
            }
            [a] => rounded_dots(isa, [a], [query(0)], [starts[row]], tile.keys, fetch),
            _ => {}
        }
    }
    weights.clear(); // so that nothing is left of another format's
    weights.resize(rows, RoundedWeights::default());
    weigh_rounded(isa, products, &scales[before..], tile, view.seen(), sums, weights);
    narrow(weights, tile.values);
    for (n, (weights, sums)) in weights.chunks(2).zip(sums.chunks_mut(2 * row_len)).enumerate() {
        let seen = view.seen().by(2 * n + weights.len() - 1); // weights of what a row does not see are 0
        match (weights, sums.split_at_mut(row_len)) {
            ([a, b], (sums_a, sums_b)) => {
                add_values(isa, [sums_a, sums_b], [a, b], seen, tile.values, n == 0);
            }
            ([a], (sums, _)) => add_values(isa, [sums], [a], seen, tile.values, n == 0),
            _ => {}
        }
    }
}

/// Asks for the scales: they are read between keys and values, when nothing else is left to do.
fn fetch_scales(tile: &RoundedTile) {
    const LINE: usize = 64 / size_of::<f32>();
    tile.scales.iter().flat_map(|scales| scales.chunks(LINE)).for_each(|line| prefetch(line.as_ptr()));
}

/// Adds the values of the first `seen` positions.
fn add_values<const R: usize>(
    isa: Isa,
    sums: [&mut [f32]; R],
    weights: [&RoundedWeights; R],
    seen: usize,
    values: Rounded,
    fetch: bool,
) {
    let sums = sums.map(|sums| &mut sums[FRONT..]);
    let words = weights.map(|weights| weights.words(values, seen));
    let starts = weights.map(|weights| weights.start);
    add_rounded_values(isa, sums, words, starts, weights.map(|weights| weights.scale), values, fetch);
}
