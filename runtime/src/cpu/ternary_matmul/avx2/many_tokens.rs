//! Many tokens: a tile of sixteen rows is unpacked once into the first-level cache and used for all tokens.
//!
//! A register of the tile holds four neighbouring bytes of a plane from each of eight rows, and meets the same four activations
//! in all its lanes. So a lane is a row: its sum over a unit comes out in one place, and the eight rows go on as floats together.

#![expect(clippy::needless_range_loop, reason = "registers are numbered; closures are not compiled for AVX2")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::{MaybeUninit, offset_of};
use std::ops::Range;

use super::super::tile::{STEPS, Sums, Tile, UnpackedUnit};
use super::super::{Activations, RoundedGroup};

/// Tokens that are computed together: with two registers of weights their sums take 8 registers of the 16.
pub(in super::super) const TOKENS: usize = 4;

/// Adds the products of a tile of weights with up to four tokens from `first` on; sums of the first tile begin at zero.
#[target_feature(enable = "avx2,f16c")]
pub(in super::super) fn tile_products<const VNNI: bool>(
    sums: &mut [Sums],
    tile: &Tile,
    x: Activations,
    first: usize,
    groups: Range<usize>,
) {
    let mut tokens: [&[RoundedGroup]; TOKENS] = [&[]; TOKENS];
    for t in 0..TOKENS {
        tokens[t] = &x.token(first + t.min(sums.len() - 1))[groups.clone()];
    }
    let (mut padded, some) = ([Sums::ZERO; TOKENS], sums.len());
    let all = match sums.as_mut_array() {
        Some(all) => all,
        None => {
            padded[..some].copy_from_slice(sums);
            &mut padded
        }
    };
    if groups.start == 0 {
        *all = [Sums::ZERO; TOKENS];
    }
    for unit in 0..2 {
        for (g, weights) in tile[..groups.len()].iter().enumerate() {
            let x = [&tokens[0][g], &tokens[1][g], &tokens[2][g], &tokens[3][g]];
            add_unit::<VNNI>(all, unit, &weights[unit], x);
        }
    }
    if some < TOKENS {
        sums.copy_from_slice(&padded[..some]);
    }
}

/// Adds the products of one unit.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add_unit<const VNNI: bool>(
    sums: &mut [Sums; TOKENS],
    unit: usize,
    w: &UnpackedUnit,
    x: [&RoundedGroup; TOKENS],
) {
    let products = if VNNI { products_vnni(w, x, unit) } else { products(w, x, unit) };
    for t in 0..TOKENS {
        let minus_sum = _mm256_set1_epi32(x[t].minus_sums[unit]);
        for half in 0..2 {
            let scaled = _mm256_cvtepi32_ps(_mm256_add_epi32(products[half][t], minus_sum));
            let scaled = _mm256_mul_ps(bytemuck::cast(w.scales[half]), scaled);
            let sum = &mut sums[t].0[unit][half];
            *sum = bytemuck::cast(_mm256_add_ps(bytemuck::cast(*sum), scaled));
        }
    }
}

/// The products of 64 weights of each row, multiplied: sixteen steps of four weights. Sums of rows 0..8 are in ymm0-3, those of
/// rows 8..16 in ymm4-7, while products go through ymm12-15. Two additions come after the next two products, for which they need
/// not wait: Zen 4 then finds more of its units free (docs/optimisation-log.md).
macro_rules! unit {
    () => {
        concat!(
            "vmovdqa ymm8, ymmword ptr [{w}]\n",
            "vmovdqa ymm9, ymmword ptr [{w} + 32]\n",
            unit!(first "0", "4", "0"),
            unit!(first "1", "5", "1"),
            unit!(first "2", "6", "2"),
            unit!(first "3", "7", "3"),
            unit!(step "64", "32"),
            unit!(step "128", "64"),
            unit!(step "192", "96"),
            unit!(step "256", "4"),
            unit!(step "320", "36"),
            unit!(step "384", "68"),
            unit!(step "448", "100"),
            unit!(step "512", "8"),
            unit!(step "576", "40"),
            unit!(step "640", "72"),
            unit!(step "704", "104"),
            unit!(step "768", "12"),
            unit!(step "832", "44"),
            unit!(step "896", "76"),
            unit!(step "960", "108"),
            unit!(multiply "0", "4", "0"),
            unit!(multiply "1", "5", "1"),
            unit!(multiply "2", "6", "2"),
            unit!(multiply "3", "7", "3"),
        )
    };
    (first $lower:literal, $upper:literal, $t:literal) => {
        concat!(
            "vpbroadcastd ymm10, dword ptr [{x", $t, "}]\n",
            "vpmaddubsw ymm", $lower, ", ymm8, ymm10\n",
            "vpmaddubsw ymm", $upper, ", ymm9, ymm10\n",
        )
    };
    (step $w:literal, $x:literal) => {
        concat!(
            "vmovdqa ymm8, ymmword ptr [{w} + ", $w, "]\n",
            "vmovdqa ymm9, ymmword ptr [{w} + ", $w, " + 32]\n",
            unit!(products "12", "13", "10", "0", $x),
            unit!(products "14", "15", "11", "1", $x),
            unit!(add "12", "13", "0", "4"),
            unit!(products "12", "13", "10", "2", $x),
            unit!(add "14", "15", "1", "5"),
            unit!(products "14", "15", "11", "3", $x),
            unit!(add "12", "13", "2", "6"),
            unit!(add "14", "15", "3", "7"),
        )
    };
    (products $lower:literal, $upper:literal, $activations:literal, $t:literal, $x:literal) => {
        concat!(
            "vpbroadcastd ymm", $activations, ", dword ptr [{x", $t, "} + ", $x, "]\n",
            "vpmaddubsw ymm", $lower, ", ymm8, ymm", $activations, "\n",
            "vpmaddubsw ymm", $upper, ", ymm9, ymm", $activations, "\n",
        )
    };
    (add $lower:literal, $upper:literal, $to_lower:literal, $to_upper:literal) => {
        concat!(
            "vpaddw ymm", $to_lower, ", ymm", $to_lower, ", ymm", $lower, "\n",
            "vpaddw ymm", $to_upper, ", ymm", $to_upper, ", ymm", $upper, "\n",
        )
    };
    (multiply $lower:literal, $upper:literal, $t:literal) => {
        concat!(
            "vpbroadcastd ymm10, dword ptr [{m", $t, "}]\n",
            "vpmaddwd ymm", $lower, ", ymm", $lower, ", ymm10\n",
            "vpmaddwd ymm", $upper, ", ymm", $upper, ", ymm10\n",
        )
    };
}

/// The same by AVX-VNNI for the 32 weights at `$w`, whose activations begin at `$x` of each plane and whose multiplier is at
/// `$m`. Sums of four products fill 32 bits: the multiplier takes their lower halves, which are the sums, a zero the upper ones.
macro_rules! part_vnni {
    ($w:literal, $x:literal, $m:literal) => {
        concat!(
            "vpxor xmm0, xmm0, xmm0\n",
            "vpxor xmm1, xmm1, xmm1\n",
            "vpxor xmm2, xmm2, xmm2\n",
            "vpxor xmm3, xmm3, xmm3\n",
            "vpxor xmm4, xmm4, xmm4\n",
            "vpxor xmm5, xmm5, xmm5\n",
            "vpxor xmm6, xmm6, xmm6\n",
            "vpxor xmm7, xmm7, xmm7\n",
            part_vnni!(step $w, "0", $x, "0"),
            part_vnni!(step $w, "64", $x, "32"),
            part_vnni!(step $w, "128", $x, "64"),
            part_vnni!(step $w, "192", $x, "96"),
            part_vnni!(step $w, "256", $x, "4"),
            part_vnni!(step $w, "320", $x, "36"),
            part_vnni!(step $w, "384", $x, "68"),
            part_vnni!(step $w, "448", $x, "100"),
            part_vnni!(multiply "0", "4", "0", $m),
            part_vnni!(multiply "1", "5", "1", $m),
            part_vnni!(multiply "2", "6", "2", $m),
            part_vnni!(multiply "3", "7", "3", $m),
        )
    };
    (step $w:literal, $w_step:literal, $x:literal, $x_step:literal) => {
        concat!(
            "vmovdqa ymm8, ymmword ptr [{w} + ", $w, " + ", $w_step, "]\n",
            "vmovdqa ymm9, ymmword ptr [{w} + ", $w, " + ", $w_step, " + 32]\n",
            part_vnni!(token "0", "4", "0", $x, $x_step),
            part_vnni!(token "1", "5", "1", $x, $x_step),
            part_vnni!(token "2", "6", "2", $x, $x_step),
            part_vnni!(token "3", "7", "3", $x, $x_step),
        )
    };
    (token $lower:literal, $upper:literal, $t:literal, $x:literal, $x_step:literal) => {
        concat!(
            "vpbroadcastd ymm1", $t, ", dword ptr [{x", $t, "} + ", $x, " + ", $x_step, "]\n",
            "{{vex}} vpdpbusd ymm", $lower, ", ymm8, ymm1", $t, "\n",
            "{{vex}} vpdpbusd ymm", $upper, ", ymm9, ymm1", $t, "\n",
        )
    };
    (multiply $lower:literal, $upper:literal, $t:literal, $m:literal) => {
        concat!(
            "vpbroadcastd ymm10, dword ptr [{m", $t, "} + ", $m, "]\n",
            "vpsrld ymm10, ymm10, 16\n",
            "vpmaddwd ymm", $lower, ", ymm", $lower, ", ymm10\n",
            "vpmaddwd ymm", $upper, ", ymm", $upper, ", ymm10\n",
        )
    };
}

/// Makes a function for the products of a unit of sixteen rows with four tokens, multiplied: of rows 0..8 and of rows 8..16 with
/// each token. Assembly, because LLVM adds up pairs of products first, for which there are not registers enough.
macro_rules! products_of_unit {
    ($(#[$doc:meta])* $name:ident, multipliers at $at:literal, $($instructions:expr),*) => {
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = "avx2")]
        fn $name(w: &UnpackedUnit, x: [&RoundedGroup; TOKENS], unit: usize) -> [[__m256i; TOKENS]; 2] {
            const { assert!(size_of_val(&UnpackedUnit::ZERO.codes) == 64 * STEPS) };
            const { assert!(offset_of!(UnpackedUnit, codes) == 0 && align_of::<UnpackedUnit>() == 64) };
            const { assert!(offset_of!(RoundedGroup, planes) == 0 && offset_of!(RoundedGroup, multipliers) == 128) };
            let zero = _mm256_setzero_si256();
            let (mut lower, mut upper) = ([zero; TOKENS], [zero; TOKENS]);
            let mut first_part = MaybeUninit::<[__m256i; 2 * TOKENS]>::uninit(); // cleared for each unit it would take time
            let at = x.map(|x| std::ptr::from_ref(x).cast::<u8>());
            #[expect(unsafe_code, reason = "assembly")]
            // SAFETY: the processor has these instructions. They read the codes of the unit and the four groups of activations,
            // whose layout is asserted, and write the sums of the first part before they read them.
            unsafe {
                asm!(
                    $($instructions,)*
                    "/* {part} */",
                    w = in(reg) w,
                    x0 = in(reg) at[0].wrapping_add(16 * unit),
                    x1 = in(reg) at[1].wrapping_add(16 * unit),
                    x2 = in(reg) at[2].wrapping_add(16 * unit),
                    x3 = in(reg) at[3].wrapping_add(16 * unit),
                    m0 = in(reg) at[0].wrapping_add($at + 8 * unit),
                    m1 = in(reg) at[1].wrapping_add($at + 8 * unit),
                    m2 = in(reg) at[2].wrapping_add($at + 8 * unit),
                    m3 = in(reg) at[3].wrapping_add($at + 8 * unit),
                    part = in(reg) first_part.as_mut_ptr(),
                    out("ymm0") lower[0], out("ymm1") lower[1], out("ymm2") lower[2], out("ymm3") lower[3],
                    out("ymm4") upper[0], out("ymm5") upper[1], out("ymm6") upper[2], out("ymm7") upper[3],
                    out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                    out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                    options(nostack, preserves_flags),
                );
            }
            [lower, upper]
        }
    };
}

products_of_unit! {
    /// The lower half of a lane sums products of the first 32, the upper half those of the second 32 (`side_by_side`), at most
    /// 32 * 3 * 127: one instruction multiplies both, by the second copy of the first multiplier and the first of the second.
    products, multipliers at 130, unit!()
}

products_of_unit! {
    products_vnni, multipliers at 128,
    part_vnni!("0", "0", "0"),
    "vmovdqa ymmword ptr [{part}], ymm0",
    "vmovdqa ymmword ptr [{part} + 32], ymm1",
    "vmovdqa ymmword ptr [{part} + 64], ymm2",
    "vmovdqa ymmword ptr [{part} + 96], ymm3",
    "vmovdqa ymmword ptr [{part} + 128], ymm4",
    "vmovdqa ymmword ptr [{part} + 160], ymm5",
    "vmovdqa ymmword ptr [{part} + 192], ymm6",
    "vmovdqa ymmword ptr [{part} + 224], ymm7",
    part_vnni!("512", "8", "4"),
    "vpaddd ymm0, ymm0, ymmword ptr [{part}]",
    "vpaddd ymm1, ymm1, ymmword ptr [{part} + 32]",
    "vpaddd ymm2, ymm2, ymmword ptr [{part} + 64]",
    "vpaddd ymm3, ymm3, ymmword ptr [{part} + 96]",
    "vpaddd ymm4, ymm4, ymmword ptr [{part} + 128]",
    "vpaddd ymm5, ymm5, ymmword ptr [{part} + 160]",
    "vpaddd ymm6, ymm6, ymmword ptr [{part} + 192]",
    "vpaddd ymm7, ymm7, ymmword ptr [{part} + 224]"
}
