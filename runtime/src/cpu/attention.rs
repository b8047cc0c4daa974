//! Attention over a [`Cache`]: softmax in one pass, tile by tile of positions.
//!
//! What is computed for a query does not depend on how the work is cut up:
//! - Positions come in segments of [`SEGMENT`] and tiles of [`TILE`], both counted from position 0.
//! - A score is a sum over the dimensions in their order; a head's result is a sum over the positions in theirs.
//! - In a segment, the largest score of the first tile is subtracted in the exponent; when a tile brings one that is larger by
//!   more than 8, that one is, and what was summed before is scaled down. Segments begin afresh and are merged from the
//!   first on.
//!
//! Vectors hold positions where scores are computed and dimensions where values are summed: no float sum runs across
//! a vector, so vectors of any width give the same bits. Over a rounded cache, queries and weights are rounded
//! and the products of a tile are sums of integers, the same in any order.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod float;
mod kernels;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_feature = "simd128"))]
mod loops;
#[cfg(target_arch = "aarch64")]
mod neon;
mod rounded;
mod scalar;
#[cfg(target_feature = "simd128")]
mod simd128;
mod softmax;

use std::cell::RefCell;
use std::ops::Range;

use super::isa::Isa;
use super::kv_cache::{Cache, KvFormat, Numbers, TILE, Tile};
use super::{GRAIN, ops, threads};
use crate::vectorized;
use softmax::{merge, merge_into};

/// Positions with a softmax of their own: the unit of parallel work behind a long context.
const SEGMENT: usize = 1024;
/// Tokens of a prompt that share the unpacked keys and values.
const TOKENS: usize = 16;
/// Up to so many tokens, segments are computed in parallel: a token alone has no other work to share out.
const FEW_TOKENS: usize = 4;
/// In front of the sums of a row lie what was subtracted from its scores and the sum of its weights. A cache line, for
/// alignment.
const FRONT: usize = 16;

/// Attention of a chunk.
struct Chunk<'a> {
    isa: Isa,
    cache: &'a Cache,
    /// `[tokens, heads, head_dim]`.
    q: &'a [f32],
    /// Query heads that share a key/value head.
    group: usize,
    /// Of the first token.
    position: usize,
    tokens: usize,
    /// Blocks of tokens, and parts into which the segments of each are divided: one task each, for each head.
    blocks: usize,
    parts: usize,
}

/// Memory of a task.
#[derive(Default)]
struct Scratch {
    float: float::Scratch,
    rounded: rounded::Scratch,
    /// Sums of one segment.
    rows: Vec<f32>,
}

/// `out[t, h] = softmax(q[t, h] · keys / sqrt(head_dim)) · values` over positions `0..=position + t`;
/// consecutive query heads share a key/value head. `sums` is memory to be used again.
pub(super) fn attention(
    isa: Isa,
    out: &mut [f32],
    q: &[f32],
    cache: &Cache,
    [position, tokens]: [usize; 2],
    sums: &mut Vec<f32>,
) {
    let dim = cache.head_dim();
    let end = position + tokens;
    let chunk = Chunk {
        isa,
        cache,
        q,
        group: q.len() / (tokens * dim * cache.heads()),
        position,
        tokens,
        blocks: tokens.div_ceil(TOKENS),
        parts: if tokens <= FEW_TOKENS { end.div_ceil(SEGMENT) } else { 1 },
    };
    let task = chunk.task_len();
    let len = cache.heads() * chunk.blocks * chunk.parts * task;
    if sums.len() < len {
        sums.resize(len, 0.0);
    }
    let work = tokens.min(TOKENS) * chunk.group * dim * (end / chunk.parts);
    threads::for_rows(&mut sums[..len], task, GRAIN.div_ceil(work), |first, tasks| {
        SCRATCH.with_borrow_mut(|scratch| {
            tasks
                .chunks_exact_mut(task)
                .enumerate()
                .for_each(|(n, sums)| chunk.task(first + n, sums, scratch));
        });
    });
    threads::for_rows(out, dim, GRAIN.div_ceil(dim), |first, rows| {
        let rows = rows.chunks_exact_mut(dim).enumerate();
        vectorized!(isa, rows.for_each(|(n, out)| chunk.finish(first + n, out, sums)));
    });
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Chunk<'_> {
    /// Floats of a row of sums.
    fn row_len(&self) -> usize {
        FRONT + self.cache.head_dim()
    }

    /// The `n`th query of a token that looks at a key/value head.
    fn query(&self, head: usize, token: usize, n: usize) -> &[f32] {
        let (heads, dim) = (self.cache.heads() * self.group, self.cache.head_dim());
        &self.q[(token * heads + head * self.group + n) * dim..][..dim]
    }

    /// Factor on the product of a query and a key.
    fn scale(&self) -> f32 {
        1.0 / (self.cache.head_dim() as f32).sqrt()
    }

    /// Floats of the sums of a task.
    fn task_len(&self) -> usize {
        self.tokens.min(TOKENS) * self.group * self.row_len()
    }

    /// Segments that the token sees.
    fn segments(&self, token: usize) -> usize {
        (self.position + token) / SEGMENT + 1
    }

    /// Sums of the `n`th (head, block of tokens, part of the segments).
    fn task(&self, n: usize, sums: &mut [f32], scratch: &mut Scratch) {
        let (n, part) = (n / self.parts, n % self.parts);
        let (head, block) = (n / self.blocks, n % self.blocks);
        let tokens = block * TOKENS..self.tokens.min((block + 1) * TOKENS);
        let sums = &mut sums[..tokens.len() * self.group * self.row_len()];
        if self.parts > 1 {
            return self.segment(head, tokens, part, sums, scratch);
        }
        self.segment(head, tokens.clone(), 0, sums, scratch);
        let mut rows = std::mem::take(&mut scratch.rows);
        rows.resize(sums.len(), 0.0);
        for segment in 1..self.segments(tokens.end - 1) {
            self.segment(head, tokens.clone(), segment, &mut rows, scratch);
            let from = tokens.clone().find(|&token| segment < self.segments(token)).unwrap_or(tokens.end);
            let from = (from - tokens.start) * self.group * self.row_len();
            let pairs =
                sums[from..].chunks_exact_mut(self.row_len()).zip(rows[from..].chunks_exact(self.row_len()));
            pairs.for_each(|(sums, row)| vectorized!(self.isa, merge(sums, row)));
        }
        scratch.rows = rows;
    }

    /// Sums of one segment, for all query heads of `head`.
    fn segment(
        &self,
        head: usize,
        tokens: Range<usize>,
        segment: usize,
        sums: &mut [f32],
        scratch: &mut Scratch,
    ) {
        for row in sums.chunks_exact_mut(self.row_len()) {
            row.fill(0.0);
            row[0] = f32::NEG_INFINITY;
        }
        if matches!(self.cache.format(), KvFormat::Int16 | KvFormat::Int8 | KvFormat::Int4) {
            scratch.rounded.round_queries(self, head, tokens.clone());
        }
        let end = (self.position + tokens.end).min((segment + 1) * SEGMENT);
        for tile in segment * SEGMENT / TILE..end.div_ceil(TILE) {
            // Earlier tokens see nothing of this tile.
            let first = tokens.start.max((tile * TILE).saturating_sub(self.position));
            let sums = &mut sums[(first - tokens.start) * self.group * self.row_len()..];
            let view = View { chunk: self, head, first, tile };
            match self.cache.tile(head, tile) {
                Tile::Float(numbers) => float::tile(&view, numbers, sums, &mut scratch.float),
                Tile::Rounded(numbers) => rounded::tile(&view, &numbers, sums, &mut scratch.rounded),
            }
        }
    }

    /// Merges the parts of the `n`th (token, head) and divides by the sum of the weights.
    #[inline(always)]
    fn finish(&self, n: usize, out: &mut [f32], sums: &[f32]) {
        let heads = self.cache.heads() * self.group;
        let (token, head) = (n / heads, n % heads);
        let task = head / self.group * self.blocks + token / TOKENS;
        let row = token % TOKENS * self.group + head % self.group;
        let part = |part: usize| {
            &sums[(task * self.parts + part) * self.task_len() + row * self.row_len()..][..self.row_len()]
        };
        let mut front = [part(0)[0], part(0)[1]];
        out.copy_from_slice(&part(0)[FRONT..]);
        for n in 1..self.segments(token).min(self.parts) {
            merge_into(&mut front, out, part(n));
        }
        let scale = 1.0 / front[1];
        out.iter_mut().for_each(|out| *out *= scale);
        if self.cache.format() == KvFormat::Int4 {
            let turned = ops::hadamard(out); // back
            out.iter_mut().for_each(|out| *out /= turned);
        }
    }
}

/// How many positions of a tile rows see: so many more than `first` as tokens lie between.
#[derive(Clone, Copy)]
struct Seen {
    first: usize,
    group: usize,
}

impl Seen {
    /// Whether all rows see the whole tile.
    fn all(self) -> bool {
        self.first >= TILE
    }

    /// At least one.
    fn by(self, row: usize) -> usize {
        if self.all() { TILE } else { (self.first + row / self.group).min(TILE) }
    }
}

/// What tokens from `first` on, as many as there are sums for, see of a tile. A row is a query head of a token.
struct View<'a> {
    chunk: &'a Chunk<'a>,
    head: usize,
    first: usize,
    tile: usize,
}

impl View<'_> {
    fn seen(&self) -> Seen {
        Seen { first: self.chunk.position + self.first + 1 - self.tile * TILE, group: self.chunk.group }
    }

    /// Query of a row.
    fn query(&self, row: usize) -> &[f32] {
        self.chunk.query(self.head, self.first + row / self.chunk.group, row % self.chunk.group)
    }
}
