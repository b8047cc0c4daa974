//! Many tokens: a tile of eight rows is unpacked once into the first-level cache and used for all tokens, four at a time
//! with the weights in registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::{Activations, RoundedGroup, Rows, half_block, parts, write_rows};
use super::add_products;
use super::blocks::{Unpacked, unpack};

/// A tile of unpacked weights is this many rows of this many groups: 10 KiB, a third of a first-level cache, beside
/// [`TOKENS`] times as many groups of activations.
const ROWS: usize = 8;
const TILE_GROUPS: usize = 8;
/// Tokens that are computed together: with their sums and four planes of weights they fill the 16 registers.
const TOKENS: usize = 4;
/// Tokens whose sums wait in memory while a tile of weights is in use.
const PANEL: usize = 16 * TOKENS;

/// Sums of each row of a tile with a token, eight lanes each.
type Sums = [__m256; ROWS];

#[target_feature(enable = "avx2,f16c")]
pub(super) fn many_tokens<const VNNI: bool, const BLOCK: usize>(
    out: &mut [f32],
    weights: Rows,
    x: Activations,
) {
    let (tokens, groups) = (x.tokens(), x.groups_per_token);
    let rows = out.len() / tokens;
    let zero = Unpacked { planes: [_mm256_setzero_si256(); 4], scales: _mm256_setzero_ps() };
    let mut tile = [[zero; TILE_GROUPS]; ROWS];
    let mut sums = [[_mm256_setzero_ps(); ROWS]; PANEL];
    for first_row in (0..rows).step_by(ROWS) {
        let tile_rows = ROWS.min(rows - first_row);
        weights.ask_for(first_row + ROWS, ROWS);
        for first_token in (0..tokens).step_by(PANEL) {
            let panel = PANEL.min(tokens - first_token);
            for first_group in (0..groups).step_by(TILE_GROUPS) {
                let some = first_group..groups.min(first_group + TILE_GROUPS);
                for (r, tile) in tile[..tile_rows].iter_mut().enumerate() {
                    unpack_groups::<BLOCK>(tile, weights.row(first_row + r), first_group);
                }
                for (n, sums) in sums[..panel].chunks_mut(TOKENS).enumerate() {
                    let first = first_token + n * TOKENS;
                    let tile = &tile[..tile_rows];
                    match sums.len() {
                        1 => tile_products::<VNNI, 1>(sums, tile, x, first, some.clone()),
                        2 => tile_products::<VNNI, 2>(sums, tile, x, first, some.clone()),
                        3 => tile_products::<VNNI, 3>(sums, tile, x, first, some.clone()),
                        _ => tile_products::<VNNI, TOKENS>(sums, tile, x, first, some.clone()),
                    }
                    if some.end == groups {
                        // Now and not for the whole panel later, as with AVX-512: results of neighbouring tokens often
                        // share a set of the first-level cache.
                        for (t, &sums) in sums.iter().enumerate() {
                            write_rows(&mut out[(first + t) * rows + first_row..][..tile_rows], trees(sums));
                        }
                    }
                }
            }
        }
    }
}

/// Adds the products of a tile of weights with tokens `first..first + T`; sums of the first tile begin at zero.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn tile_products<const VNNI: bool, const T: usize>(
    sums: &mut [Sums],
    tile: &[[Unpacked; TILE_GROUPS]],
    x: Activations,
    first: usize,
    groups: Range<usize>,
) {
    let mut tokens: [&[RoundedGroup]; T] = [&[]; T];
    for t in 0..T {
        tokens[t] = &x.token(first + t)[groups.clone()];
    }
    for (r, weights) in tile.iter().enumerate() {
        let mut acc = [_mm256_setzero_ps(); T];
        if groups.start > 0 {
            for t in 0..T {
                acc[t] = sums[t][r];
            }
        }
        for (g, weights) in weights[..groups.len()].iter().enumerate() {
            let mut x = [&RoundedGroup::ZERO; T];
            for t in 0..T {
                x[t] = &tokens[t][g];
            }
            add_products::<VNNI, T>(&mut acc, weights, x);
        }
        for t in 0..T {
            sums[t][r] = acc[t];
        }
    }
}

/// Unpacks the groups of a row from `first` on, as many as there are, up to a tile of them.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn unpack_groups<const BLOCK: usize>(tile: &mut [Unpacked; TILE_GROUPS], row: &[u8], first: usize) {
    let (blocks, half) = row.as_chunks::<BLOCK>();
    for (g, out) in tile.iter_mut().enumerate() {
        let (block, part) = ((first + g) / parts(BLOCK), (first + g) % parts(BLOCK));
        match blocks.get(block) {
            Some(block) => *out = unpack(block, part),
            None if block == blocks.len() && !half.is_empty() => *out = unpack(&half_block::<BLOCK>(row), 0),
            None => break,
        }
    }
}

/// The eight lanes of each of eight rows in the one fixed tree: all rows take its steps together.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn trees([a, b, c, d, e, f, g, h]: Sums) -> [f32; ROWS] {
    let abef = add_quarters(add_halves(a, e), add_halves(b, f)); // two lanes a row
    let cdgh = add_quarters(add_halves(c, g), add_halves(d, h));
    let even = _mm256_shuffle_ps::<0b10_00_10_00>(abef, cdgh);
    bytemuck::cast(_mm256_add_ps(even, _mm256_shuffle_ps::<0b11_01_11_01>(abef, cdgh)))
}

/// Lanes 0-3 and 4-7 of each of two rows, added: four lanes a row.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add_halves(first: __m256, second: __m256) -> __m256 {
    let low = _mm256_permute2f128_ps::<0x20>(first, second);
    _mm256_add_ps(low, _mm256_permute2f128_ps::<0x31>(first, second))
}

/// Lanes 0-1 and 2-3 of each of four rows, added.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add_quarters(first: __m256, second: __m256) -> __m256 {
    let (first, second) = (_mm256_castps_pd(first), _mm256_castps_pd(second));
    let low = _mm256_castpd_ps(_mm256_unpacklo_pd(first, second));
    _mm256_add_ps(low, _mm256_castpd_ps(_mm256_unpackhi_pd(first, second)))
}
