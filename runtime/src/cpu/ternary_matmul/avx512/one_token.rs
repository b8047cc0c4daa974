//! One token: eight rows at once, straight from the file's blocks.

#![expect(
    clippy::needless_range_loop,
    reason = "registers are numbered; closures are not compiled for AVX-512"
)]

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::super::avx2::blocks::{codes, in_planes, scales_of, unpack};
use super::super::{Activations, RoundedGroup, Rows, half_block, parts, write_rows};
use super::ROWS;

/// Two rows to a register: one in the lower eight lanes, the next in the upper eight.
const PAIRS: usize = ROWS / 2;
/// How early a decode asks for memory, see `../avx2/one_token.rs`.
pub(super) const EARLY: usize = 4096;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn one_token<const BLOCK: usize>(out: &mut [f32], weights: Rows, x: Activations) {
    for (n, out) in out.chunks_mut(ROWS).enumerate() {
        write_rows(out, bytemuck::cast(dots::<BLOCK>(weights, n * ROWS, out.len(), x.token(0), x.scales[0])));
    }
}

/// Plane `n` of a group, once for each of two rows: one load. An aligned one, because LLVM would split another in two.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn plane(x: &RoundedGroup, n: usize) -> __m512i {
    const { assert!(offset_of!(RoundedGroup, planes) == 0 && align_of::<RoundedGroup>() == 32) };
    assert!(n < 4);
    #[expect(unsafe_code, reason = "a load takes a raw pointer")]
    // SAFETY: a group begins with four vectors of 32 bytes, aligned to 32, as asserted above.
    let half = unsafe { _mm256_load_si256(std::ptr::from_ref(x).cast::<__m256i>().add(n)) };
    _mm512_broadcast_i64x4(half)
}

/// Parts 0 1 0 1 in even fours of lanes, 2 3 2 3 in odd ones. Sums fit the lower halves of lanes, the upper are their signs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn multipliers(x: &RoundedGroup) -> __m512i {
    let m = _mm512_broadcast_i32x4(bytemuck::cast(x.multipliers));
    _mm512_srli_epi32::<16>(_mm512_permutex_epi64::<0b01_01_00_00>(m))
}

/// Minus the sums of unit 0 in even fours of lanes, of unit 1 in odd ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn minus_sums(x: &RoundedGroup) -> __m512i {
    let both = _mm512_set1_epi64(bytemuck::cast(x.minus_sums));
    _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1), both)
}

/// Products of eight rows from `first` on with one token; if `count` is less, of the last one again and again.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn dots<const BLOCK: usize>(
    weights: Rows,
    first: usize,
    count: usize,
    x: &[RoundedGroup],
    scale: f32,
) -> __m256 {
    let whole = weights.row_bytes / BLOCK;
    let mut rows: [&[[u8; BLOCK]]; ROWS] = [&[]; ROWS];
    for r in 0..ROWS {
        rows[r] = &weights.row(first + r.min(count - 1)).as_chunks().0[..whole];
    }
    let mut sums = _mm512_setzero_ps();
    let ahead = weights.row(first).as_ptr().wrapping_add(weights.ahead(ROWS, EARLY));
    for b in 0..whole {
        // As in `../avx2/one_token.rs`: the tile's rows lie one behind the other, and a prefetch never fails.
        for line in (0..BLOCK * ROWS).step_by(64) {
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(b * BLOCK * ROWS + line).cast());
        }
        let mut blocks = [&[0; BLOCK]; ROWS];
        for r in 0..ROWS {
            blocks[r] = &rows[r][b];
        }
        for part in 0..parts(BLOCK) {
            add_group(&mut sums, &blocks, part, weights.f16_to_f32, &x[b * parts(BLOCK) + part]);
        }
    }
    if BLOCK == 36 && whole < x.len() {
        let mut halves = [[0; BLOCK]; ROWS];
        for r in 0..ROWS {
            halves[r] = half_block(weights.row(first + r.min(count - 1)));
        }
        add_group(&mut sums, &halves.each_ref(), 0, weights.f16_to_f32, &x[whole]);
    }
    // Fours of lanes: even rows' even and odd units, odd rows' even and odd units.
    let both = _mm512_add_ps(sums, _mm512_shuffle_f32x4::<0b10_11_00_01>(sums, sums));
    let rows = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 0, 0, 0, 0, 0, 0, 0, 0);
    let rows = _mm512_castps512_ps256(_mm512_permutexvar_ps(rows, both));
    _mm256_mul_ps(rows, _mm256_set1_ps(scale))
}

/// Adds the products of one group of eight rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_group<const BLOCK: usize>(
    sums: &mut __m512,
    blocks: &[&[u8; BLOCK]; ROWS],
    part: usize,
    f16_to_f32: &[f32; 1 << 16],
    x: &RoundedGroup,
) {
    let mut lanes = [_mm512_setzero_si512(); PAIRS];
    for p in 0..PAIRS {
        let (even, odd) = (blocks[2 * p], blocks[2 * p + 1]);
        lanes[p] = match in_planes(BLOCK) {
            true => sums_of_packed(two(codes(even, part), codes(odd, part)), x),
            false => sums_of_planes(unpack(even, part), unpack(odd, part), x),
        };
    }
    let (mut parts, multipliers) = ([_mm512_setzero_si512(); 2], multipliers(x));
    for n in 0..2 {
        parts[n] = _mm512_madd_epi16(add_neighbours(lanes[2 * n], lanes[2 * n + 1]), multipliers);
    }
    let units = _mm512_add_epi32(add_neighbours(parts[0], parts[1]), minus_sums(x));
    let scaled = _mm512_mul_ps(scales(blocks, f16_to_f32), _mm512_cvtepi32_ps(units));
    *sums = _mm512_add_ps(*sums, scaled);
}

/// Sums of the products of two rows, a lane for sixteen weights. Planes 1 and 3 stay where they are in their bytes, so their
/// products come first and four times too large: one shift of the sums in place of two of the codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn sums_of_packed(codes: __m512i, x: &RoundedGroup) -> __m512i {
    let (low, high) = (_mm512_set1_epi8(3), _mm512_set1_epi8(12));
    let upper = _mm512_srli_epi16::<4>(codes);
    let mut sums = _mm512_setzero_si512();
    sums = _mm512_dpbusd_epi32(sums, _mm512_and_si512(codes, high), plane(x, 1));
    sums = _mm512_dpbusd_epi32(sums, _mm512_and_si512(upper, high), plane(x, 3));
    sums = _mm512_srai_epi32::<2>(sums);
    sums = _mm512_dpbusd_epi32(sums, _mm512_and_si512(codes, low), plane(x, 0));
    _mm512_dpbusd_epi32(sums, _mm512_and_si512(upper, low), plane(x, 2))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn sums_of_planes(even: [__m256i; 4], odd: [__m256i; 4], x: &RoundedGroup) -> __m512i {
    let mut sums = _mm512_setzero_si512();
    for k in 0..4 {
        sums = _mm512_dpbusd_epi32(sums, two(even[k], odd[k]), plane(x, k));
    }
    sums
}

/// Two vectors, the first in the lower half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn two(first: __m256i, second: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second)
}

/// Even lanes of both, and odd ones, added within fours.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn add_neighbours(a: __m512i, b: __m512i) -> __m512i {
    let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
    let even = _mm512_castps_si512(_mm512_shuffle_ps::<0b10_00_10_00>(a, b));
    _mm512_add_epi32(even, _mm512_castps_si512(_mm512_shuffle_ps::<0b11_01_11_01>(a, b)))
}

/// The scales of eight rows where their sums are: even rows in the lower fours of lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn scales<const BLOCK: usize>(blocks: &[&[u8; BLOCK]; ROWS], f16_to_f32: &[f32; 1 << 16]) -> __m512 {
    let scale = |r: usize, unit: usize| scales_of(blocks[r], f16_to_f32)[unit];
    let four = |odd: usize, unit: usize| -> [f32; 4] {
        [scale(odd, unit), scale(2 + odd, unit), scale(4 + odd, unit), scale(6 + odd, unit)]
    };
    if BLOCK == 36 {
        return bytemuck::cast([four(0, 0), four(0, 1), four(1, 0), four(1, 1)]);
    }
    let (even, odd): (__m128, __m128) = (bytemuck::cast(four(0, 0)), bytemuck::cast(four(1, 0)));
    let (even, odd) = (_mm256_set_m128(even, even), _mm256_set_m128(odd, odd));
    _mm512_insertf32x8::<1>(_mm512_castps256_ps512(even), odd)
}
