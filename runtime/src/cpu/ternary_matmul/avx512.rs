//! AVX-512 with VNNI: two rows to a register. The lower eight lanes are one row's and the upper eight the next
//! row's, so that every row is added up group after group, as the definition says.
//!
//! One token (decode): eight rows at once, unpacked straight from the file's blocks. Many tokens (prefill): a tile of
//! eight rows is unpacked once into the first-level cache and used for all tokens, four at a time.
//!
//! Vector instructions for 128 weights and one token: 4 in prefill (half of 4 `vpdpbusd` and 4 of floats, which the
//! contract asks for every 128 weights: so half of Intel's peak, where both share units, and two thirds of Zen 4's),
//! 10 in decode, which waits for memory (34 bytes in 5 clock cycles).

#![expect(
    clippy::needless_range_loop,
    reason = "registers are numbered; closures are not compiled for AVX-512"
)]

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::offset_of;
use std::ops::Range;

use super::avx2_blocks::{self, in_planes, load, load_half};
use super::{Activations, RoundedGroup, Rows, half_block, parts};
use crate::ternary::Packing;

/// Rows that are computed together.
pub(super) const ROWS: usize = 8;
pub(super) const PAIRS: usize = ROWS / 2;
/// How far before its use a decode asks for memory, see `avx2.rs`. On Zen 4 3 to 8 kB are alike, 1 and 2 kB 7 to 17%
/// slower.
pub(super) const AHEAD: usize = 6144;
/// A tile of unpacked weights is [`ROWS`] rows of this many groups: 10 KiB, beside [`TOKENS`] times as many groups of
/// activations (6 KiB).
const TILE_GROUPS: usize = 8;
/// Tokens that are computed together: their sums take 16 of the 32 registers, a token's activations 6 and the sums of
/// their products 4. Six tokens with two pairs of rows, which would load fewer weights, are a tenth slower (Zen 4).
const TOKENS: usize = 4;
/// Tokens whose sums wait in memory while a tile of weights is in use.
const PANEL: usize = 16 * TOKENS;

/// 128 weights of each of two rows, unpacked.
#[derive(Clone, Copy)]
#[repr(C)]
struct Unpacked {
    planes: [__m512i; 4],
    /// Scale of each lane.
    scales: __m512,
}

/// A [`RoundedGroup`], once for each of two rows.
struct TwiceRounded {
    planes: [__m512i; 4],
    minus_sums: __m512i,
    scales: __m512,
}

/// Sums of each pair of rows of a tile with one token.
pub(super) type Sums = [__m512; PAIRS];

/// See [`super::rows`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn rows(out: &mut [f32], weights: Rows, x: Activations) {
    match weights.packing {
        Packing::Q2_0 => packed_rows::<34>(out, weights, x),
        Packing::Q2_0G64 => packed_rows::<36>(out, weights, x),
        Packing::Tq2_0 => packed_rows::<66>(out, weights, x),
        Packing::Ptq1_0 => packed_rows::<28>(out, weights, x),
        Packing::Tq1_0 => packed_rows::<54>(out, weights, x),
    }
}

/// `BLOCK` bytes hold 128 weights (one block, or two of 64) or 256; each packing has a length of its own.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn packed_rows<const BLOCK: usize>(out: &mut [f32], weights: Rows, x: Activations) {
    match x.tokens() {
        1 => one_token::<BLOCK>(out, weights, x.token(0)),
        _ => many_tokens::<BLOCK>(out, weights, x),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn one_token<const BLOCK: usize>(out: &mut [f32], weights: Rows, x: &[RoundedGroup]) {
    for (n, out) in out.chunks_mut(ROWS).enumerate() {
        let rows = EightRows::<BLOCK>::new(weights, n * ROWS, out.len());
        let mut sums = [_mm512_setzero_ps(); PAIRS];
        let ahead = weights.row(n * ROWS).as_ptr().wrapping_add(AHEAD);
        for b in 0..rows.whole {
            // As in `avx2.rs`: the tile's rows lie one behind the other, and a prefetch never fails.
            for line in (0..BLOCK * ROWS).step_by(64) {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(b * BLOCK * ROWS + line).cast());
            }
            for part in 0..parts(BLOCK) {
                add_group(&mut sums, &rows.blocks(b), part, &x[b * parts(BLOCK) + part], weights.f16_to_f32);
            }
        }
        if BLOCK == 36
            && let Some(x) = x.get(rows.whole)
        {
            let half = half_blocks::<BLOCK>(weights, n * ROWS, out.len());
            add_group(&mut sums, &half.each_ref(), 0, x, weights.f16_to_f32);
        }
        write_trees(out, sums);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn many_tokens<const BLOCK: usize>(out: &mut [f32], weights: Rows, x: Activations) {
    let (tokens, groups) = (x.tokens(), x.groups_per_token);
    let rows = out.len() / tokens;
    let mut tile = [[zero(); PAIRS]; TILE_GROUPS];
    let mut sums = [[_mm512_setzero_ps(); PAIRS]; PANEL];
    for first_row in (0..rows).step_by(ROWS) {
        let tile_rows = ROWS.min(rows - first_row);
        let blocks = EightRows::<BLOCK>::new(weights, first_row, tile_rows);
        for first_token in (0..tokens).step_by(PANEL) {
            let panel = PANEL.min(tokens - first_token);
            sums[..panel].fill([_mm512_setzero_ps(); PAIRS]);
            for first_group in (0..groups).step_by(TILE_GROUPS) {
                let some = first_group..groups.min(first_group + TILE_GROUPS);
                for (g, tile) in some.clone().zip(&mut tile) {
                    let (b, part) = (g / parts(BLOCK), g % parts(BLOCK));
                    if BLOCK != 36 || b < blocks.whole {
                        unpack(tile, &blocks.blocks(b), part);
                    } else {
                        unpack::<BLOCK>(tile, &half_blocks(weights, first_row, tile_rows).each_ref(), part);
                    }
                }
                for (n, sums) in sums[..panel].chunks_mut(TOKENS).enumerate() {
                    let first = first_token + n * TOKENS;
                    match sums.len() {
                        1 => tile_products::<1>(sums, &tile, x, first, some.clone()),
                        2 => tile_products::<2>(sums, &tile, x, first, some.clone()),
                        3 => tile_products::<3>(sums, &tile, x, first, some.clone()),
                        _ => tile_products::<TOKENS>(sums, &tile, x, first, some.clone()),
                    }
                }
            }
            for t in 0..panel {
                let out = &mut out[(first_token + t) * rows + first_row..][..tile_rows];
                write_trees(out, sums[t]);
            }
        }
    }
}

/// Adds the products of a tile of weights with tokens `first..first + T`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn tile_products<const T: usize>(
    sums: &mut [Sums],
    tile: &[[Unpacked; PAIRS]; TILE_GROUPS],
    x: Activations,
    first: usize,
    groups: Range<usize>,
) {
    let mut tokens: [&[RoundedGroup]; T] = [&[]; T];
    let mut acc = [[_mm512_setzero_ps(); PAIRS]; T];
    for t in 0..T {
        tokens[t] = &x.token(first + t)[groups.clone()];
        acc[t] = sums[t];
    }
    for (g, weights) in tile[..groups.len()].iter().enumerate() {
        for t in (0..T - T % 2).step_by(2) {
            let two = acc[t..t + 2].as_mut_array().expect("two tokens");
            add_products_of_two(two, weights, [&tokens[t][g], &tokens[t + 1][g]]);
        }
        if T % 2 == 1 {
            add_products(&mut acc[T - 1], weights, &twice_rounded(&tokens[T - 1][g]));
        }
    }
    sums.copy_from_slice(&acc);
}

/// Adds the products of a pair of rows, `$even` and `$odd`, with one token's activations, after instructions that load
/// their codes into zmm16 and their scales into zmm20. Assembly, because LLVM takes the scales byte by byte and puts
/// them together by shuffles. (Loads under a mask would put them together, too, but take longer than insertions.)
///
/// Planes 1 and 3 stay where they are in their bytes, so their products come first and four times too large: one shift of
/// the sums in place of two of the codes.
macro_rules! add_pair {
    ($sum:expr, $even:ident, $odd:ident, $x:ident, $four_times:ident, $table:ident, $($load:literal,)*) => {{
        let mut sum = $sum;
        #[expect(unsafe_code, reason = "assembly")]
        // SAFETY: the processor has these instructions, and they read the two blocks and the table, of which every u16 is an
        // index.
        unsafe {
            asm!(
                $($load,)*
                "vmulps zmm20, zmm20, {scales}",
                "vpsrlw zmm17, zmm16, 4",
                "vpandd zmm18, zmm16, {high}",
                "vmovdqa64 zmm19, {four_times}",
                "vpdpbusd zmm19, zmm18, {x1}",
                "vpandd zmm18, zmm17, {high}",
                "vpdpbusd zmm19, zmm18, {x3}",
                "vpandd zmm16, zmm16, {low}",
                "vpandd zmm17, zmm17, {low}",
                "vpsrad zmm19, zmm19, 2",
                "vpdpbusd zmm19, zmm16, {x0}",
                "vpdpbusd zmm19, zmm17, {x2}",
                "vcvtdq2ps zmm19, zmm19",
                "vmulps zmm19, zmm20, zmm19",
                "vaddps {sum}, {sum}, zmm19",
                even = in(reg) $even.as_ptr(),
                odd = in(reg) $odd.as_ptr(),
                table = in(reg) $table.as_ptr(),
                s0 = out(reg) _,
                s1 = out(reg) _,
                low = in(zmm_reg) _mm512_set1_epi8(3),
                high = in(zmm_reg) _mm512_set1_epi8(12),
                four_times = in(zmm_reg) $four_times,
                scales = in(zmm_reg) $x.scales,
                x0 = in(zmm_reg) $x.planes[0],
                x1 = in(zmm_reg) $x.planes[1],
                x2 = in(zmm_reg) $x.planes[2],
                x3 = in(zmm_reg) $x.planes[3],
                sum = inout(zmm_reg) sum,
                out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _, out("zmm20") _,
                options(pure, readonly, nostack),
            );
        }
        $sum = sum;
    }};
}

/// Adds the products of one group of eight rows with one token's activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_group<const BLOCK: usize>(
    sums: &mut Sums,
    blocks: &[&[u8; BLOCK]; ROWS],
    part: usize,
    x: &RoundedGroup,
    f16_to_f32: &[f32; 1 << 16],
) {
    let x = twice_rounded(x);
    if in_planes(BLOCK) {
        return add_packed(sums, blocks, &x, f16_to_f32);
    }
    let mut weights = [zero(); PAIRS];
    unpack(&mut weights, blocks, part);
    add_products(sums, &weights, &x);
}

/// The same from codes as they lie in the file.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_packed<const BLOCK: usize>(
    sums: &mut Sums,
    blocks: &[&[u8; BLOCK]; ROWS],
    x: &TwiceRounded,
    f16_to_f32: &[f32; 1 << 16],
) {
    let four_times = _mm512_slli_epi32::<2>(x.minus_sums);
    for p in 0..PAIRS {
        let (even, odd) = (blocks[2 * p], blocks[2 * p + 1]);
        if BLOCK == 34 {
            add_pair!(
                sums[p],
                even,
                odd,
                x,
                four_times,
                f16_to_f32,
                "movzx {s0:e}, word ptr [{even}]",
                "movzx {s1:e}, word ptr [{odd}]",
                "vmovdqu64 ymm16, ymmword ptr [{even} + 2]",
                "vinserti64x4 zmm16, zmm16, ymmword ptr [{odd} + 2], 1",
                "vbroadcastss ymm20, dword ptr [{table} + 4 * {s0}]",
                "vbroadcastss ymm18, dword ptr [{table} + 4 * {s1}]",
                "vinsertf64x4 zmm20, zmm20, ymm18, 1",
            );
        } else {
            add_pair!(
                sums[p],
                even,
                odd,
                x,
                four_times,
                f16_to_f32,
                "vmovdqu64 xmm16, xmmword ptr [{even} + 2]",
                "vinserti32x4 ymm16, ymm16, xmmword ptr [{even} + 20], 1",
                "vmovdqu64 xmm17, xmmword ptr [{odd} + 2]",
                "vinserti32x4 ymm17, ymm17, xmmword ptr [{odd} + 20], 1",
                "vinserti64x4 zmm16, zmm16, ymm17, 1",
                "movzx {s0:e}, word ptr [{even}]",
                "movzx {s1:e}, word ptr [{even} + 18]",
                "vbroadcastss xmm20, dword ptr [{table} + 4 * {s0}]",
                "vbroadcastss xmm18, dword ptr [{table} + 4 * {s1}]",
                "vinsertf32x4 ymm20, ymm20, xmm18, 1",
                "movzx {s0:e}, word ptr [{odd}]",
                "movzx {s1:e}, word ptr [{odd} + 18]",
                "vbroadcastss xmm19, dword ptr [{table} + 4 * {s0}]",
                "vbroadcastss xmm18, dword ptr [{table} + 4 * {s1}]",
                "vinsertf32x4 ymm19, ymm19, xmm18, 1",
                "vinsertf64x4 zmm20, zmm20, ymm19, 1",
            );
        }
    }
}

/// Adds the products of 128 weights of eight rows with one token's activations: the one arithmetic of this file. The
/// pairs of rows take turns, because each of a pair's products waits for the one before.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_products(sums: &mut Sums, w: &[Unpacked; PAIRS], x: &TwiceRounded) {
    let mut lanes = [x.minus_sums; PAIRS];
    for k in 0..4 {
        for p in 0..PAIRS {
            lanes[p] = _mm512_dpbusd_epi32(lanes[p], w[p].planes[k], x.planes[k]);
        }
    }
    for p in 0..PAIRS {
        let scales = _mm512_mul_ps(w[p].scales, x.scales);
        sums[p] = _mm512_add_ps(sums[p], _mm512_mul_ps(scales, _mm512_cvtepi32_ps(lanes[p])));
    }
}

/// The instructions of [`add_products_of_two`] for two of its four pairs of rows, `$p` and `$q`, whose weights begin at
/// `$at`. The activations are in zmm16-19 and zmm20-23, the lanes of both pairs with both tokens in zmm27-30.
macro_rules! two_pairs {
    ($at:literal, $p:literal, $q:literal) => {
        concat!(
            "vbroadcasti64x4 zmm27, ymmword ptr [{x0} + 128]\n",
            "vbroadcasti64x4 zmm28, ymmword ptr [{x1} + 128]\n",
            "vmovdqa64 zmm29, zmm27\n",
            "vmovdqa64 zmm30, zmm28\n",
            two_pairs!(plane $at, "0", "zmm16", "zmm20"),
            two_pairs!(plane $at, "64", "zmm17", "zmm21"),
            two_pairs!(plane $at, "128", "zmm18", "zmm22"),
            two_pairs!(plane $at, "192", "zmm19", "zmm23"),
            "vbroadcastf64x4 zmm24, ymmword ptr [{x0} + 160]\n",
            "vbroadcastf64x4 zmm25, ymmword ptr [{x1} + 160]\n",
            two_pairs!(add $at, "256", "zmm24", "zmm27", "{sum0", $p),
            two_pairs!(add $at, "256", "zmm25", "zmm28", "{sum1", $p),
            two_pairs!(add $at, "576", "zmm24", "zmm29", "{sum0", $q),
            two_pairs!(add $at, "576", "zmm25", "zmm30", "{sum1", $q),
        )
    };
    (plane $at:literal, $plane:literal, $x0:literal, $x1:literal) => {
        concat!(
            "vmovdqa64 zmm24, zmmword ptr [{w} + ", $at, " + ", $plane, "]\n",
            "vmovdqa64 zmm25, zmmword ptr [{w} + ", $at, " + ", $plane, " + 320]\n",
            "vpdpbusd zmm27, zmm24, ", $x0, "\n",
            "vpdpbusd zmm28, zmm24, ", $x1, "\n",
            "vpdpbusd zmm29, zmm25, ", $x0, "\n",
            "vpdpbusd zmm30, zmm25, ", $x1, "\n",
        )
    };
    (add $at:literal, $scales:literal, $x_scales:literal, $lanes:literal, $token:literal, $pair:literal) => {
        concat!(
            "vcvtdq2ps ", $lanes, ", ", $lanes, "\n",
            "vmulps zmm26, ", $x_scales, ", zmmword ptr [{w} + ", $at, " + ", $scales, "]\n",
            "vmulps ", $lanes, ", zmm26, ", $lanes, "\n",
            "vaddps ", $token, $pair, "}, ", $token, $pair, "}, ", $lanes, "\n",
        )
    };
}

/// [`add_products`] for two tokens, which share each load of weights. Assembly, because LLVM would rather keep weights
/// in registers and put the sums into memory.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_products_of_two(sums: &mut [Sums; 2], w: &[Unpacked; PAIRS], x: [&RoundedGroup; 2]) {
    const {
        assert!(size_of::<Unpacked>() == 320 && offset_of!(Unpacked, scales) == 256);
        assert!(offset_of!(RoundedGroup, minus_sums) == 128 && offset_of!(RoundedGroup, scales) == 160);
    }
    let [[sum00, sum01, sum02, sum03], [sum10, sum11, sum12, sum13]] = sums;
    #[expect(unsafe_code, reason = "assembly")]
    // SAFETY: the processor has these instructions, and they read the three structures only, whose layout is asserted.
    unsafe {
        asm!(
            "vbroadcasti64x4 zmm16, ymmword ptr [{x0}]",
            "vbroadcasti64x4 zmm17, ymmword ptr [{x0} + 32]",
            "vbroadcasti64x4 zmm18, ymmword ptr [{x0} + 64]",
            "vbroadcasti64x4 zmm19, ymmword ptr [{x0} + 96]",
            "vbroadcasti64x4 zmm20, ymmword ptr [{x1}]",
            "vbroadcasti64x4 zmm21, ymmword ptr [{x1} + 32]",
            "vbroadcasti64x4 zmm22, ymmword ptr [{x1} + 64]",
            "vbroadcasti64x4 zmm23, ymmword ptr [{x1} + 96]",
            two_pairs!("0", "0", "1"),
            two_pairs!("640", "2", "3"),
            w = in(reg) w, x0 = in(reg) x[0], x1 = in(reg) x[1],
            sum00 = inout(zmm_reg) *sum00, sum01 = inout(zmm_reg) *sum01, sum02 = inout(zmm_reg) *sum02,
            sum03 = inout(zmm_reg) *sum03, sum10 = inout(zmm_reg) *sum10, sum11 = inout(zmm_reg) *sum11,
            sum12 = inout(zmm_reg) *sum12, sum13 = inout(zmm_reg) *sum13,
            out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _, out("zmm20") _,
            out("zmm21") _, out("zmm22") _, out("zmm23") _, out("zmm24") _, out("zmm25") _,
            out("zmm26") _, out("zmm27") _, out("zmm28") _, out("zmm29") _, out("zmm30") _,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
}

/// Eight rows of weights.
struct EightRows<'a, const BLOCK: usize> {
    /// Whole blocks of each row.
    whole: usize,
    rows: [&'a [[u8; BLOCK]]; ROWS],
}

impl<'a, const BLOCK: usize> EightRows<'a, BLOCK> {
    /// `count` rows from `first` on; if that is less than eight, the last one again and again.
    #[inline(always)]
    fn new(weights: Rows<'a>, first: usize, count: usize) -> Self {
        let whole = weights.row_bytes / BLOCK;
        let mut rows = Self { whole, rows: [&[]; ROWS] };
        for r in 0..ROWS {
            rows.rows[r] = &weights.row(first + r.min(count - 1)).as_chunks().0[..whole];
        }
        rows
    }

    #[inline(always)]
    fn blocks(&self, b: usize) -> [&'a [u8; BLOCK]; ROWS] {
        let mut blocks = [&[0; BLOCK]; ROWS];
        for r in 0..ROWS {
            blocks[r] = &self.rows[r][b];
        }
        blocks
    }
}

/// The half groups that eight rows of an odd number of 64s end in.
fn half_blocks<const BLOCK: usize>(weights: Rows, first: usize, count: usize) -> [[u8; BLOCK]; ROWS] {
    std::array::from_fn(|r| half_block(weights.row(first + r.min(count - 1))))
}

/// Codes and scales of the 128 weights `part` of a block of each of eight rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn unpack<const BLOCK: usize>(unpacked: &mut [Unpacked; PAIRS], blocks: &[&[u8; BLOCK]; ROWS], part: usize) {
    if BLOCK == 34 || BLOCK == 36 {
        return unpack_q2_0(unpacked, blocks);
    }
    for p in 0..PAIRS {
        let first = avx2_blocks::unpack(blocks[2 * p], part);
        let second = avx2_blocks::unpack(blocks[2 * p + 1], part);
        for k in 0..4 {
            unpacked[p].planes[k] = two(first.planes[k], second.planes[k]);
        }
        let scales = two(_mm256_castps_si256(first.scales), _mm256_castps_si256(second.scales));
        unpacked[p].scales = _mm512_castsi512_ps(scales);
    }
}

/// The same for blocks of Q2_0, whose scales come first: those of eight rows are converted together.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn unpack_q2_0<const BLOCK: usize>(unpacked: &mut [Unpacked; PAIRS], blocks: &[&[u8; BLOCK]; ROWS]) {
    let (scales, lanes) = scales(blocks);
    let mask = _mm512_set1_epi8(3);
    for p in 0..PAIRS {
        let codes = two(codes(blocks[2 * p]), codes(blocks[2 * p + 1]));
        unpacked[p].planes = [
            _mm512_and_si512(codes, mask),
            _mm512_and_si512(_mm512_srli_epi16::<2>(codes), mask),
            _mm512_and_si512(_mm512_srli_epi16::<4>(codes), mask),
            _mm512_and_si512(_mm512_srli_epi16::<6>(codes), mask),
        ];
        let lanes = _mm512_add_epi32(lanes, _mm512_set1_epi32(2 * p as i32));
        unpacked[p].scales = _mm512_permutexvar_ps(lanes, scales);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn zero() -> Unpacked {
    Unpacked { planes: [_mm512_setzero_si512(); 4], scales: _mm512_setzero_ps() }
}

/// Two vectors, the first in the lower half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn two(first: __m256i, second: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second)
}

/// The scales of eight rows, the second ones of blocks of 64 in the upper lanes, and where the lanes of the first
/// pair of rows find theirs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn scales<const BLOCK: usize>(blocks: &[&[u8; BLOCK]; ROWS]) -> (__m512, __m512i) {
    let first = f16s(blocks, 0);
    if BLOCK == 34 {
        let lanes = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
        return (_mm512_castps256_ps512(_mm256_cvtph_ps(first)), lanes);
    }
    let lanes = _mm512_setr_epi32(0, 0, 0, 0, 8, 8, 8, 8, 1, 1, 1, 1, 9, 9, 9, 9);
    (_mm512_cvtph_ps(_mm256_set_m128i(f16s(blocks, 18), first)), lanes)
}

/// The two bytes at `at` of each block, from loads of four (which need no shuffle).
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn f16s<const BLOCK: usize>(blocks: &[&[u8; BLOCK]; ROWS], at: usize) -> __m128i {
    let mut twos = [_mm_setzero_si128(); PAIRS];
    for p in 0..PAIRS {
        let (even, odd) = (&blocks[2 * p][at..], &blocks[2 * p + 1][at..]);
        let even = _mm_cvtsi32_si128(i32::from_le_bytes([even[0], even[1], even[2], even[3]]));
        let odd = _mm_cvtsi32_si128(i32::from_le_bytes([odd[0], odd[1], odd[2], odd[3]]));
        twos[p] = _mm_unpacklo_epi16(even, odd);
    }
    _mm_unpacklo_epi64(_mm_unpacklo_epi32(twos[0], twos[1]), _mm_unpacklo_epi32(twos[2], twos[3]))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn codes<const BLOCK: usize>(block: &[u8; BLOCK]) -> __m256i {
    if BLOCK == 34 {
        return load::<u8, 32>(block[2..].as_array().expect("34 bytes"));
    }
    _mm256_set_m128i(load_half(block, 20), load_half(block, 2))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn twice_rounded(x: &RoundedGroup) -> TwiceRounded {
    TwiceRounded {
        planes: [twice::<0>(x), twice::<32>(x), twice::<64>(x), twice::<96>(x)],
        minus_sums: twice::<{ offset_of!(RoundedGroup, minus_sums) }>(x),
        scales: _mm512_castsi512_ps(twice::<{ offset_of!(RoundedGroup, scales) }>(x)),
    }
}

/// 32 bytes of a group in both halves: one load. An aligned one, because LLVM would split another in two.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn twice<const OFFSET: usize>(x: &RoundedGroup) -> __m512i {
    const {
        assert!(OFFSET.is_multiple_of(align_of::<RoundedGroup>()) && OFFSET + 32 <= size_of::<RoundedGroup>())
    };
    #[expect(unsafe_code, reason = "a load takes a raw pointer")]
    // SAFETY: 32 readable bytes lie there, aligned to 32, as asserted above.
    let half = unsafe { _mm256_load_si256(std::ptr::from_ref(x).cast::<__m256i>().byte_add(OFFSET)) };
    _mm512_broadcast_i64x4(half)
}

/// Sums of eight rows, or of the first of them as many as there is room for. Mostly it is eight, and then no call.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn write_trees(out: &mut [f32], sums: Sums) {
    let trees = trees(sums);
    match out.as_mut_array() {
        Some(out) => *out = trees,
        None => out.copy_from_slice(&trees[..out.len()]),
    }
}

/// The eight lanes of each of eight rows in the one fixed tree: all rows take its steps together.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn trees([a, b, c, d]: [__m512; PAIRS]) -> [f32; ROWS] {
    let (ab, cd) = (_mm512_castps_pd(add_halves(a, b)), _mm512_castps_pd(add_halves(c, d))); // four lanes a row
    let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
    let two = _mm512_add_ps(low, _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    let one = _mm512_add_ps(two, _mm512_movehdup_ps(two));
    let rows = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    bytemuck::cast(_mm512_castps512_ps256(_mm512_permutexvar_ps(rows, one)))
}

/// Lanes 0-3 and 4-7 of each of four rows, added.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_halves(first: __m512, second: __m512) -> __m512 {
    let low = _mm512_shuffle_f32x4::<0b10_00_10_00>(first, second);
    _mm512_add_ps(low, _mm512_shuffle_f32x4::<0b11_01_11_01>(first, second))
}
