//! AVX2: a group of 128 in four byte-wise multiply-adds. For one token, four rows at once, so that the chain of
//! additions of one row hides behind the others; for a prompt, four tokens at once, so that a row is unpacked
//! once for four.

use std::arch::x86_64::*;

use super::{CODE_BYTES, Rounded, RoundedGroup, Rows};

/// Rows (of one token) or tokens (of one row) that are computed together.
const TILE: usize = 4;

/// See [`super::rows`].
#[target_feature(enable = "avx2,f16c")]
pub(super) fn rows(out: &mut [f32], weights: Rows, x: &Rounded) {
    match (weights.group, x.tokens()) {
        (128, 1) => one_token::<34>(out, weights, x),
        (128, _) => many_tokens::<34>(out, weights, x),
        (_, 1) => one_token::<36>(out, weights, x),
        _ => many_tokens::<36>(out, weights, x),
    }
}

#[target_feature(enable = "avx2,f16c")]
fn one_token<const BLOCK: usize>(out: &mut [f32], weights: Rows, x: &Rounded) {
    let x = x.token(0);
    let (tiles, rest) = out.as_chunks_mut::<TILE>();
    let done = tiles.len() * TILE;
    for (n, tile) in tiles.iter_mut().enumerate() {
        let rows = std::array::from_fn(|r| weights.row(n * TILE + r));
        *tile = dots::<BLOCK, TILE, 1>(rows, [x]).map(|[dot]| dot);
    }
    for (n, out) in rest.iter_mut().enumerate() {
        [[*out]] = dots::<BLOCK, 1, 1>([weights.row(done + n)], [x]);
    }
}

/// Four tokens stay in the first-level cache while all rows pass by.
#[target_feature(enable = "avx2,f16c")]
fn many_tokens<const BLOCK: usize>(out: &mut [f32], weights: Rows, x: &Rounded) {
    let tokens = x.tokens();
    let tiled = tokens / TILE * TILE;
    for first in (0..tiled).step_by(TILE) {
        let x = std::array::from_fn(|t| x.token(first + t));
        for (row, out) in out.chunks_exact_mut(tokens).enumerate() {
            let [dots] = dots::<BLOCK, 1, TILE>([weights.row(row)], x);
            out[first..first + TILE].copy_from_slice(&dots);
        }
    }
    for token in tiled..tokens {
        for (row, out) in out.chunks_exact_mut(tokens).enumerate() {
            [[out[token]]] = dots::<BLOCK, 1, 1>([weights.row(row)], [x.token(token)]);
        }
    }
}

/// Products of `R` rows with `T` tokens. `BLOCK` bytes hold 128 weights: one block of 34 or two of 18.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn dots<const BLOCK: usize, const R: usize, const T: usize>(
    rows: [&[u8]; R],
    x: [&[RoundedGroup]; T],
) -> [[f32; T]; R] {
    let rows = rows.map(|row| row.as_chunks::<BLOCK>());
    let whole = rows[0].0.len();
    let rows_whole = rows.map(|(blocks, _)| &blocks[..whole]);
    let x_whole = x.map(|groups| &groups[..whole]);
    let mut acc = [[_mm256_setzero_ps(); T]; R];
    for g in 0..whole {
        for r in 0..R {
            step(&mut acc[r], &rows_whole[r][g], x_whole.map(|x| &x[g]));
        }
    }
    if x[0].len() > whole {
        for r in 0..R {
            let mut padded = [0; BLOCK]; // a scale of zero: the upper lanes add zero
            padded[..rows[r].1.len()].copy_from_slice(rows[r].1);
            step(&mut acc[r], &padded, x.map(|x| &x[whole]));
        }
    }
    acc.map(|acc| acc.map(|acc| sum(acc)))
}

/// Adds the products of 128 weights with `T` tokens.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn step<const BLOCK: usize, const T: usize>(
    acc: &mut [__m256; T],
    block: &[u8; BLOCK],
    x: [&RoundedGroup; T],
) {
    let (codes, scale) = if BLOCK == 34 { block_of_128(block) } else { blocks_of_64(block) };
    let mask = _mm256_set1_epi8(3);
    let planes = [
        _mm256_and_si256(codes, mask),
        _mm256_and_si256(_mm256_srli_epi16::<2>(codes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<4>(codes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<6>(codes), mask),
    ];
    for t in 0..T {
        // Pairs of products are at most 2 * 3 * 127, four of those fit i16 easily: nothing saturates.
        let product = |k: usize| _mm256_maddubs_epi16(planes[k], load(&x[t].planes[k]));
        let pairs = _mm256_add_epi16(
            _mm256_add_epi16(product(0), product(1)),
            _mm256_add_epi16(product(2), product(3)),
        );
        let lanes = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        let lanes = _mm256_cvtepi32_ps(_mm256_sub_epi32(lanes, load(&x[t].sums)));
        let scales = _mm256_mul_ps(scale, _mm256_castsi256_ps(load(&x[t].scales)));
        acc[t] = _mm256_add_ps(acc[t], _mm256_mul_ps(scales, lanes));
    }
}

/// Codes and scale of one block of 128.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn block_of_128(block: &[u8]) -> (__m256i, __m256) {
    let codes: &[u8; CODE_BYTES] = block[2..].as_array().expect("34 bytes");
    (load(codes), _mm256_broadcastss_ps(scale([block[0], block[1]])))
}

/// Codes and scales of two blocks of 64.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn blocks_of_64(blocks: &[u8]) -> (__m256i, __m256) {
    let mut codes = [0u8; CODE_BYTES];
    codes[..16].copy_from_slice(&blocks[2..18]);
    codes[16..].copy_from_slice(&blocks[20..36]);
    let low = _mm_broadcastss_ps(scale([blocks[0], blocks[1]]));
    let high = _mm_broadcastss_ps(scale([blocks[18], blocks[19]]));
    (load(&codes), _mm256_set_m128(high, low))
}

/// An f16 as f32, in the lowest lane.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn scale(bytes: [u8; 2]) -> __m128 {
    _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(u16::from_le_bytes(bytes))))
}

/// The eight lanes in the one fixed tree.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn sum(acc: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(acc), _mm256_extractf128_ps::<1>(acc));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// 32 bytes from anywhere.
#[inline]
#[target_feature(enable = "avx2")]
fn load<T: bytemuck::Pod, const N: usize>(from: &[T; N]) -> __m256i {
    const { assert!(size_of::<T>() * N == 32) };
    #[expect(unsafe_code, reason = "an unaligned load takes a raw pointer")]
    // SAFETY: 32 readable bytes lie behind the reference, as asserted above; alignment is not asked for.
    unsafe {
        _mm256_loadu_si256(from.as_ptr().cast())
    }
}
