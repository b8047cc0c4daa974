//! Attention over a [`Cache`]: softmax in one pass, tile by tile of positions.
//!
//! What is computed for a query does not depend on how the work is cut up:
//! - Positions come in segments of [`SEGMENT`] and tiles of [`TILE`], both counted from position 0.
//! - A score is a sum over the dimensions in their order; a head's result is a sum over the positions in theirs.
//! - In a segment, the largest score so far is subtracted in the exponent, and what was summed before is scaled
//!   down when a tile brings a larger one. Segments begin afresh and are merged from the first on.
//!
//! Vectors hold positions where scores are computed and dimensions where values are summed: no sum runs across a
//! vector, so vectors of any width give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_feature = "simd128")]
mod simd128;

use std::cell::RefCell;
use std::ops::Range;

use super::isa::{Isa, Level};
use super::kv_cache::{Cache, Numbers, TILE, Tile};
use super::{GRAIN, ops, threads};

/// Positions with a softmax of their own: the unit of parallel work behind a long context.
const SEGMENT: usize = 1024;
/// Tokens of a prompt that share the unpacked keys and values.
const TOKENS: usize = 16;
/// Up to so many tokens, segments are computed in parallel: a token alone has no other work to share out.
const FEW_TOKENS: usize = 4;
/// Up to so many rows, kernels unpack in registers; more are worth unpacking a tile to memory.
const FEW_ROWS: usize = 4;
/// In front of the sums of a row lie its largest score and the sum of its weights. A cache line, for alignment.
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
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<[f32; TILE]>,
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
        isa.run(|| rows.for_each(|(n, out)| chunk.finish(first + n, out, sums)));
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
            self.isa.run(|| pairs.for_each(|(sums, row)| merge(sums, row)));
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
        let end = (self.position + tokens.end).min((segment + 1) * SEGMENT);
        for tile in segment * SEGMENT / TILE..end.div_ceil(TILE) {
            // Earlier tokens see nothing of this tile.
            let first = tokens.start.max((tile * TILE).saturating_sub(self.position));
            let sums = &mut sums[(first - tokens.start) * self.group * self.row_len()..];
            self.tile(head, first, tile, sums, scratch);
        }
    }

    /// Adds what the tokens from `first` on find in a tile; all of them see some of it.
    fn tile(&self, head: usize, first: usize, tile: usize, sums: &mut [f32], scratch: &mut Scratch) {
        let (isa, dim) = (self.isa, self.cache.head_dim());
        let Tile { mut keys, mut values, scales } = self.cache.tile(head, tile);
        let Scratch { keys: key_buffer, values: value_buffer, scores, .. } = scratch;
        let rows = sums.len() / self.row_len();
        if rows > FEW_ROWS || isa == Isa::SCALAR {
            keys = unpacked(isa, keys, key_buffer);
            values = unpacked(isa, values, value_buffer);
        }
        let query = |row: usize| {
            let (token, head) = (first + row / self.group, head * self.group + row % self.group);
            &self.q[(token * self.cache.heads() * self.group + head) * dim..][..dim]
        };
        let seen = |row: usize| (self.position + first + row / self.group + 1 - tile * TILE).min(TILE);
        scores.resize(rows, [0.0; TILE]);
        let (pairs, single) = scores.as_chunks_mut::<2>();
        for (n, pair) in pairs.iter_mut().enumerate() {
            *pair = dots(isa, [query(2 * n), query(2 * n + 1)], keys);
        }
        if let [score] = single {
            [*score] = dots(isa, [query(rows - 1)], keys);
        }
        let factors = factors(scales, 1.0 / (dim as f32).sqrt());
        for (row, (scores, sums)) in scores.iter_mut().zip(sums.chunks_exact_mut(self.row_len())).enumerate()
        {
            weigh(isa, scores, seen(row), &factors, sums);
        }
        for (n, sums) in sums.chunks_mut(2 * self.row_len()).enumerate() {
            let row = 2 * n;
            match sums.split_at_mut_checked(self.row_len()) {
                Some((a, b)) if !b.is_empty() && seen(row) == seen(row + 1) => {
                    let weights = [&scores[row][..seen(row)], &scores[row + 1][..seen(row)]];
                    add_values(isa, [&mut a[FRONT..], &mut b[FRONT..]], weights, values);
                }
                Some((a, b)) => {
                    add_values(isa, [&mut a[FRONT..]], [&scores[row][..seen(row)]], values);
                    if !b.is_empty() {
                        add_values(isa, [&mut b[FRONT..]], [&scores[row + 1][..seen(row + 1)]], values);
                    }
                }
                None => unreachable!("rows are whole"),
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
    }
}

/// What scores and weights of each position are multiplied by.
struct Factors<'a> {
    scores: [f32; TILE],
    weights: Option<&'a [f32; TILE]>,
}

fn factors(scales: Option<[&[f32; TILE]; 2]>, scale: f32) -> Factors<'_> {
    match scales {
        Some([keys, values]) => Factors { scores: keys.map(|key| key * scale), weights: Some(values) },
        None => Factors { scores: [scale; TILE], weights: None },
    }
}

/// Turns products with the keys into weights of the values, of which the first `seen` count, and scales down what
/// the row summed before.
#[inline(always)]
fn weigh_row(scores: &mut [f32; TILE], seen: usize, factors: &Factors, sums: &mut [f32]) {
    let [largest, total, ..] = sums else { return };
    for (score, factor) in scores.iter_mut().zip(factors.scores) {
        *score *= factor;
    }
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
    if let Some(of_values) = factors.weights {
        scores.iter_mut().zip(of_values).for_each(|(weight, factor)| *weight *= factor);
    }
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// The largest of a tile.
#[inline(always)]
fn max(x: &[f32; TILE]) -> f32 {
    let (vectors, _) = x.as_chunks::<8>();
    let mut lanes = vectors[0];
    for vector in &vectors[1..] {
        for i in 0..8 {
            lanes[i] = larger(lanes[i], vector[i]);
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, larger)
}

/// Adds a later segment to the sums of those before it.
#[inline(always)]
fn merge(sums: &mut [f32], later: &[f32]) {
    let (front, sums) = sums.split_at_mut(FRONT);
    if let [largest, total, ..] = front {
        let mut pair = [*largest, *total];
        merge_into(&mut pair, sums, later);
        [*largest, *total] = pair;
    }
}

#[inline(always)]
fn merge_into([largest, total]: &mut [f32; 2], sums: &mut [f32], later: &[f32]) {
    let new = larger(*largest, later[0]);
    let (a, b) = (ops::exp(*largest - new), ops::exp(later[0] - new));
    *total = *total * a + later[1] * b;
    *largest = new;
    for (sum, later) in sums.iter_mut().zip(&later[FRONT..]) {
        *sum = *sum * a + later * b;
    }
}

/// The numbers as f32, which all of them are exactly.
fn unpacked<'a>(isa: Isa, numbers: Numbers<'a>, buffer: &'a mut Vec<f32>) -> Numbers<'a> {
    if let Numbers::F32(_) = numbers {
        return numbers;
    }
    buffer.resize(numbers.len(), 0.0);
    match isa.level() {
        Level::Scalar => scalar::unpack(buffer, numbers),
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
        // SAFETY: an `Isa` above the scalar one exists only where AVX2 and F16C were detected.
        _ => unsafe { avx2::unpack(buffer, numbers) },
        #[cfg(target_arch = "aarch64")]
        #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
        // SAFETY: an `Isa` above the scalar one exists only where NEON was detected.
        _ => unsafe { neon::unpack(buffer, numbers) },
        #[cfg(target_feature = "simd128")]
        Level::Simd128 => simd128::unpack(buffer, numbers),
    }
    Numbers::F32(buffer)
}

/// Products of queries with the keys of a tile, not scaled yet.
fn dots<const R: usize>(isa: Isa, q: [&[f32]; R], keys: Numbers) -> [[f32; TILE]; R] {
    match isa.level() {
        Level::Scalar => scalar::dots(q, keys),
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
        // SAFETY: an `Isa` above the scalar one exists only where AVX2 and F16C were detected.
        _ => unsafe { avx2::dots(q, keys) },
        #[cfg(target_arch = "aarch64")]
        #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
        // SAFETY: an `Isa` above the scalar one exists only where NEON was detected.
        _ => unsafe { neon::dots(q, keys) },
        #[cfg(target_feature = "simd128")]
        Level::Simd128 => simd128::dots(q, keys),
    }
}

/// See [`weigh_row`]. Not by [`Isa::run`], whose closure the compiler only inlines, and compiles for these
/// instructions, if it is small.
fn weigh(isa: Isa, scores: &mut [f32; TILE], seen: usize, factors: &Factors, sums: &mut [f32]) {
    match isa.level() {
        Level::Scalar => weigh_row(scores, seen, factors, sums),
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
        // SAFETY: an `Isa` above the scalar one exists only where AVX2 and F16C were detected.
        _ => unsafe { avx2::weigh(scores, seen, factors, sums) },
        #[cfg(target_arch = "aarch64")]
        #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
        // SAFETY: an `Isa` above the scalar one exists only where NEON was detected.
        _ => unsafe { neon::weigh(scores, seen, factors, sums) },
        #[cfg(target_feature = "simd128")]
        Level::Simd128 => weigh_row(scores, seen, factors, sums),
    }
}

/// `sums[r] += weights[r] · values`, position after position.
fn add_values<const R: usize>(isa: Isa, sums: [&mut [f32]; R], weights: [&[f32]; R], values: Numbers) {
    match isa.level() {
        Level::Scalar => scalar::add_values(sums, weights, values),
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
        // SAFETY: an `Isa` above the scalar one exists only where AVX2 and F16C were detected.
        _ => unsafe { avx2::add_values(sums, weights, values) },
        #[cfg(target_arch = "aarch64")]
        #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
        // SAFETY: an `Isa` above the scalar one exists only where NEON was detected.
        _ => unsafe { neon::add_values(sums, weights, values) },
        #[cfg(target_feature = "simd128")]
        Level::Simd128 => simd128::add_values(sums, weights, values),
    }
}
