//! A tile of rounded numbers: queries and weights are rounded to i16, and products are summed as integers.
//!
//! Rounding a query to 15 bits and a sign costs a hundredth of what rounding the keys to 7 did, and less yet where they have
//! 3; the same holds for weights and values.

use std::ops::Range;

use super::kernels::{add_rounded_values, rounded_dots, weigh_rounded};
use super::{Chunk, FRONT, TILE, View};
use crate::cpu::kv_cache::{KvFormat, RoundedTile};
use crate::cpu::ops;

/// The queries of a block of tokens, rounded.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[rows, pairs]`, two dimensions side by side.
    queries: Vec<[i16; 2]>,
    /// Of a row.
    pairs: usize,
    /// A query that is multiplied by a Hadamard matrix.
    turned: Vec<f32>,
    /// Of each row: what its numbers, multiplied by a key, must be multiplied by to be a score.
    scales: Vec<f32>,
}

impl Scratch {
    /// Rounds the queries of `tokens` that look at `head`.
    pub(super) fn round_queries(&mut self, chunk: &Chunk, head: usize, tokens: Range<usize>) {
        let (dim, rows) = (chunk.cache.head_dim(), tokens.len() * chunk.group);
        self.pairs = chunk.cache.key_pairs();
        self.queries.clear();
        self.queries.resize(rows * self.pairs, [0; 2]);
        self.scales.resize(rows, 0.0);
        let queries = tokens.flat_map(|token| (0..chunk.group).map(move |n| chunk.query(head, token, n)));
        let rounded = self.queries.chunks_exact_mut(self.pairs).map(<[_]>::as_flattened_mut);
        for ((query, rounded), scale) in queries.zip(rounded).zip(&mut self.scales) {
            let mut round = |query: &[f32]| ops::round(query, most(dim), |i, x| rounded[i] = x as i16);
            *scale = chunk.scale()
                * chunk.isa.run(|| {
                    if chunk.cache.format() == KvFormat::Int8 {
                        return round(query);
                    }
                    self.turned.clear();
                    self.turned.extend_from_slice(query);
                    let turned = ops::hadamard(&mut self.turned);
                    round(&self.turned) / turned
                });
        }
    }
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
    let (isa, pairs) = (chunk.isa, scratch.pairs);
    let queries = std::array::from_fn(|r| &scratch.queries[(row + r) * pairs..][..pairs]);
    let products: [_; R] = rounded_dots(isa, queries, tile.keys);
    let scales = std::array::from_fn(|r| scratch.scales[row + r]);
    let mut weights = [[[0; 2]; TILE / 2]; R];
    let scales = weigh_rounded(isa, &products, scales, tile.scales, seen, &mut sums, &mut weights);
    let most = seen.into_iter().max().unwrap_or(0).div_ceil(2); // weights of what a row does not see are 0
    let most = most.next_multiple_of(tile.values.pairs_together());
    let weights = weights.each_ref().map(|weights| &weights[..most]);
    add_rounded_values(isa, sums.each_mut().map(|sums| &mut sums[FRONT..]), weights, scales, tile.values);
}
