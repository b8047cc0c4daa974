//! NEON: a unit of four rows with one token, where a register holds a plane of a row. Of each row there are several sums,
//! half of them for each multiplier, which are added up for four rows together.

use std::arch::aarch64::*;
use std::arch::asm;

use super::super::RoundedGroup;
use super::blocks::vector;

/// The four planes of a unit of activations.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn planes(x: &RoundedGroup, unit: usize) -> [int8x16_t; 4] {
    let mut planes = [vdupq_n_s8(0); 4];
    for k in 0..4 {
        planes[k] = vector(&x.planes[k][16 * unit..][..16]);
    }
    planes
}

/// The two multipliers of a unit, each twice.
#[inline(always)]
pub(super) fn multipliers(x: &RoundedGroup, unit: usize) -> [[i16; 2]; 2] {
    [x.multipliers[2 * unit], x.multipliers[2 * unit + 1]]
}

/// Four sums of the first half of the unit, then four of the other.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn products(w: [int8x16_t; 4], x: [int8x16_t; 4]) -> int16x8_t {
    // All 32 products that share a multiplier, of at most 3 * 127, would fit an i16.
    let mut lower = vmull_s8(vget_low_s8(w[0]), vget_low_s8(x[0]));
    let mut upper = vmull_high_s8(w[0], x[0]);
    for k in 1..4 {
        lower = vmlal_s8(lower, vget_low_s8(w[k]), vget_low_s8(x[k]));
        upper = vmlal_high_s8(upper, w[k], x[k]);
    }
    vpaddq_s16(lower, upper)
}

/// The [`products`] of four rows, multiplied: a lane for each row.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn add_up([a, b, c, d]: [int16x8_t; 4], multipliers: [[i16; 2]; 2]) -> int32x4_t {
    let sums = vpaddq_s16(vpaddq_s16(a, b), vpaddq_s16(c, d));
    let twice: int16x4_t = bytemuck::cast(multipliers);
    let multipliers = vuzp1_s16(twice, twice);
    vpaddq_s32(
        vmull_s16(vget_low_s16(sums), multipliers),
        vmull_high_s16(sums, vcombine_s16(multipliers, multipliers)),
    )
}

/// Two sums of the first half of the unit, then two of the other.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn products_dotprod(w: [int8x16_t; 4], x: [int8x16_t; 4]) -> int32x4_t {
    let mut sums = vdupq_n_s32(0);
    for k in 0..4 {
        sums = sdot(sums, w[k], x[k]);
    }
    sums
}

/// The [`products_dotprod`] of four rows, multiplied.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn add_up_dotprod([a, b, c, d]: [int32x4_t; 4], multipliers: [[i16; 2]; 2]) -> int32x4_t {
    let twice = vreinterpretq_u32_u64(vdupq_n_u64(bytemuck::cast(multipliers)));
    let multipliers = vreinterpretq_s32_u32(vshrq_n_u32::<16>(twice));
    vpaddq_s32(vmulq_s32(vpaddq_s32(a, b), multipliers), vmulq_s32(vpaddq_s32(c, d), multipliers))
}

/// Adds four products to each lane. Assembly, because its function is not stable yet, and because one compiled for it
/// would not be inlined into those for NEON.
#[inline]
#[target_feature(enable = "neon")]
fn sdot(mut sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    #[expect(unsafe_code, reason = "assembly")]
    // SAFETY: only `rows_dotprod` and `i8mm::rows` lead here, so the processor has the instruction.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {sums:v}.4s, {w:v}.16b, {x:v}.16b",
            sums = inout(vreg) sums,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}
