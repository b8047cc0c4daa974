//! Many tokens: sixteen rows of a tile are the lanes of a register.

#![expect(
    clippy::needless_range_loop,
    reason = "registers are numbered; closures are not compiled for AVX-512"
)]

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::tile::{STEPS, Sums, Tile, UnpackedUnit};
use super::super::{Activations, RoundedGroup};

/// Tokens that are computed together: each load of weights serves all of them.
pub(in super::super) const TOKENS: usize = 8;

/// Adds the products of a tile of weights with up to eight tokens from `first` on; sums of the first tile begin at zero.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(in super::super) fn tile_products(
    sums: &mut [Sums],
    tile: &Tile,
    x: Activations,
    first: usize,
    groups: Range<usize>,
) {
    match sums.len() {
        1 | 2 => products_of::<2>(sums, tile, x, first, groups),
        3 | 4 => products_of::<4>(sums, tile, x, first, groups),
        _ => products_of::<TOKENS>(sums, tile, x, first, groups),
    }
}

/// The same for up to `T` tokens.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn products_of<const T: usize>(
    sums: &mut [Sums],
    tile: &Tile,
    x: Activations,
    first: usize,
    groups: Range<usize>,
) {
    let (mut padded, some) = ([Sums::ZERO; T], sums.len());
    let mut tokens: [&[RoundedGroup]; T] = [&[]; T];
    for t in 0..T {
        tokens[t] = &x.token(first + t.min(some - 1))[groups.clone()];
    }
    let all = match sums.as_mut_array() {
        Some(all) => all,
        None => {
            padded[..some].copy_from_slice(sums);
            &mut padded
        }
    };
    if groups.start == 0 {
        *all = [Sums::ZERO; T];
    }
    for unit in 0..2 {
        let mut acc = [_mm512_setzero_ps(); T];
        for t in 0..T {
            acc[t] = bytemuck::cast(all[t].0[unit]);
        }
        // By index: LLVM then writes all groups of a tile out, which is a tenth faster (Zen 4).
        for g in 0..groups.len() {
            let mut x = [&RoundedGroup::ZERO; T];
            for t in 0..T {
                x[t] = &tokens[t][g];
            }
            add_unit(&mut acc, unit, &tile[g][unit], x);
        }
        for t in 0..T {
            all[t].0[unit] = bytemuck::cast(acc[t]);
        }
    }
    if some < T {
        sums.copy_from_slice(&padded[..some]);
    }
}

/// Adds the products of one unit.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_unit<const T: usize>(sums: &mut [__m512; T], unit: usize, w: &UnpackedUnit, x: [&RoundedGroup; T]) {
    let mut products = [_mm512_setzero_si512(); T];
    for t in 0..T {
        products[t] = _mm512_set1_epi32(x[t].minus_sums[unit]);
    }
    for part in 0..2 {
        let mut sums_of_part = [_mm512_setzero_si512(); T];
        for step in 0..STEPS / 2 {
            let codes = bytemuck::cast(w.codes[STEPS / 2 * part + step]);
            let at = 16 * unit + 8 * part + 4 * (step / 4);
            for t in 0..T {
                let four: &[i8; 4] = x[t].planes[step % 4][at..].first_chunk().expect("a four of the plane");
                let four = _mm512_set1_epi32(bytemuck::cast(*four));
                sums_of_part[t] = _mm512_dpbusd_epi32(sums_of_part[t], codes, four);
            }
        }
        for t in 0..T {
            // Sums of 32 products fit 16 bits; the upper halves, which are their signs, meet a zero.
            let multiplier = _mm512_set1_epi32(x[t].multipliers[2 * unit + part][0].into());
            products[t] = _mm512_dpwssd_epi32(products[t], sums_of_part[t], multiplier);
        }
    }
    for t in 0..T {
        let scaled = _mm512_mul_ps(bytemuck::cast(w.scales), _mm512_cvtepi32_ps(products[t]));
        sums[t] = _mm512_add_ps(sums[t], scaled);
    }
}
