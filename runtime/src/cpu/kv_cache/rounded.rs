//! Tiles of rounded keys and values: int16, int8 or int4, with an f32 scale for the key and one for the value of each position.
//!
//! Numbers lie as instructions want them that add two or four products in a word of 32 bits:
//!
//! | | keys | values | a word |
//! | --- | --- | --- | --- |
//! | int16, int8 | `[head_dim / 2, TILE, 2]` | `[TILE / 2, head_dim, 2]` | |
//! | int4 | words `[head_dim / 8, TILE]` | words `[TILE / 8, head_dim]` | numbers 0 to 3 are the lower four bits of its bytes, 4 to 7 the upper ones; 8 is added to each |
//!
//! What they are multiplied by comes in words too: two i16 for int16 and int8, four i8 for int4. A `head_dim` that is no multiple of
//! 8 is filled up with zeros.
//!
//! Sixteen steps are few where one dimension is far larger than others, which keys are known for. Before they are rounded
//! to int4, keys and values are multiplied by a Hadamard matrix ([`hadamard`](super::super::ops::hadamard)), which spreads
//! such a dimension over all (QuaRot, arXiv 2404.00456). Attention does the same to queries, which leaves the scores as
//! they were, and to its result.

use bytemuck::{Pod, cast_slice, cast_slice_mut};

use super::super::ops;
use super::{Kept, TILE, span};

/// Positions or dimensions in a word of int4.
const IN_WORD: usize = 8;
/// Added to what is from -8 to 7.
pub(in super::super) const INT4_OFFSET: i32 = 8;

/// The largest number of int16: the sum of products with a tile's 32 weights, which are as large, is an i32.
pub(in super::super) const INT16_MOST: i16 = 8191;

/// Keys or values of a tile.
#[derive(Clone, Copy)]
pub(in super::super) enum Rounded<'a> {
    Int16(&'a [i16]),
    Int8(&'a [i8]),
    Int4(&'a [u32]),
}

impl Rounded<'_> {
    /// Products of a word of factors, the `n`th, with the keys of a position or the values in a dimension, one of `len`.
    #[inline(always)]
    pub(in super::super) fn product(self, factors: u32, n: usize, at: usize, len: usize) -> i32 {
        match self {
            Self::Int16(numbers) => pair_product(factors, &numbers[2 * (n * len + at)..]),
            Self::Int8(numbers) => pair_product(factors, &numbers[2 * (n * len + at)..]),
            Self::Int4(words) => {
                let numbers = (words[n / 2 * len + at] >> (n % 2 * 4)).to_ne_bytes();
                let factors: [i8; 4] = bytemuck::cast(factors);
                factors.iter().zip(numbers).map(|(&a, b)| i32::from(a) * i32::from(b & 0xf)).sum()
            }
        }
    }

    /// The largest factor of a word.
    pub(in super::super) fn largest_factor(self) -> f32 {
        match self {
            Self::Int16(_) => INT16_MOST.into(),
            Self::Int8(_) => i16::MAX.into(),
            Self::Int4(_) => i8::MAX.into(),
        }
    }

    /// Words of factors for so many positions.
    pub(in super::super) fn words(self, positions: usize) -> usize {
        match self {
            Self::Int16(_) | Self::Int8(_) => positions.div_ceil(2),
            Self::Int4(_) => positions.div_ceil(IN_WORD) * 2,
        }
    }
}

/// Products of two factors with the first two numbers.
fn pair_product<T: Copy + Into<i32>>(factors: u32, numbers: &[T]) -> i32 {
    let factors: [i16; 2] = bytemuck::cast(factors);
    factors.iter().zip(numbers).map(|(&a, &b)| i32::from(a) * b.into()).sum()
}

/// A tile of one head.
pub(in super::super) struct RoundedTile<'a> {
    pub keys: Rounded<'a>,
    pub values: Rounded<'a>,
    /// What to multiply each position's key and value by.
    pub scales: [&'a [f32; TILE]; 2],
}

impl<'a> RoundedTile<'a> {
    pub(super) fn int16(tile: &'a [u8], head_dim: usize) -> Self {
        let (numbers, scales) = tile.split_at(4 * TILE * head_dim);
        let (keys, values) = cast_slice(numbers).split_at(TILE * head_dim);
        Self { keys: Rounded::Int16(keys), values: Rounded::Int16(values), scales: both(scales) }
    }

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

/// Of a tile of numbers of `size` bytes: int8 or int16.
pub(super) fn used_pairs(head_dim: usize, used: usize, size: usize) -> Vec<Kept> {
    let values = head_dim * TILE * size;
    let whole = used / 2 * 2;
    let mut kept: Vec<_> = (0..head_dim / 2).map(|d| span(2 * d * TILE * size, 2 * used * size)).collect();
    kept.push(span(values, whole * head_dim * size));
    if used > whole {
        // Beside each value of the last position lies one of a position that does not count.
        kept.extend((0..head_dim).map(|d| span(values + (whole * head_dim + 2 * d) * size, size)));
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

/// Where number `n` of the eight in a word begins.
fn shift(n: usize) -> usize {
    n % 4 * 8 + n / 4 * 4
}

/// `scratch` is memory for a key or a value, here and below.
#[inline(always)]
pub(super) fn store_int16(tile: &mut [u8], place: usize, k: &[f32], v: &[f32], scratch: &mut Vec<f32>) {
    store_pairs(tile, place, k, v, INT16_MOST.into(), |x| x as i16, scratch);
}

#[inline(always)]
pub(super) fn store_int8(tile: &mut [u8], place: usize, k: &[f32], v: &[f32], scratch: &mut Vec<f32>) {
    store_pairs(tile, place, k, v, 127.0, |x| x as i8, scratch);
}

/// Stores numbers of up to `most`, those of a key two at a time.
#[inline(always)]
fn store_pairs<T: Pod>(
    tile: &mut [u8],
    place: usize,
    k: &[f32],
    v: &[f32],
    most: f32,
    narrow: impl Fn(i32) -> T,
    scratch: &mut Vec<f32>,
) {
    let (numbers, scales) = tile.split_at_mut(2 * TILE * k.len() * size_of::<T>());
    let (keys, values) = cast_slice_mut(numbers).split_at_mut(TILE * k.len());
    let (scales, _) = cast_slice_mut(scales).as_chunks_mut::<TILE>();
    scratch.resize(k.len(), 0.0);
    let rounded: &mut [i32] = cast_slice_mut(scratch);
    scales[0][place] = ops::round(k, most, |d, k| rounded[d] = k);
    let (keys, _) = keys.as_chunks_mut::<2>();
    for (keys, pair) in keys.chunks_exact_mut(TILE).zip(rounded.as_chunks::<2>().0) {
        keys[place] = pair.map(&narrow);
    }
    let values = &mut values[place / 2 * 2 * v.len()..][..2 * v.len()];
    scales[1][place] = ops::round(v, most, |d, v| values[2 * d + place % 2] = narrow(v));
}

#[inline(always)]
pub(super) fn store_int4(tile: &mut [u8], place: usize, k: &[f32], v: &[f32], scratch: &mut Vec<f32>) {
    let (numbers, scales) = tile.split_at_mut(tile.len() - 2 * TILE * size_of::<f32>());
    let (keys, values) = cast_slice_mut::<_, u32>(numbers).split_at_mut(TILE * key_words(k.len()));
    let (scales, _) = cast_slice_mut(scales).as_chunks_mut::<TILE>();

    keys.as_chunks_mut::<TILE>().0.iter_mut().for_each(|words| words[place] = 0);
    let key = turn(k, scratch);
    scales[0][place] = round_int4(key, |d, k| keys[d / IN_WORD * TILE + place] |= bits(k, d));

    let values = &mut values[place / IN_WORD * v.len()..][..v.len()];
    let before: u32 = (0..place % IN_WORD).map(|n| 0xf << shift(n)).sum(); // what comes behind was forgotten
    values.iter_mut().for_each(|word| *word &= before);
    scales[1][place] = round_int4(turn(v, scratch), |d, v| values[d] |= bits(v, place));
}

/// Rounds a row to -8 to 7 and returns the scale, as [`ops::round`] does; it has the sign that makes the largest number -8:
/// steps are an eighth smaller than if -7 to 7 had to do, for the price of what is nearly as large on the other side.
fn round_int4(row: &[f32], mut store: impl FnMut(usize, i32)) -> f32 {
    const LEAST: f32 = -8.0;
    let largest = row.iter().fold(0.0, |a: f32, &b| if b.abs() > a.abs() || b.is_nan() { b } else { a });
    ops::round(row, LEAST * largest.signum(), |n, x| store(n, x.min(7)))
}

fn turn<'a>(row: &[f32], turned: &'a mut Vec<f32>) -> &'a [f32] {
    turned.clear();
    turned.extend_from_slice(row);
    ops::hadamard(turned);
    turned
}

/// The bits of a word that are number `n` of its eight.
fn bits(number: i32, n: usize) -> u32 {
    ((number + INT4_OFFSET) as u32) << shift(n % IN_WORD)
}
