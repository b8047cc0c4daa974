//! Keys and values of one layer, laid out as attention reads them: head by head, in tiles of [`TILE`] positions.
//!
//! A tile is one stretch of memory: keys `[head_dim, TILE]`, so that a vector holds one dimension of several
//! positions and a score needs no sum across a vector, then values `[TILE, head_dim]`; how rounded ones lie says
//! [`rounded`]. Tiles begin at multiples of [`TILE`], however the positions were fed.

mod rounded;

use std::ops::Range;
use std::str::FromStr;

use bytemuck::{cast_slice, cast_slice_mut};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::isa::Isa;
use super::threads;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::pages::{HUGE, Pages};
use crate::vectorized;
pub(super) use rounded::{INT4_OFFSET, INT16_MOST, Rounded, RoundedTile};

/// Positions that lie together.
pub(super) const TILE: usize = 32;

/// How a cache holds keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvFormat {
    /// As they are computed.
    F32,
    /// Rounded to f16, to nearest, halves to even; numbers beyond its range become its largest. Half the memory, and what
    /// a GPU keeps by default.
    F16,
    /// Rounded to integers of up to 8191 in magnitude, with an f32 scale for the key and one for the value of each head:
    /// the memory of f16, nearer to f32 where no dimension is far larger than others, and products of integers, which take
    /// half the instructions. Not on a GPU.
    #[default]
    Int16,
    /// Rounded to i8, with an f32 scale for the key and one for the value of each head. A quarter of the memory.
    Int8,
    /// Turned by a Hadamard matrix, then rounded to four bits, with the same scales. An eighth of the memory.
    Int4,
}

impl KvFormat {
    /// Every format, largest first.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::Int16, Self::Int8, Self::Int4];

    /// Name for people and command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int16 => "int16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// Bytes that the caches of all layers take for each token of context. What is allocated is this for the
    /// tokens seen so far, rounded up in every layer to a block of about 2 MiB or of what is left of the context.
    pub fn bytes_per_token(self, config: &Config) -> usize {
        config.layers * config.kv_heads * self.position_bytes(config.head_dim)
    }

    /// Bytes that the caches of all layers allocate for a context of which every token was seen.
    pub fn allocated_bytes(self, config: &Config, context: usize) -> usize {
        let cache = Cache::new(config.kv_heads, config.head_dim, context, self);
        let blocks = 0..cache.shape.tiles.div_ceil(cache.shape.block);
        config.layers * blocks.map(|n| Pages::allocated(cache.block_bytes(n))).sum::<usize>()
    }

    /// Bytes of the key and the value of one head at one position.
    fn position_bytes(self, head_dim: usize) -> usize {
        let vector = match self {
            Self::F32 => head_dim * size_of::<f32>(),
            Self::F16 => head_dim * size_of::<f16>(),
            Self::Int16 => head_dim * size_of::<i16>() + size_of::<f32>(),
            Self::Int8 => head_dim + size_of::<f32>(),
            Self::Int4 => return rounded::int4_bytes(head_dim),
        };
        2 * vector
    }
}

impl KvFormat {
    /// Bytes of the first `positions` of all layers in a saved session.
    pub(crate) fn saved_bytes(self, config: &Config, positions: usize) -> usize {
        let of_tile =
            |used| -> usize { self.used(config.head_dim, used).iter().map(|kept| kept.bytes.len()).sum() };
        let tiles = positions / TILE * of_tile(TILE) + of_tile(positions % TILE);
        config.layers * config.kv_heads * tiles
    }

    /// What the first `used` positions of a tile fill of it.
    fn used(self, head_dim: usize, used: usize) -> Vec<Kept> {
        let size = match self {
            Self::F32 => size_of::<f32>(),
            Self::F16 => size_of::<f16>(),
            Self::Int16 => return rounded::used_pairs(head_dim, used, size_of::<i16>()),
            Self::Int8 => return rounded::used_pairs(head_dim, used, size_of::<i8>()),
            Self::Int4 => return rounded::used_int4(head_dim, used),
        };
        let keys = (0..head_dim).map(|d| span(d * TILE * size, used * size));
        keys.chain([span(head_dim * TILE * size, used * head_dim * size)]).collect()
    }
}

/// A part of a tile that is saved.
struct Kept {
    bytes: Range<usize>,
    /// Of each word of 32 bits: the other ones are saved as 0.
    bits: u32,
}

fn span(first: usize, size: usize) -> Kept {
    Kept { bytes: first..first + size, bits: u32::MAX }
}

impl FromStr for KvFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let unknown =
            || Error::Argument(format!("a KV cache of '{name}': expected f16, int16, int8, int4 or f32"));
        Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(unknown)
    }
}

/// Keys and values of one layer, allocated in blocks as a conversation grows; nothing moves.
pub struct Cache {
    heads: usize,
    head_dim: usize,
    format: KvFormat,
    shape: Shape,
    blocks: Vec<Pages>,
}

/// How the tiles of a head are divided into blocks.
#[derive(Clone, Copy)]
struct Shape {
    /// Tiles of a whole context.
    tiles: usize,
    /// Tiles of every block but the last, which has what is left.
    block: usize,
}

impl Shape {
    /// Tiles of block `n`.
    fn of_block(self, n: usize) -> usize {
        self.block.min(self.tiles - n * self.block)
    }

    /// The block of a tile, and which tile of a block it is: tiles lie head after head.
    fn place(self, head: usize, tile: usize) -> (usize, usize) {
        let n = tile / self.block;
        (n, head * self.of_block(n) + tile % self.block)
    }
}

/// Keys or values of a tile.
#[derive(Clone, Copy)]
pub(super) enum Numbers<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
}

impl Numbers<'_> {
    pub(super) fn len(self) -> usize {
        match self {
            Self::F32(numbers) => numbers.len(),
            Self::F16(numbers) => numbers.len(),
        }
    }
}

/// A tile of one head.
pub(super) enum Tile<'a> {
    /// Keys `[head_dim, TILE]` and values `[TILE, head_dim]`.
    Float([Numbers<'a>; 2]),
    Rounded(RoundedTile<'a>),
}

impl Cache {
    /// Room for nothing yet, and never more than `context` positions.
    pub(super) fn new(heads: usize, head_dim: usize, context: usize, format: KvFormat) -> Self {
        let tile = heads * TILE * format.position_bytes(head_dim); // of all heads
        let tiles = context.div_ceil(TILE);
        let shape = Shape { tiles, block: (HUGE / tile).clamp(1, tiles) };
        Self { heads, head_dim, format, shape, blocks: Vec::new() }
    }

    /// Makes room for positions `0..positions`.
    pub(super) fn reserve(&mut self, positions: usize) -> Result<()> {
        while self.blocks.len() * self.shape.block * TILE < positions {
            self.blocks.push(Pages::new(self.block_bytes(self.blocks.len()))?);
        }
        Ok(())
    }

    fn block_bytes(&self, n: usize) -> usize {
        self.heads * self.shape.of_block(n) * self.tile_bytes()
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.bytes().len()).sum()
    }

    pub(super) fn heads(&self) -> usize {
        self.heads
    }

    pub(super) fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Words of what a rounded key is multiplied by.
    pub(super) fn key_words(&self) -> usize {
        match self.format {
            KvFormat::Int4 => 2 * rounded::key_words(self.head_dim),
            _ => self.head_dim / 2,
        }
    }

    pub(super) fn format(&self) -> KvFormat {
        self.format
    }

    fn tile_bytes(&self) -> usize {
        TILE * self.format.position_bytes(self.head_dim)
    }

    /// Positions `TILE * tile..TILE * (tile + 1)` of a head.
    #[inline]
    pub(super) fn tile(&self, head: usize, tile: usize) -> Tile<'_> {
        let size = self.tile_bytes();
        let (block, at) = self.shape.place(head, tile);
        let tile = &self.blocks[block].bytes()[at * size..][..size];
        let numbers = TILE * self.head_dim;
        match self.format {
            KvFormat::F32 => {
                let (keys, values) = cast_slice(tile).split_at(numbers);
                Tile::Float([Numbers::F32(keys), Numbers::F32(values)])
            }
            KvFormat::F16 => {
                let (keys, values) = cast_slice(tile).split_at(numbers);
                Tile::Float([Numbers::F16(keys), Numbers::F16(values)])
            }
            KvFormat::Int16 => Tile::Rounded(RoundedTile::int16(tile, self.head_dim)),
            KvFormat::Int8 => Tile::Rounded(RoundedTile::int8(tile, self.head_dim)),
            KvFormat::Int4 => Tile::Rounded(RoundedTile::int4(tile, self.head_dim)),
        }
    }

    /// Appends the keys and values of the first `positions`: nothing of the tiles behind them, which may still hold what
    /// was forgotten.
    pub(crate) fn save(&self, positions: usize, out: &mut Vec<u8>) {
        for (block, kept) in self.places(positions) {
            let (bytes, from) = (&self.blocks[block].bytes()[kept.bytes], out.len());
            out.extend_from_slice(bytes);
            if kept.bits != u32::MAX {
                let bits = kept.bits.to_ne_bytes().into_iter().cycle(); // as words lie in the cache
                out[from..].iter_mut().zip(bits).for_each(|(byte, bits)| *byte &= bits);
            }
        }
    }

    /// Fills the first `positions`, for which there is room, from what [`save`](Self::save) wrote; gives the bytes that
    /// are left over.
    pub(crate) fn load<'a>(&mut self, positions: usize, mut saved: &'a [u8]) -> &'a [u8] {
        for (block, kept) in self.places(positions) {
            let (bytes, rest) = saved.split_at(kept.bytes.len());
            self.blocks[block].bytes_mut()[kept.bytes].copy_from_slice(bytes);
            saved = rest;
        }
        saved
    }

    /// Blocks, and what the first `positions` fill of them: tile after tile, in each of them head after head.
    fn places(&self, positions: usize) -> impl Iterator<Item = (usize, Kept)> + use<> {
        let (heads, shape, size) = (self.heads, self.shape, self.tile_bytes());
        let (format, dim) = (self.format, self.head_dim);
        (0..positions.div_ceil(TILE)).flat_map(move |tile| {
            let used = (positions - tile * TILE).min(TILE);
            (0..heads).flat_map(move |head| {
                let (block, at) = shape.place(head, tile);
                let in_block = move |kept: Kept| {
                    let bytes = at * size + kept.bytes.start..at * size + kept.bytes.end;
                    (block, Kept { bytes, ..kept })
                };
                format.used(dim, used).into_iter().map(in_block)
            })
        })
    }

    /// Stores `k` and `v` (`[tokens, heads * head_dim]`) from `position` on: the threads take heads, for the lines that a
    /// key is scattered over are far away again when the next token comes.
    pub(super) fn append(&mut self, isa: Isa, k: &[f32], v: &[f32], position: usize) {
        let (dim, heads, format) = (self.head_dim, self.heads, self.format);
        let (shape, in_block, size) = (self.shape, self.shape.block * TILE, self.tile_bytes());
        let end = position + k.len() / (heads * dim);
        let some = heads.div_ceil(threads::current());
        let blocks = self.blocks.iter_mut().enumerate();
        for (n, block) in blocks.take(end.div_ceil(in_block)).skip(position / in_block) {
            let positions = position.max(n * in_block)..end.min((n + 1) * in_block);
            let of_head = shape.of_block(n) * size;
            let tasks = block.bytes_mut()[..heads * of_head].chunks_mut(some * of_head).enumerate();
            threads::for_each(tasks.collect(), |(task, stored)| {
                let scratch = &mut Vec::new();
                for (head, stored) in stored.chunks_exact_mut(of_head).enumerate() {
                    for at in positions.clone() {
                        let row = ((at - position) * heads + task * some + head) * dim;
                        let (k, v) = (&k[row..][..dim], &v[row..][..dim]);
                        vectorized!(isa, store(format, stored, at % in_block, [k, v], scratch));
                    }
                }
            });
        }
    }
}

/// Stores a key and a value as number `at` of the tiles of a head.
#[inline(always)]
fn store(format: KvFormat, tiles: &mut [u8], at: usize, [k, v]: [&[f32]; 2], scratch: &mut Vec<f32>) {
    let (size, place) = (TILE * format.position_bytes(k.len()), at % TILE);
    let tile = &mut tiles[at / TILE * size..][..size];
    match format {
        KvFormat::F32 => store_f32(cast_slice_mut(tile), place, k, v),
        KvFormat::F16 => store_f16(cast_slice_mut(tile), place, k, v),
        KvFormat::Int16 => rounded::store_int16(tile, place, k, v, scratch),
        KvFormat::Int8 => rounded::store_int8(tile, place, k, v, scratch),
        KvFormat::Int4 => rounded::store_int4(tile, place, k, v, scratch),
    }
}

fn store_f32(tile: &mut [f32], place: usize, k: &[f32], v: &[f32]) {
    let (keys, values) = tile.split_at_mut(TILE * k.len());
    keys.as_chunks_mut::<TILE>().0.iter_mut().zip(k).for_each(|(keys, &k)| keys[place] = k);
    values[place * v.len()..][..v.len()].copy_from_slice(v);
}

fn store_f16(tile: &mut [f16], place: usize, k: &[f32], v: &[f32]) {
    let (keys, values) = tile.split_at_mut(TILE * k.len());
    let mut keys = keys.as_chunks_mut::<TILE>().0.iter_mut();
    let mut values = values[place * v.len()..][..v.len()].iter_mut();
    to_f16(k, |k| keys.next().into_iter().for_each(|keys| keys[place] = k));
    to_f16(v, |v| values.next().into_iter().for_each(|value| *value = v));
}

/// Rounds a row; what is beyond the range but finite stays finite.
fn to_f16(row: &[f32], mut store: impl FnMut(f16)) {
    const LARGEST: f32 = 65504.0;
    let bounded = |x: f32| if x.is_infinite() { x } else { x.clamp(-LARGEST, LARGEST) };
    for row in row.chunks(64) {
        let (mut from, mut to) = ([0.0; 64], [f16::ZERO; 64]);
        from.iter_mut().zip(row).for_each(|(from, &x)| *from = bounded(x));
        to.convert_from_f32_slice(&from);
        to[..row.len()].iter().for_each(|&x| store(x));
    }
}
