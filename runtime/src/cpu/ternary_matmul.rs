//! Matrix product with ternary weights: the arithmetic, the choice of kernel, and what the kernels share.
//!
//! A weight is `(q - 1) * s` with the code `q` in 0..=3 and one scale `s` per group. Activations are rounded to
//! `a = round(x / (m * s_x))`, i8, with one f32 scale `s_x` per token and one integer multiplier `m` in 1..=1024 per 32 of
//! them (scales in two levels, as in ggml's K-quants; here the finer level makes integers stay integers). So over 64 weights,
//! which share `s`,
//!
//! ```text
//! sum(w * x) = s_x * s * (sum(m * q * a) - sum(m * a))
//! ```
//!
//! where the sums are integers below 2^24: exact in any order, in i32 as in f32. A row has two float accumulators, for even
//! and for odd 64s: `acc[u % 2] += s * sum[u]`, multiplied and added separately, one 64 after the other. The product is
//! `(acc[0] + acc[1]) * s_x`.
//!
//! Byte j of a group of 128 holds the codes of weights 4j..4j+3. Shifting the 32 code bytes by 0, 2, 4, 6 bits
//! and masking gives four planes of codes. The activations lie in the same four planes (element 4j+k at plane
//! k, byte j), so four byte-wise products add up so that i32 lane l of 8 holds exactly weights 16l..16l+15: half of those
//! that share a multiplier.
//!
//! The other packings are the same thing once their codes lie in the four planes: groups of 64 have a scale for each
//! accumulator (and a row of an odd number of 64s ends in half a group), groups of 256 are two groups that share a scale. The
//! same weights give the same bits in any packing.
//!
//! `scalar.rs` defines the result; every other kernel must give its bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_feature = "simd128")]
mod simd128;
#[cfg(target_arch = "x86_64")]
mod tile;
#[cfg(target_feature = "simd128")]
pub(super) use simd128::widen_f16;

use std::ops::Range;
#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

use super::isa::{Isa, Level};
#[cfg(target_arch = "x86_64")]
use super::isa::{prefetch, prefetch_second_level};
use super::{ops, threads};
use crate::tensor::{Format, StoredTensor};
use crate::ternary::Packing;
use crate::vectorized;

/// Weights that a step of a kernel takes.
const GROUP: usize = 128;
/// Code bytes of those.
const CODE_BYTES: usize = GROUP / 4;
/// Tokens that a thread rounds at a time.
const ROUND_TOKENS: usize = 16;
/// Up to so many tokens of a prompt are computed one by one: with five, a tile takes as long (Zen 4).
#[cfg(target_arch = "x86_64")]
const FEW_TOKENS: usize = 4;
/// Weights that those read before the next token takes them.
#[cfg(target_arch = "x86_64")]
const FEW_TOKENS_BYTES: usize = 64 << 10;
/// Weights of a sum that is exact: those of a float accumulator's step.
const UNIT: usize = GROUP / 2;
/// Activations that share a multiplier.
const PART: usize = UNIT / 2;
/// Largest multiplier: the sums of a unit of weights of -1 to +2 stay below 2^24. It makes rounding errors at most a
/// hundredth larger than a float scale for every 32 would (of 3072 activations, at worst; mostly by far less).
const MULTIPLIERS: f32 = 1024.0;

/// The activations of one group of 128, rounded.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct RoundedGroup {
    /// Element 4j+k at plane k, byte j; -127..=127.
    planes: [[i8; CODE_BYTES]; 4],
    /// Multiplier of each 32, twice: for instructions that multiply pairs.
    multipliers: [[i16; 2]; 4],
    /// Minus the sum of the activations of each 64, multiplied.
    minus_sums: [i32; 2],
}

/// Activations `[tokens, cols]` rounded to i8, ready for the kernels.
#[derive(Default)]
pub struct Rounded {
    groups: Vec<RoundedGroup>,
    /// Of each token.
    scales: Vec<f32>,
    groups_per_token: usize,
    /// Whether the planes are in the order of `avx2::blocks::parts_side_by_side`: for prefill at the level that multiplies so.
    #[cfg(target_arch = "x86_64")]
    side_by_side: bool,
    /// The groups of two tokens together, in the same order: for prefill at the level that multiplies so.
    #[cfg(target_arch = "aarch64")]
    pairs: Vec<neon::i8mm::TwoTokens>,
}

impl RoundedGroup {
    const ZERO: Self = Self { planes: [[0; CODE_BYTES]; 4], multipliers: [[0; 2]; 4], minus_sums: [0; 2] };

    /// Of values of `part` 32: their multiplier, and what they must be multiplied by.
    fn multiplier(&mut self, part: usize, largest: f32, scale: Scale) -> f32 {
        let exact = (largest * scale.multipliers).min(MULTIPLIERS);
        let below = exact as i16;
        let multiplier = (below + i16::from(f32::from(below) < exact)).max(1);
        self.multipliers[part] = [multiplier; 2];
        scale.inverse / f32::from(multiplier)
    }
}

/// How a token is rounded.
#[derive(Clone, Copy)]
struct Scale {
    /// Of an activation of 1 and a multiplier of 1.
    scale: f32,
    /// 1 / `scale`.
    inverse: f32,
    /// The multiplier that a value of 1 needs.
    multipliers: f32,
}

impl Scale {
    /// From the largest magnitude.
    fn new(largest: f32) -> Self {
        let (scale, inverse) = ops::rounding(largest, 127.0 * MULTIPLIERS);
        Self { scale, inverse, multipliers: inverse / 127.0 }
    }
}

impl Rounded {
    /// Rounds `x` (`[tokens, cols]`), reusing the memory: a token's scale is its largest magnitude / (127 * 1024), the
    /// multiplier of 32 values the least that keeps them within 127; half to even.
    pub fn fill(&mut self, isa: Isa, x: &[f32], cols: usize) {
        assert!(cols > 0 && cols.is_multiple_of(64), "{cols} columns in groups of 64 or 128");
        let per_token = cols.div_ceil(GROUP);
        self.groups_per_token = per_token;
        self.groups.resize(x.len() / cols * per_token, RoundedGroup::ZERO);
        self.scales.resize(x.len() / cols, 0.0);
        #[cfg(target_arch = "x86_64")]
        {
            self.side_by_side = isa.level() == Level::Avx2 && x.len() > FEW_TOKENS * cols;
        }
        let out = self.groups.chunks_mut(per_token * ROUND_TOKENS).zip(self.scales.chunks_mut(ROUND_TOKENS));
        threads::for_each(x.chunks(cols * ROUND_TOKENS).zip(out).collect(), |(x, (out, scales))| {
            let tokens = x.chunks_exact(cols).zip(out.chunks_exact_mut(per_token));
            tokens.zip(scales).for_each(|((x, out), scale)| *scale = round_token(isa, x, out));
            #[cfg(target_arch = "x86_64")]
            if self.side_by_side {
                #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
                // SAFETY: an `Isa` of this level exists only where AVX2 was detected.
                unsafe {
                    avx2::round::side_by_side(out);
                }
            }
        });
        #[cfg(target_arch = "aarch64")]
        self.pair_up(isa);
    }

    #[cfg(target_arch = "aarch64")]
    fn pair_up(&mut self, isa: Isa) {
        self.pairs.clear();
        let tokens = self.groups.len() / self.groups_per_token;
        if isa.level() < Level::NeonI8mm || tokens == 1 {
            return;
        }
        for tokens in self.groups.chunks(2 * self.groups_per_token) {
            let (first, second) = tokens.split_at(self.groups_per_token);
            self.pairs.extend(first.iter().enumerate().map(|(g, x)| neon::i8mm::pair(x, second.get(g))));
        }
    }

    /// Bytes that the rounded activations of so many tokens take.
    pub fn bytes(tokens: usize, cols: usize) -> usize {
        tokens * (cols.div_ceil(GROUP) * size_of::<RoundedGroup>() + size_of::<f32>())
    }

    /// All of them.
    pub fn all(&self) -> Activations<'_> {
        Activations {
            groups: &self.groups,
            scales: &self.scales,
            groups_per_token: self.groups_per_token,
            #[cfg(target_arch = "x86_64")]
            side_by_side: self.side_by_side,
            #[cfg(target_arch = "aarch64")]
            pairs: &self.pairs,
        }
    }
}

/// Rounded activations of some tokens, one behind the other.
#[derive(Clone, Copy)]
pub struct Activations<'a> {
    groups: &'a [RoundedGroup],
    scales: &'a [f32],
    groups_per_token: usize,
    #[cfg(target_arch = "x86_64")]
    side_by_side: bool,
    #[cfg(target_arch = "aarch64")]
    pairs: &'a [neon::i8mm::TwoTokens],
}

impl<'a> Activations<'a> {
    /// Number of tokens.
    pub fn tokens(self) -> usize {
        self.scales.len()
    }

    /// Those of some of the tokens, from an even one on.
    pub fn some(self, tokens: Range<usize>) -> Self {
        assert!(tokens.start.is_multiple_of(2), "tokens lie in pairs");
        Self {
            groups: &self.groups[tokens.start * self.groups_per_token..tokens.end * self.groups_per_token],
            scales: &self.scales[tokens.clone()],
            #[cfg(target_arch = "aarch64")]
            pairs: match self.pairs {
                [] => &[],
                pairs => {
                    let pair = |token: usize| token / 2 * self.groups_per_token;
                    &pairs[pair(tokens.start)..pair(tokens.end.next_multiple_of(2))]
                }
            },
            ..self
        }
    }

    fn token(self, token: usize) -> &'a [RoundedGroup] {
        &self.groups[token * self.groups_per_token..][..self.groups_per_token]
    }
}

/// Rounds the activations of one token and returns their scale. Non-numbers make it a non-number, so that they show in the
/// result.
fn round_token(isa: Isa, x: &[f32], out: &mut [RoundedGroup]) -> f32 {
    let scale = Scale::new(vectorized!(isa, ops::largest(x)));
    if scale.inverse == 0.0 {
        out.fill(RoundedGroup::ZERO);
        return scale.scale;
    }
    let (whole, half) = x.as_chunks::<GROUP>();
    let mut padded = [0.0; GROUP];
    padded[..half.len()].copy_from_slice(half);
    let groups = whole.iter().chain((!half.is_empty()).then_some(&padded));
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
        // SAFETY: an `Isa` of these levels exists only where AVX2 was detected.
        Level::Avx2 | Level::AvxVnni | Level::Avx512 | Level::Avx512Vbmi => unsafe {
            avx2::round::groups(out, groups, scale)
        },
        _ => {
            vectorized!(isa, out.iter_mut().zip(groups).for_each(|(out, x)| *out = round_group(x, scale)))
        }
    }
    scale.scale
}

#[inline(always)]
fn round_group(x: &[f32; GROUP], scale: Scale) -> RoundedGroup {
    let mut rounded = [0i8; GROUP];
    let mut group = RoundedGroup::ZERO;
    for (part, (x, out)) in x.as_chunks::<PART>().0.iter().zip(rounded.as_chunks_mut::<PART>().0).enumerate()
    {
        let inverse = group.multiplier(part, ops::largest(x), scale);
        out.iter_mut().zip(x).for_each(|(out, x)| *out = ops::to_integer(x * inverse) as i8);
        let sum: i32 = out.iter().map(|&a| i32::from(a)).sum();
        group.minus_sums[part / 2] -= sum * i32::from(group.multipliers[part][0]);
    }
    for (j, four) in rounded.as_chunks::<4>().0.iter().enumerate() {
        for (plane, &a) in group.planes.iter_mut().zip(four) {
            plane[j] = a;
        }
    }
    group
}

/// `out[t, i] = sum over c of w[first_row + i, c] * x[t, c]`: the product with some rows of `w`, a ternary matrix.
///
/// `out` is `[tokens, rows]`; its length says how many rows.
pub fn rows(isa: Isa, out: &mut [f32], w: &StoredTensor, first_row: usize, x: Activations) {
    let Format::Ternary(packing) = w.format else { panic!("not a ternary matrix: {}", w.format.name()) };
    assert_eq!(x.groups_per_token, w.cols.div_ceil(GROUP), "activations of another width");
    let rows = out.len() / x.tokens();
    #[cfg(target_arch = "x86_64")]
    if (2..=FEW_TOKENS).contains(&x.tokens()) && !x.side_by_side && isa != Isa::SCALAR {
        return few_tokens(isa, out, w, first_row, x);
    }
    let bytes = &w.bytes[first_row * w.row_bytes()..(first_row + rows) * w.row_bytes()];
    let weights = Rows {
        bytes,
        row_bytes: w.row_bytes(),
        packing,
        #[cfg(target_arch = "x86_64")]
        f16_to_f32: f16_to_f32(),
    };
    match isa.level() {
        Level::Scalar => scalar::rows(out, weights, x),
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
        // SAFETY: an `Isa` of this level exists only where AVX2 and F16C were detected.
        Level::Avx2 => unsafe { avx2::rows(out, weights, x) },
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
        // SAFETY: an `Isa` of this level exists only where AVX2, F16C and AVX-VNNI were detected.
        Level::AvxVnni => unsafe { avx2::rows_vnni(out, weights, x) },
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
        // SAFETY: an `Isa` of this level exists only where AVX-512 F, BW, DQ, VL, VNNI and VBMI were detected.
        Level::Avx512Vbmi if x.tokens() == 1 && !weights.neighbours() => unsafe {
            avx512::vbmi::one_token(out, weights, x)
        },
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
        // SAFETY: an `Isa` of these levels exists only where AVX-512 F, BW, DQ, VL and VNNI were detected.
        Level::Avx512 | Level::Avx512Vbmi => unsafe { avx512::rows(out, weights, x) },
        #[cfg(target_arch = "aarch64")]
        #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
        // SAFETY: an `Isa` of this level exists only where NEON was detected.
        Level::Neon => unsafe { neon::rows(out, weights, x) },
        #[cfg(target_arch = "aarch64")]
        #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
        // SAFETY: an `Isa` of this level exists only where NEON, dotprod and i8mm were detected.
        Level::NeonI8mm if !x.pairs.is_empty() => unsafe { neon::i8mm::rows(out, weights, x) },
        #[cfg(target_arch = "aarch64")]
        #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
        // SAFETY: an `Isa` of these levels exists only where NEON and dotprod were detected.
        Level::NeonDotprod | Level::NeonI8mm => unsafe { neon::rows_dotprod(out, weights, x) },
        #[cfg(target_feature = "simd128")]
        Level::Simd128 => simd128::rows(out, weights, x),
    }
}

/// So few tokens that a tile is not worth unpacking: some rows at a time, which stay in the second-level cache meanwhile, with
/// one token after the other.
#[cfg(target_arch = "x86_64")]
fn few_tokens(isa: Isa, out: &mut [f32], w: &StoredTensor, first_row: usize, x: Activations) {
    let all = out.len() / x.tokens();
    let some = (FEW_TOKENS_BYTES / w.row_bytes()).next_multiple_of(8);
    for first in (0..all).step_by(some) {
        for token in 0..x.tokens() {
            let groups = x.token(token);
            let x = Activations { groups, scales: &x.scales[token..=token], ..x };
            let out = &mut out[token * all + first..][..some.min(all - first)];
            rows(isa, out, w, first_row + first, x);
        }
    }
}

/// Some rows of a ternary matrix as they lie in the file.
#[derive(Clone, Copy)]
struct Rows<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
    packing: Packing,
    /// Every f16 as f32, by its bits; other processors convert faster.
    #[cfg(target_arch = "x86_64")]
    f16_to_f32: &'a [f32; 1 << 16],
}

/// Every f16 as f32, by its bits: 256 KiB, of which a model's scales touch a few.
#[cfg(target_arch = "x86_64")]
fn f16_to_f32() -> &'static [f32; 1 << 16] {
    static TABLE: OnceLock<Box<[f32; 1 << 16]>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let table: Box<[f32]> = (0..=u16::MAX).map(|bits| half::f16::from_bits(bits).to_f32()).collect();
        table.try_into().expect("as many as there are u16")
    })
}

impl<'a> Rows<'a> {
    fn row(self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.row_bytes..][..self.row_bytes]
    }

    /// How far before its use a decode asks for memory that reads `side_by_side` rows. It asks in the order of the file: when
    /// the first of the next rows begins, the beginning of the last must be there, too, and that `early` bytes ago. Never
    /// more than half of a first-level cache.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn ahead(self, side_by_side: usize, early: usize) -> usize {
        ((side_by_side - 1) * self.row_bytes + early).min(16 << 10)
    }

    /// Asks for what [`ahead`](Self::ahead) leaves out: without it, a decode waits for memory a few times at the beginning.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn ask_for_beginning(self, side_by_side: usize, early: usize) {
        for line in (0..self.ahead(side_by_side, early)).step_by(64) {
            prefetch(self.bytes.as_ptr().wrapping_add(line));
        }
    }

    /// Asks for some rows, to lie in the second-level cache when their turn comes. They may lie past the end: a prefetch
    /// never fails.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn ask_for(self, first: usize, rows: usize) {
        let at = self.bytes.as_ptr().wrapping_add(first * self.row_bytes);
        for line in (0..rows * self.row_bytes).step_by(64) {
            prefetch_second_level(at.wrapping_add(line));
        }
    }

    /// Whether each byte holds the codes of four neighbours, one of each plane.
    #[cfg(target_arch = "x86_64")]
    fn neighbours(self) -> bool {
        matches!(self.packing, Packing::Q2_0 | Packing::Q2_0G64)
    }
}

/// Results of eight rows, or of the first of them as many as there is room for. Mostly it is eight, and then no call.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn write_rows(out: &mut [f32], rows: [f32; 8]) {
    match out.as_mut_array() {
        Some(out) => *out = rows,
        None => out.copy_from_slice(&rows[..out.len()]),
    }
}

/// Groups of 128 in a block of that many bytes.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_feature = "simd128"))]
const fn parts(block: usize) -> usize {
    if block == 54 || block == 66 { 2 } else { 1 }
}

/// The half group that a row of an odd number of 64s ends in: a scale of zero for the upper lanes.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_feature = "simd128"))]
fn half_block<const BLOCK: usize>(row: &[u8]) -> [u8; BLOCK] {
    let half = row.as_chunks::<BLOCK>().1;
    let mut padded = [0; BLOCK];
    padded[..half.len()].copy_from_slice(half);
    padded
}
