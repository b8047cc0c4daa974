//! x86, many tokens: the loop over tiles of weights, panels of tokens and groups, which every level shares, and how a tile is
//! unpacked.

#![expect(clippy::needless_range_loop, reason = "registers are numbered; closures are not compiled for AVX2")]

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx2::blocks::{codes, in_planes, parts_side_by_side, scales_of, two_bits, unpack};
use super::{Activations, GROUP, Rows, half_block, parts, write_rows};
use crate::cpu::isa::prefetch;

/// Rows of a tile: lanes of two registers of AVX2, or of one of AVX-512.
const ROWS: usize = 16;
/// Rows that are unpacked together.
const HALF: usize = ROWS / 2;
/// Steps of a unit: four weights of each row.
pub(super) const STEPS: usize = 16;
/// A tile is this many groups, 17 KiB: half of a first-level cache, beside the activations of a few tokens.
const TILE_GROUPS: usize = 8;
/// Tokens whose sums wait in memory while a tile of weights is in use.
const PANEL: usize = 128;

/// 64 weights of each of sixteen rows.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct UnpackedUnit {
    /// Four neighbouring bytes of a plane from each row: planes 0 to 3 of the first fours, planes 0 to 3 of the second, and so
    /// on.
    pub codes: [[[u8; 4]; ROWS]; STEPS],
    pub scales: [[f32; HALF]; 2],
}

pub(super) type Tile = [[UnpackedUnit; 2]; TILE_GROUPS];

/// Sums of a tile's rows with one token: of even units, then of odd ones.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Sums(pub [[[f32; HALF]; 2]; 2]);

impl UnpackedUnit {
    pub const ZERO: Self = Self { codes: [[[0; 4]; ROWS]; STEPS], scales: [[0.0; HALF]; 2] };
}

impl Sums {
    pub const ZERO: Self = Self([[[0.0; HALF]; 2]; 2]);
}

/// Adds the products of a tile with as many tokens as there are sums, from the given one on, and the given groups; those of
/// group 0 begin at zero.
pub(super) type Products = unsafe fn(&mut [Sums], &Tile, Activations, usize, Range<usize>);

/// See [`super::rows`]. `products` takes up to `together` tokens.
///
/// # Safety
///
/// The processor must have what `products` is compiled for.
#[expect(unsafe_code, reason = "kernels of other levels are called from code compiled for AVX2")]
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn many_tokens<const BLOCK: usize>(
    out: &mut [f32],
    weights: Rows,
    x: Activations,
    products: Products,
    together: usize,
) {
    let (tokens, groups) = (x.tokens(), x.groups_per_token);
    let rows = out.len() / tokens;
    let mut tile = [[UnpackedUnit::ZERO; 2]; TILE_GROUPS];
    let mut sums = [Sums::ZERO; PANEL];
    for first_row in (0..rows).step_by(ROWS) {
        let tile_rows = ROWS.min(rows - first_row);
        weights.ask_for(first_row + ROWS, ROWS);
        for first_token in (0..tokens).step_by(PANEL) {
            let panel = PANEL.min(tokens - first_token);
            for first_group in (0..groups).step_by(TILE_GROUPS) {
                let some = first_group..groups.min(first_group + TILE_GROUPS);
                unpack_tile::<BLOCK>(&mut tile, weights, first_row, tile_rows, some.clone(), x.side_by_side);
                for (n, sums) in sums[..panel].chunks_mut(together).enumerate() {
                    let first = first_token + n * together;
                    // SAFETY: as this function's.
                    unsafe { products(sums, &tile, x, first, some.clone()) };
                    if some.end == groups {
                        // Now and not for the whole panel later: results of neighbouring tokens often lie whole pages
                        // apart, where they share a set of the first-level cache and push each other out of it.
                        for (t, sums) in sums.iter().enumerate() {
                            let out = &mut out[(first + t) * rows + first_row..][..tile_rows];
                            prefetch(out.as_ptr().wrapping_add(ROWS));
                            write(out, sums, x.scales[first + t]);
                        }
                    }
                }
            }
        }
    }
}

/// Both sums of each row, added and scaled.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn write(out: &mut [f32], sums: &Sums, scale: f32) {
    let [even, odd] = sums.0;
    for (half, out) in out.chunks_mut(HALF).enumerate() {
        let both = _mm256_add_ps(bytemuck::cast(even[half]), bytemuck::cast(odd[half]));
        write_rows(out, bytemuck::cast(_mm256_mul_ps(both, _mm256_set1_ps(scale))));
    }
}

/// Unpacks some groups of `count` rows from `first` on; if that is less than a tile has, the last one again and again.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn unpack_tile<const BLOCK: usize>(
    tile: &mut Tile,
    weights: Rows,
    first: usize,
    count: usize,
    groups: Range<usize>,
    side_by_side: bool,
) {
    for half in 0..2 {
        let mut rows: [&[u8]; HALF] = [&[]; HALF];
        for r in 0..HALF {
            rows[r] = weights.row(first + (HALF * half + r).min(count - 1));
        }
        for (g, units) in groups.clone().zip(tile.iter_mut()) {
            let (block, part) = (g / parts(BLOCK), g % parts(BLOCK));
            let mut halves = [[0; BLOCK]; HALF];
            let mut blocks = [&[0; BLOCK]; HALF];
            if BLOCK == 36 && block == weights.row_bytes / BLOCK {
                for r in 0..HALF {
                    halves[r] = half_block(rows[r]);
                }
                blocks = halves.each_ref();
            } else {
                for r in 0..HALF {
                    blocks[r] = rows[r][block * BLOCK..].first_chunk().expect("a whole block");
                }
            }
            unpack_group(units, half, blocks, part, side_by_side, weights.f16_to_f32);
        }
    }
}

/// Unpacks the 128 weights `part` of a block of each of eight rows into lanes of a half of the tile.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn unpack_group<const BLOCK: usize>(
    units: &mut [UnpackedUnit; 2],
    half: usize,
    blocks: [&[u8; BLOCK]; HALF],
    part: usize,
    side_by_side: bool,
    f16_to_f32: &[f32; 1 << 16],
) {
    let mut planes = [[_mm256_setzero_si256(); HALF]; 4];
    if in_planes(BLOCK) {
        for r in 0..HALF {
            planes[0][r] = codes(blocks[r], part);
            if side_by_side {
                planes[0][r] = parts_side_by_side(planes[0][r]);
            }
        }
        let packed = transposed(planes[0]);
        for i in 0..HALF {
            let unpacked = two_bits(packed[i]);
            for k in 0..4 {
                planes[k][i] = unpacked[k];
            }
        }
    } else {
        for r in 0..HALF {
            let unpacked = unpack(blocks[r], part);
            for k in 0..4 {
                planes[k][r] = if side_by_side { parts_side_by_side(unpacked[k]) } else { unpacked[k] };
            }
        }
        for k in 0..4 {
            planes[k] = transposed(planes[k]);
        }
    }
    for k in 0..4 {
        for i in 0..HALF {
            // Fours of bytes 0 to 3 of a plane are unit 0's.
            let step = &mut units[i / 4].codes[i % 4 * 4 + k];
            step[HALF * half..][..HALF].copy_from_slice(&bytemuck::cast::<_, [[u8; 4]; HALF]>(planes[k][i]));
        }
    }
    for r in 0..HALF {
        let [even, odd] = scales_of(blocks[r], f16_to_f32);
        units[0].scales[half][r] = even;
        units[1].scales[half][r] = odd;
    }
}

/// Fours of bytes of eight rows: the first of each row, the second of each row, and so on.
#[inline]
#[target_feature(enable = "avx2")]
fn transposed(rows: [__m256i; HALF]) -> [__m256i; HALF] {
    const { assert!(GROUP / 4 == 4 * HALF) };
    let (mut twos, mut fours, mut eights) = (rows, rows, rows);
    for n in 0..4 {
        twos[2 * n] = _mm256_unpacklo_epi32(rows[2 * n], rows[2 * n + 1]);
        twos[2 * n + 1] = _mm256_unpackhi_epi32(rows[2 * n], rows[2 * n + 1]);
    }
    for n in 0..2 {
        for k in 0..2 {
            let (low, high) = (twos[4 * n + k], twos[4 * n + k + 2]);
            fours[4 * n + 2 * k] = _mm256_unpacklo_epi64(low, high);
            fours[4 * n + 2 * k + 1] = _mm256_unpackhi_epi64(low, high);
        }
    }
    for i in 0..4 {
        eights[i] = _mm256_permute2x128_si256::<0x20>(fours[i], fours[i + 4]);
        eights[i + 4] = _mm256_permute2x128_si256::<0x31>(fours[i], fours[i + 4]);
    }
    eights
}
