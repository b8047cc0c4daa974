//! Tiles of rounded keys and values: int8 or int4, with an f32 scale for the key and one for the value of each position.
//!
//! Numbers lie in pairs, as instructions that add two products want them:
//!
//! | | keys | values | a pair |
//! | --- | --- | --- | --- |
//! | int8 | `[head_dim / 2, TILE, 2]` | `[TILE / 2, head_dim, 2]` | two bytes |
//! | int4 | words `[head_dim / 8, TILE]` | words `[TILE / 8, head_dim]` | pair `p` of a word of 32 bits: the four bits from `4 p` on, and those from `4 p + 16` on |
//!
//! So all four pairs of a vector of words come out of it by two shifts each. A `head_dim` that is no multiple of 8 is
//! filled up with zeros.
//!
//! Sixteen steps are few where one dimension is far larger than others, which keys are known for. Before they are rounded
//! to int4, keys and values are multiplied by a Hadamard matrix ([`hadamard`](super::super::ops::hadamard)), which spreads
//! such a dimension over all (QuaRot, arXiv 2404.00456). Attention does the same to queries, which leaves the scores as
//! they were, and to its result.

use bytemuck::{cast_slice, cast_slice_mut};

use super::super::ops;
use super::{Kept, TILE, span};

/// Positions or dimensions in a word of int4.
const IN_WORD: usize = 8;

/// Keys or values of a tile.
#[derive(Clone, Copy)]
pub(in super::super) enum Rounded<'a> {
    Int8(&'a [i8]),
    Int4(&'a [u32]),
}

impl Rounded<'_> {
    /// Pair `n` of the keys at a position, or of the values in a dimension; there are `len` of these.
    #[inline(always)]
    pub(in super::super) fn pair(self, n: usize, at: usize, len: usize) -> [i8; 2] {
        match self {
            Self::Int8(numbers) => [0, 1].map(|i| numbers[2 * (n * len + at) + i]),
            Self::Int4(words) => {
                let word = words[n / 4 * len + at] >> (n % 4 * 4);
                [0, 16].map(|from| (word >> from << 4) as i8 >> 4)
            }
        }
    }

    /// Pairs that lie together, of each position or dimension.
    pub(in super::super) fn pairs_together(self) -> usize {
        match self {
            Self::Int8(_) => 1,
            Self::Int4(_) => IN_WORD / 2,
        }
    }
}

/// A tile of one head.
pub(in super::super) struct RoundedTile<'a> {
    pub keys: Rounded<'a>,
    pub values: Rounded<'a>,
    /// What to multiply each position's key and value by.
    pub scales: [&'a [f32; TILE]; 2],
}

impl<'a> RoundedTile<'a> {
    pub(super) fn int8(tile: &'a [u8], head_dim: usize) -> Self {
        let (numbers, scales) = tile.split_at(2 * TILE * head_dim);
        let (keys, values) = cast_slice(numbers).split_at(TILE * head_dim);
        Self { keys: Rounded::Int8(keys), values: Rounded::Int8(values), scales: both(scales) }
    }

    pub(super) fn int4(tile: &'a [u8], head_dim: usize) -> Self {
        let (numbers, scales) = tile.split_at(tile.len() - 2 * TILE * size_of::<f32>());
        let (keys, values) = cast_slice(numbers).split_at(TILE * key_words(head_dim));
        Self { keys: Rounded::Int4(keys), values: Rounded::Int4(values), scales: both(scales) }
    }
}

fn both(scales: &[u8]) -> [&[f32; TILE]; 2] {
    let (scales, _) = cast_slice(scales).as_chunks();
    [&scales[0], &scales[1]]
}

/// Words of a key in int4.
pub(super) fn key_words(head_dim: usize) -> usize {
    head_dim.div_ceil(IN_WORD)
}

/// Bytes of the key and the value of one head at one position.
pub(super) fn int4_bytes(head_dim: usize) -> usize {
    key_words(head_dim) * size_of::<u32>() + head_dim / 2 + 2 * size_of::<f32>()
}

pub(super) fn used_int8(head_dim: usize, used: usize) -> Vec<Kept> {
    let values = head_dim * TILE;
    let whole = used / 2 * 2;
    let mut kept: Vec<_> = (0..head_dim / 2).map(|d| span(2 * d * TILE, 2 * used)).collect();
    kept.push(span(values, whole * head_dim));
    if used > whole {
        // Beside each value of the last position lies one of a position that does not count.
        kept.extend((0..head_dim).map(|d| span(values + whole * head_dim + 2 * d, 1)));
    }
    kept.extend(used_scales(2 * values, used));
    kept
}

pub(super) fn used_int4(head_dim: usize, used: usize) -> Vec<Kept> {
    const WORD: usize = size_of::<u32>();
    let values = key_words(head_dim) * TILE * WORD;
    let (whole, rest) = (used / IN_WORD, used % IN_WORD);
    let mut kept: Vec<_> = (0..key_words(head_dim)).map(|d| span(d * TILE * WORD, used * WORD)).collect();
    kept.push(span(values, whole * head_dim * WORD));
    if rest > 0 {
        let last = span(values + whole * head_dim * WORD, head_dim * WORD);
        kept.push(Kept { bits: (0..rest).map(|n| 0xf << shift(n)).sum(), ..last });
    }
    kept.extend(used_scales(values + head_dim * TILE / 2, used));
    kept
}

fn used_scales(first: usize, used: usize) -> [Kept; 2] {
    let scale = size_of::<f32>();
    [0, 1].map(|n| span(first + n * TILE * scale, used * scale))
}

/// Where number `n` of the eight in a word begins: two of a pair lie 16 bits apart.
fn shift(n: usize) -> usize {
    n / 2 % 4 * 4 + n % 2 * 16
}

pub(super) fn store_int8(tile: &mut [u8], place: usize, k: &[f32], v: &[f32]) {
    let (numbers, scales) = tile.split_at_mut(2 * TILE * k.len());
    let (keys, values) = cast_slice_mut(numbers).split_at_mut(TILE * k.len());
    let (scales, _) = cast_slice_mut(scales).as_chunks_mut::<TILE>();
    let values = &mut values[place / 2 * 2 * v.len()..];
    scales[0][place] = ops::round(k, 127.0, |d, k| keys[(d / 2 * TILE + place) * 2 + d % 2] = k as i8);
    scales[1][place] = ops::round(v, 127.0, |d, v| values[2 * d + place % 2] = v as i8);
}

/// `turned` is memory for a key or a value.
pub(super) fn store_int4(tile: &mut [u8], place: usize, k: &[f32], v: &[f32], turned: &mut Vec<f32>) {
    let (numbers, scales) = tile.split_at_mut(tile.len() - 2 * TILE * size_of::<f32>());
    let (keys, values) = cast_slice_mut::<_, u32>(numbers).split_at_mut(TILE * key_words(k.len()));
    let (scales, _) = cast_slice_mut(scales).as_chunks_mut::<TILE>();

    keys.as_chunks_mut::<TILE>().0.iter_mut().for_each(|words| words[place] = 0);
    let key = turn(k, turned);
    scales[0][place] = ops::round(key, 7.0, |d, k| keys[d / IN_WORD * TILE + place] |= bits(k, d));

    let values = &mut values[place / IN_WORD * v.len()..][..v.len()];
    let before: u32 = (0..place % IN_WORD).map(|n| 0xf << shift(n)).sum(); // what comes behind was forgotten
    values.iter_mut().for_each(|word| *word &= before);
    scales[1][place] = ops::round(turn(v, turned), 7.0, |d, v| values[d] |= bits(v, place));
}

fn turn<'a>(row: &[f32], turned: &'a mut Vec<f32>) -> &'a [f32] {
    turned.clear();
    turned.extend_from_slice(row);
    ops::hadamard(turned);
    turned
}

/// The bits of a word that are number `n` of its eight.
fn bits(number: i32, n: usize) -> u32 {
    (number as u32 & 0xf) << shift(n % IN_WORD)
}
