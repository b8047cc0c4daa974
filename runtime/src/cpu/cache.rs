//! Keys and values of one layer, and attention over them.

use super::isa::Isa;
use super::{ops, threads, zeros};
use crate::error::Result;

/// Positions that are allocated together: memory follows what a conversation really uses, and nothing moves.
const BLOCK: usize = 256;

/// f32 keys and values, in blocks of positions laid out `[heads, positions, head_dim]`.
pub struct Cache {
    heads: usize,
    head_dim: usize,
    /// Positions of a block.
    block: usize,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl Cache {
    /// Room for nothing yet, and never more than `context` positions.
    pub(super) fn new(heads: usize, head_dim: usize, context: usize) -> Self {
        Self { heads, head_dim, block: BLOCK.min(context), keys: Vec::new(), values: Vec::new() }
    }

    pub(super) fn reserve(&mut self, positions: usize) -> Result<()> {
        let size = self.heads * self.block * self.head_dim;
        while self.values.len() * self.block < positions {
            let (keys, values) = (zeros(size)?, zeros(size)?);
            self.keys.push(keys);
            self.values.push(values);
        }
        Ok(())
    }

    /// Stores `k` and `v` (`[tokens, heads * head_dim]`) from `position` on.
    pub(super) fn append(&mut self, k: &[f32], v: &[f32], position: usize) {
        for (store, rows) in [(&mut self.keys, k), (&mut self.values, v)] {
            for (n, row) in rows.chunks_exact(self.head_dim).enumerate() {
                let (position, head) = (position + n / self.heads, n % self.heads);
                let place = (head * self.block + position % self.block) * self.head_dim;
                store[position / self.block][place..place + self.head_dim].copy_from_slice(row);
            }
        }
    }

    /// `out[t, h] = softmax(q[t, h] · keys / sqrt(head_dim)) · values` over positions `0..=position + t`;
    /// consecutive query heads share a key/value head.
    pub(super) fn attend(&self, isa: Isa, out: &mut [f32], q: &[f32], position: usize, tokens: usize) {
        let dim = self.head_dim;
        let heads = q.len() / (dim * tokens);
        let grain = super::GRAIN.div_ceil(dim * (position + tokens));
        threads::for_rows(out, dim, grain, |first, rows| {
            let mut scores = vec![0.0; position + tokens];
            for (n, out) in rows.chunks_exact_mut(dim).enumerate() {
                let (token, head) = ((first + n) / heads, (first + n) % heads);
                let (q, scores) = (&q[(first + n) * dim..][..dim], &mut scores[..=position + token]);
                isa.run(|| self.attend_one(out, q, head / (heads / self.heads), scores));
            }
        });
    }

    /// One query against as many positions as there are `scores`.
    #[inline(always)]
    fn attend_one(&self, out: &mut [f32], q: &[f32], head: usize, scores: &mut [f32]) {
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        for (scores, keys) in scores.chunks_mut(self.block).zip(&self.keys) {
            for (score, key) in scores.iter_mut().zip(self.of_head(keys, head)) {
                *score = ops::dot(q, key) * scale;
            }
        }
        ops::softmax(scores);
        out.fill(0.0);
        for (scores, values) in scores.chunks(self.block).zip(&self.values) {
            for (&score, value) in scores.iter().zip(self.of_head(values, head)) {
                ops::axpy(out, score, value);
            }
        }
    }

    /// Rows of one head in a block, by position.
    #[inline(always)]
    fn of_head<'a>(&self, block: &'a [f32], head: usize) -> std::slice::ChunksExact<'a, f32> {
        let size = self.block * self.head_dim;
        block[head * size..(head + 1) * size].chunks_exact(self.head_dim)
    }
}
