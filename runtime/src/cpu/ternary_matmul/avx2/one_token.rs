//! One token: four rows at once, unpacked straight from the file's blocks.

#![expect(clippy::needless_range_loop, reason = "registers are numbered; closures are not compiled for AVX2")]

use std::arch::x86_64::*;

use super::super::{Activations, RoundedGroup, Rows, half_block, parts};
use super::base_3::{ptq1_0, tq1_0_first, tq1_0_second};
use super::blocks::{codes, in_planes, in_quarters, tq2_0_in_quarters, unpack};
use super::natural::{in_turns, natural, sums_of_digits, sums_of_two_bits};
use super::{another, sums_of_packed, sums_vnni};

/// Rows that one token meets together: each unit's sums of four rows fill half of a register.
const ROWS: usize = 4;
/// How early a decode asks for memory: the processor's own guesses lose the thread among four rows. Without it a token
/// takes 1.3 times as long (Zen 4, 4 kB pages).
const EARLY: usize = 1280;

/// A group of the token as the loop wants it.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Group {
    /// Its planes, perhaps in another order.
    x: RoundedGroup,
    /// Pairs of multipliers for the lanes of two rows.
    multipliers: __m256i,
    /// Minus the sum of unit 0 in lanes 0-3, of unit 1 in lanes 4-7.
    minus_sums: __m256i,
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn one_token<const VNNI: bool, const BLOCK: usize>(
    out: &mut [f32],
    weights: Rows,
    x: Activations,
) {
    weights.ask_for_beginning(ROWS, EARLY);
    let mut groups = Vec::with_capacity(x.groups_per_token);
    for x in x.token(0) {
        groups.push(prepare::<VNNI, BLOCK>(x));
    }
    let scale = x.scales[0];
    for (n, out) in out.chunks_mut(ROWS).enumerate() {
        let dots = dots::<VNNI, BLOCK>(weights, n * ROWS, out.len(), &groups);
        let rows = _mm_mul_ps(dots, _mm_set1_ps(scale));
        let rows: [f32; ROWS] = bytemuck::cast(rows);
        match out.as_mut_array() {
            Some(out) => *out = rows,
            None => out.copy_from_slice(&rows[..out.len()]),
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn prepare<const VNNI: bool, const BLOCK: usize>(x: &RoundedGroup) -> Group {
    let x = match BLOCK {
        66 if VNNI => RoundedGroup { planes: bytemuck::cast(in_quarters(x)), ..*x },
        66 => four_times(RoundedGroup { planes: bytemuck::cast(in_turns(x)), ..*x }),
        _ if is_natural::<VNNI>(BLOCK) => RoundedGroup { planes: bytemuck::cast(natural(x)), ..*x },
        _ => *x,
    };
    Group { x, multipliers: multipliers::<VNNI, BLOCK>(&x), minus_sums: minus_sums(&x) }
}

/// Whether lanes come out in the order of `natural.rs`.
const fn is_natural<const VNNI: bool>(block: usize) -> bool {
    !VNNI && !in_planes(block)
}

/// Whether every second lane comes out four times too large, and the others are made so.
const fn is_four_times<const VNNI: bool>(block: usize) -> bool {
    !VNNI && block == 66
}

/// For sums of which every second one comes out four times too large: multipliers that make the others so, too.
fn four_times(mut x: RoundedGroup) -> RoundedGroup {
    for part in [0, 2] {
        x.multipliers[part] = x.multipliers[part].map(|m| 4 * m);
    }
    x.minus_sums = x.minus_sums.map(|sum| 4 * sum);
    x
}

/// See [`Group`].
#[inline]
#[target_feature(enable = "avx2")]
fn multipliers<const VNNI: bool, const BLOCK: usize>(x: &RoundedGroup) -> __m256i {
    let m = _mm256_broadcastsi128_si256(bytemuck::cast(x.multipliers));
    // Of the two 16-bit halves of a lane that VNNI added up in 32 bits, the upper one is the sign.
    let m = if VNNI { _mm256_srli_epi32::<16>(m) } else { m };
    if is_natural::<VNNI>(BLOCK) { m } else { _mm256_permute4x64_epi64::<0b01_01_00_00>(m) }
}

/// See [`Group`].
#[inline]
#[target_feature(enable = "avx2")]
fn minus_sums(x: &RoundedGroup) -> __m256i {
    let both = _mm256_set1_epi64x(bytemuck::cast(x.minus_sums));
    _mm256_permutevar8x32_epi32(both, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1))
}

/// Products of four rows from `first` on with one token; if `count` is less, of the last one again and again.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn dots<const VNNI: bool, const BLOCK: usize>(
    weights: Rows,
    first: usize,
    count: usize,
    x: &[Group],
) -> __m128 {
    let whole = weights.row_bytes / BLOCK;
    let mut rows: [&[[u8; BLOCK]]; ROWS] = [&[]; ROWS];
    for r in 0..ROWS {
        rows[r] = &weights.row(first + r.min(count - 1)).as_chunks().0[..whole];
    }
    let mut sums = _mm256_setzero_ps();
    let ahead = weights.row(first).as_ptr().wrapping_add(weights.ahead(ROWS, EARLY));
    let mut b = 0;
    // Two groups at a time: the instructions from the products of one to its sum wait for each other, and do so beside the
    // products of the other.
    while parts(BLOCK) == 1 && b + 2 <= whole {
        ask_for::<BLOCK, 2>(ahead, b);
        let blocks = |r: usize| [&rows[r][b], &rows[r][b + 1]];
        let blocks = [blocks(0), blocks(1), blocks(2), blocks(3)];
        add_blocks::<VNNI, BLOCK, 2>(&mut sums, blocks, &x[b..b + 2]);
        b += 2;
    }
    while b < whole {
        ask_for::<BLOCK, 1>(ahead, b);
        let blocks = [[&rows[0][b]], [&rows[1][b]], [&rows[2][b]], [&rows[3][b]]];
        add_blocks::<VNNI, BLOCK, 1>(&mut sums, blocks, &x[b * parts(BLOCK)..][..parts(BLOCK)]);
        b += 1;
    }
    if BLOCK == 36 && whole < x.len() {
        let mut halves = [[0; BLOCK]; ROWS];
        for r in 0..ROWS {
            halves[r] = half_block(weights.row(first + r.min(count - 1)));
        }
        let [a, b, c, d] = &halves;
        add_blocks::<VNNI, BLOCK, 1>(&mut sums, [[a], [b], [c], [d]], &x[whole..]);
    }
    _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums))
}

/// Asks for what `N` blocks from `b` on are to four rows. The rows of a tile lie one behind the other, so this asks for all of
/// the file in order. A pointer past the end does no harm: a prefetch never fails.
#[inline]
#[target_feature(enable = "avx2")]
fn ask_for<const BLOCK: usize, const N: usize>(ahead: *const u8, b: usize) {
    for line in (0..BLOCK * ROWS * N).step_by(64) {
        _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(b * BLOCK * ROWS + line).cast());
    }
}

/// Adds the products of `N` blocks of each of four rows.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add_blocks<const VNNI: bool, const BLOCK: usize, const N: usize>(
    sums: &mut __m256,
    rows: [[&[u8; BLOCK]; N]; ROWS],
    x: &[Group],
) {
    let zero = [[_mm256_setzero_si256(); 2]; N];
    let (mut ab, mut cd) = (zero, zero);
    for n in 0..N {
        let x = &x[n * parts(BLOCK)..][..parts(BLOCK)];
        // Two rows at a time: more do not fit the registers.
        ab[n] = sums_of_two::<VNNI, BLOCK>([rows[0][n], rows[1][n]], x);
        cd[n] = sums_of_two::<VNNI, BLOCK>([rows[2][n], rows[3][n]], x);
    }
    for n in 0..N {
        let scales = scales([rows[0][n], rows[1][n], rows[2][n], rows[3][n]]);
        for part in 0..parts(BLOCK) {
            let x = &x[n * parts(BLOCK) + part];
            let ab = _mm256_madd_epi16(ab[n][part], x.multipliers);
            let cd = _mm256_madd_epi16(cd[n][part], x.multipliers);
            let mut units = _mm256_add_epi32(of_four_rows::<VNNI, BLOCK>(ab, cd), x.minus_sums);
            if is_four_times::<VNNI>(BLOCK) {
                units = _mm256_srai_epi32::<2>(units);
            }
            *sums = _mm256_add_ps(*sums, _mm256_mul_ps(scales, _mm256_cvtepi32_ps(units)));
        }
    }
}

/// Scales of both units of a block of each row, in the order of [`of_four_rows`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn scales<const BLOCK: usize>(blocks: [&[u8; BLOCK]; ROWS]) -> __m256 {
    let even = four_f16(blocks, if in_planes(BLOCK) { 0 } else { BLOCK - 2 });
    if BLOCK == 36 {
        return _mm256_cvtph_ps(_mm_unpacklo_epi64(even, four_f16(blocks, 18)));
    }
    let scales = _mm_cvtph_ps(even);
    _mm256_set_m128(scales, scales)
}

/// The f16 at byte `at` of each row's block, in the lower half.
#[inline]
#[target_feature(enable = "avx2")]
fn four_f16<const BLOCK: usize>([a, b, c, d]: [&[u8; BLOCK]; ROWS], at: usize) -> __m128i {
    let read = |block: &[u8; BLOCK]| i32::from(bytemuck::pod_read_unaligned::<u16>(&block[at..at + 2]));
    let four = _mm_insert_epi16::<1>(_mm_cvtsi32_si128(read(a)), read(b));
    _mm_insert_epi16::<3>(_mm_insert_epi16::<2>(four, read(c)), read(d))
}

/// Sums of the products of the one or two groups in a block of each of two rows: of each lane two 16-bit numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn sums_of_two<const VNNI: bool, const BLOCK: usize>(blocks: [&[u8; BLOCK]; 2], x: &[Group]) -> [__m256i; 2] {
    let mut sums = [_mm256_setzero_si256(); 2];
    if !VNNI && (BLOCK == 28 || BLOCK == 54) {
        let (a, b) = (base_3::<BLOCK>(blocks[0], x), base_3::<BLOCK>(blocks[1], x));
        for part in 0..parts(BLOCK) {
            sums[part] = of_two_rows::<VNNI, BLOCK>(a[part], b[part]);
        }
        return sums;
    }
    for part in 0..parts(BLOCK) {
        let x = &x[part].x;
        let [a, b] = match BLOCK {
            66 if VNNI => {
                let [a, b] = blocks;
                [sums_vnni(tq2_0_in_quarters(a, part), x), sums_vnni(tq2_0_in_quarters(b, part), x)]
            }
            _ if VNNI => [sums_vnni(unpack(blocks[0], part), x), sums_vnni(unpack(blocks[1], part), x)],
            66 => sums_of_two_bits([codes(blocks[0], part), codes(blocks[1], part)], x),
            _ => sums_of_packed([codes(blocks[0], part), codes(blocks[1], part)], x),
        };
        sums[part] = of_two_rows::<VNNI, BLOCK>(a, b);
    }
    sums
}

/// Sums of the products of a block in base 3.
#[inline]
#[target_feature(enable = "avx2")]
fn base_3<const BLOCK: usize>(block: &[u8; BLOCK], x: &[Group]) -> [__m256i; 2] {
    if BLOCK == 28 {
        return [sums_of_digits(ptq1_0(block), another(&x[0].x)), _mm256_setzero_si256()];
    }
    let (first, rest) = tq1_0_first(block);
    let first = sums_of_digits(first, another(&x[0].x));
    [first, sums_of_digits(tq1_0_second(block, rest), another(&x[1].x))]
}

/// Brings the sums of two rows' lanes together that share a multiplier.
#[inline]
#[target_feature(enable = "avx2")]
fn of_two_rows<const VNNI: bool, const BLOCK: usize>(a: __m256i, b: __m256i) -> __m256i {
    let (one, other) = match is_natural::<VNNI>(BLOCK) {
        true => (_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)),
        false => every_second(a, b),
    };
    _mm256_add_epi16(one, other)
}

/// Adds up the products of each row and unit: those of unit 0 to lanes 0-3, those of unit 1 to lanes 4-7.
#[inline]
#[target_feature(enable = "avx2")]
fn of_four_rows<const VNNI: bool, const BLOCK: usize>(ab: __m256i, cd: __m256i) -> __m256i {
    let (one, other) = every_second(ab, cd);
    let sums = _mm256_add_epi32(one, other);
    match is_natural::<VNNI>(BLOCK) {
        true => _mm256_permutevar8x32_epi32(sums, _mm256_setr_epi32(0, 4, 2, 6, 1, 5, 3, 7)),
        false => sums,
    }
}

/// Even lanes of both, and odd ones, within the halves.
#[inline]
#[target_feature(enable = "avx2")]
fn every_second(a: __m256i, b: __m256i) -> (__m256i, __m256i) {
    let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
    let even = _mm256_shuffle_ps::<0b10_00_10_00>(a, b);
    (_mm256_castps_si256(even), _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b)))
}
