//! AVX-512 with VBMI: one token and the packings whose bytes do not hold neighbours (TQ2_0, TQ1_0, PTQ1_0), 256 weights
//! of a row to a register.
//!
//! The definition asks that lane l of a group gets weights 16l..16l+15, in any order. In these packings the four weights
//! 16l+4k..16l+4k+3 always have the same digit of four neighbouring bytes (or nearly so: the last lane of PTQ1_0). So
//! step k of 4 needs one permutation of whole fours of bytes, one shift of its own for each four, and a mask; the
//! activations lie in the same order (element 16l+4k+b of a group at quarter k, byte 4l+b).
//!
//! Bytes in base 3 are looked up first: their first four digits as two bits each, which makes them bytes of TQ2_0, and
//! the fifth apart. Vector instructions for 256 weights: 24 of TQ2_0, 32 of the others.

#![expect(
    clippy::needless_range_loop,
    reason = "registers are numbered; closures are not compiled for AVX-512"
)]

use std::arch::x86_64::*;

use super::super::avx2::blocks::in_quarters;
use super::super::{Activations, GROUP, RoundedGroup, Rows};
use super::one_token::{EARLY, add_neighbours};
use crate::ternary::{Packing, trits};

/// Weights of a step.
const STEP: usize = 2 * GROUP;

/// Rows whose units' sums fill a register.
const ROWS: usize = 4;

/// The activations of two groups in the order of the steps. Behind the last group of an odd number: zeros.
struct TwoGroups {
    /// Element 16l+4k+b of a group at quarter k, byte 4l+b.
    quarters: [__m512i; 4],
    /// A multiplier in the lower half of each lane.
    multipliers: __m512i,
    /// Minus the sums of each unit in four lanes.
    minus_sums: __m512i,
}

/// Where the codes of each quarter come from.
#[repr(C, align(64))]
struct Places {
    /// Fours of bytes: 0..16 of the codes, or of the first four digits; 16..32 of the fifth ones.
    fours: [[u32; 16]; 4],
    /// First bit of each byte within eight of those bytes, as `vpmultishiftqb` counts.
    bits: [[u8; 64]; 4],
}

/// The digits of every byte in base 3.
#[repr(C, align(64))]
struct Digits {
    /// The first four, two bits each, the first one lowest.
    four: [[u8; 64]; 4],
    fifth: [[u8; 64]; 4],
}

static DIGITS: Digits = digits();
static TQ2_0: Places = places(&[(32, 4), (32, 4)]);
static TQ1_0: Places = places(&[(32, 5), (16, 5), (4, 4)]);
static PTQ1_0: Places = places(&[(16, 5), (8, 5), (2, 4), (2, 0), (16, 5), (8, 5), (2, 4)]);

const fn digits() -> Digits {
    let mut digits = Digits { four: [[0; 64]; 4], fifth: [[0; 64]; 4] };
    let mut byte = 0;
    while byte < 256 {
        let mut n = 0;
        while n < 4 {
            digits.four[byte / 64][byte % 64] |= trits::code_of(byte as u8, n) << (2 * n);
            n += 1;
        }
        digits.fifth[byte / 64][byte % 64] = trits::code_of(byte as u8, 4);
        byte += 1;
    }
    digits
}

/// From stages of (bytes, codes in each), as in `ternary/trits.rs`.
const fn places(stages: &[(usize, usize)]) -> Places {
    let mut places = Places { fours: [[0; 16]; 4], bits: [[0; 64]; 4] };
    let mut element = 0;
    while element < STEP {
        let (byte, digit) = place(stages, element);
        let (k, lane, b) = (element / 4 % 4, element / 16, element % 4);
        let (four, shift) = if digit < 4 { (byte / 4, 2 * digit) } else { (16 + byte / 4, 0) };
        assert!(b == 0 || places.fours[k][lane] == four as u32, "four weights come from four bytes");
        places.fours[k][lane] = four as u32;
        places.bits[k][4 * lane + b] = (32 * (lane % 2) + 8 * (byte % 4) + shift) as u8;
        element += 1;
    }
    places
}

/// The byte of a weight and the number of its digit there.
const fn place(stages: &[(usize, usize)], mut weight: usize) -> (usize, usize) {
    let (mut n, mut at) = (0, 0);
    while weight >= stages[n].0 * stages[n].1 {
        weight -= stages[n].0 * stages[n].1;
        at += stages[n].0;
        n += 1;
    }
    (at + weight % stages[n].0, weight / stages[n].0)
}

/// See [`super::super::rows`]; one token, and not of Q2_0.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
pub(in super::super) fn one_token(out: &mut [f32], weights: Rows, x: Activations) {
    match weights.packing {
        Packing::Tq2_0 => packed_rows::<66>(out, weights, x, &TQ2_0),
        Packing::Tq1_0 => packed_rows::<54>(out, weights, x, &TQ1_0),
        Packing::Ptq1_0 => packed_rows::<56>(out, weights, x, &PTQ1_0),
        Packing::Q2_0 | Packing::Q2_0G64 => unreachable!("bytes that hold neighbours"),
    }
}

/// `BYTES` hold 256 weights: one block, or two of PTQ1_0.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
fn packed_rows<const BYTES: usize>(out: &mut [f32], weights: Rows, x: Activations, places: &Places) {
    let scale = _mm_set1_ps(x.scales[0]);
    let x = two_groups(x.token(0));
    for (n, out) in out.chunks_mut(ROWS).enumerate() {
        let mut rows: [&[u8]; ROWS] = [&[]; ROWS];
        for r in 0..ROWS {
            rows[r] = weights.row(n * ROWS + r.min(out.len() - 1));
        }
        let mut sums = _mm256_setzero_ps();
        let ahead = rows[0].as_ptr().wrapping_add(weights.ahead(ROWS, EARLY));
        for (step, x) in x.iter().enumerate() {
            for line in (0..BYTES * ROWS).step_by(64) {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(step * BYTES * ROWS + line).cast());
            }
            let four = [0, 1, 2, 3].map(|r| &rows[r][step * BYTES..]);
            let scaled = products::<BYTES>(four, x, places, weights.f16_to_f32);
            // Group after group.
            sums = _mm256_add_ps(sums, _mm512_castps512_ps256(scaled));
            sums = _mm256_add_ps(sums, _mm512_extractf32x8_ps::<1>(scaled));
        }
        let rows = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
        let rows: [f32; ROWS] = bytemuck::cast(_mm_mul_ps(rows, scale));
        out.copy_from_slice(&rows[..out.len()]);
    }
}

/// What the next 256 weights of four rows add: fours of lanes are unit 0 and 1 of the first group, then of the second.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
fn products<const BYTES: usize>(
    [a, b, c, d]: [&[u8]; ROWS],
    x: &TwoGroups,
    places: &Places,
    f16_to_f32: &[f32; 1 << 16],
) -> __m512 {
    let ab = add_neighbours(sums::<BYTES>(a, x, places), sums::<BYTES>(b, x, places));
    let cd = add_neighbours(sums::<BYTES>(c, x, places), sums::<BYTES>(d, x, places));
    let (ab, cd) = (_mm512_madd_epi16(ab, x.multipliers), _mm512_madd_epi16(cd, x.multipliers));
    let units = _mm512_add_epi32(add_neighbours(ab, cd), x.minus_sums);
    let scale = |row: &[u8], at: usize| {
        f16_to_f32[usize::from(bytemuck::pod_read_unaligned::<u16>(&row[at..at + 2]))]
    };
    let four =
        |at: usize| -> __m128 { bytemuck::cast([scale(a, at), scale(b, at), scale(c, at), scale(d, at)]) };
    let scales = match BYTES {
        56 => {
            let second = if a.len() < BYTES { _mm_setzero_ps() } else { four(54) };
            let (first, second) = (four(26), second);
            _mm512_insertf32x8::<1>(
                _mm512_castps256_ps512(_mm256_set_m128(first, first)),
                _mm256_set_m128(second, second),
            )
        }
        _ => _mm512_broadcast_f32x4(four(BYTES - 2)),
    };
    _mm512_mul_ps(scales, _mm512_cvtepi32_ps(units))
}

/// Sums of the products of a row's next 256 weights, a lane for sixteen.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
fn sums<const BYTES: usize>(row: &[u8], x: &TwoGroups, places: &Places) -> __m512i {
    let bytes = load_some(&row[..row.len().min(BYTES)]);
    let (codes, fifths) = match BYTES {
        66 => (bytes, bytes),
        _ => (look_up(bytes, &DIGITS.four), look_up(bytes, &DIGITS.fifth)),
    };
    let mut lanes = _mm512_setzero_si512();
    for k in 0..4 {
        let fours = load(bytemuck::cast_ref(&places.fours[k]));
        let fours = match BYTES {
            66 => _mm512_permutexvar_epi32(fours, codes),
            _ => _mm512_permutex2var_epi32(codes, fours, fifths),
        };
        let codes = _mm512_multishift_epi64_epi8(load(&places.bits[k]), fours);
        lanes = _mm512_dpbusd_epi32(lanes, _mm512_and_si512(codes, _mm512_set1_epi8(3)), x.quarters[k]);
    }
    lanes
}

/// Each byte's entry of a table of 256.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn look_up(bytes: __m512i, table: &[[u8; 64]; 4]) -> __m512i {
    let low = _mm512_permutex2var_epi8(load(&table[0]), bytes, load(&table[1]));
    let high = _mm512_permutex2var_epi8(load(&table[2]), bytes, load(&table[3]));
    _mm512_mask_mov_epi8(low, _mm512_movepi8_mask(bytes), high)
}

/// Pairs of groups of a token.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
fn two_groups(x: &[RoundedGroup]) -> Vec<TwoGroups> {
    let mut pairs = Vec::with_capacity(x.len().div_ceil(2));
    for x in x.chunks(2) {
        let x = [&x[0], x.get(1).unwrap_or(&RoundedGroup::ZERO)];
        let (first, second) = (in_quarters(x[0]), in_quarters(x[1]));
        let mut quarters = [_mm512_setzero_si512(); 4];
        for k in 0..4 {
            quarters[k] = bytemuck::cast([first[k], second[k]]);
        }
        // Parts 0 1 0 1, then 2 3 2 3 of each group.
        let m: __m512i =
            bytemuck::cast([x[0].multipliers, x[0].multipliers, x[1].multipliers, x[1].multipliers]);
        let multipliers = _mm512_srli_epi32::<16>(_mm512_permutex_epi64::<0b01_01_00_00>(m));
        let [a, b] = x.map(|x| x.minus_sums);
        let minus_sums = bytemuck::cast([[a[0]; 4], [a[1]; 4], [b[0]; 4], [b[1]; 4]]);
        pairs.push(TwoGroups { quarters, multipliers, minus_sums });
    }
    pairs
}

/// At most the first 64 bytes; zeros behind them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_some(bytes: &[u8]) -> __m512i {
    if let Some(all) = bytes.first_chunk() {
        return load(all);
    }
    #[expect(unsafe_code, reason = "a load takes a raw pointer")]
    // SAFETY: the mask lets it read the bytes of the slice alone.
    unsafe {
        _mm512_maskz_loadu_epi8((1 << bytes.len()) - 1, bytes.as_ptr().cast())
    }
}

/// 64 bytes from anywhere.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(from: &[u8; 64]) -> __m512i {
    #[expect(unsafe_code, reason = "a load takes a raw pointer")]
    // SAFETY: 64 readable bytes lie behind the reference; alignment is not asked for.
    unsafe {
        _mm512_loadu_si512(from.as_ptr().cast())
    }
}
