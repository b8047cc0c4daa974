//! One token: eight rows at once, straight from the file's blocks.

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::avx2::blocks::in_planes;
use super::super::{RoundedGroup, Rows, parts, write_rows};
use super::blocks::{EightRows, half_blocks, unpack, zero};
use super::{PAIRS, ROWS, Sums, TwiceRounded, add_products, trees, twice_rounded};

/// How early a decode asks for memory, see `../avx2/one_token.rs`.
pub(super) const EARLY: usize = 4096;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn one_token<const BLOCK: usize>(out: &mut [f32], weights: Rows, x: &[RoundedGroup]) {
    for (n, out) in out.chunks_mut(ROWS).enumerate() {
        let rows = EightRows::<BLOCK>::new(weights, n * ROWS, out.len());
        let mut sums = [_mm512_setzero_ps(); PAIRS];
        let ahead = weights.row(n * ROWS).as_ptr().wrapping_add(weights.ahead(ROWS, EARLY));
        for b in 0..rows.whole {
            // As in `../avx2/one_token.rs`: the tile's rows lie one behind the other, and a prefetch never fails.
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
        write_rows(out, trees(sums));
    }
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
