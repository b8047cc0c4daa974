//! Ternary weights: the scale rule, the rounding, and matrices of packed codes.
//!
//! A group of consecutive weights along the input dimension shares one f16 scale `s`; each weight is `s * t`
//! with `t` in {-1, 0, +1}. [`project_group`] is the only rounding in this workspace: the trainer's forward
//! pass, the exporter and the tests all call it, so what trains is what ships.
//!
//! Codes are `t + 1`, four to a byte, lowest bits first (the order of Q2_0, docs/formats.md).

mod packing;
mod scale_rule;
pub(crate) mod trits;

use half::f16;

pub use packing::{MAX_GROUP, Packing};
pub use scale_rule::ScaleRule;

/// Weights whose codes make one byte.
pub const CODES_PER_BYTE: usize = 4;

/// A byte of four zero weights.
pub const ZEROS: u8 = 0b01_01_01_01;

/// Rounds one group: writes the packed codes of `w` (4 to a byte) and returns the scale.
///
/// `t = sign(w) * [|w| > threshold]`, with the threshold of the rule. Under [`ScaleRule::Absmean`] it is `s / 2`, so
/// that `t = clamp(round(w / s), -1, 1)` with ties to zero, for every normal f16 scale. Sums are taken in f64 in a fixed
/// order, so the f16 scale does not depend on the machine. A group whose scale rounds to zero is all zeros.
///
/// `w.len()` must be a multiple of 8; `codes.len() == w.len() / 4`. Weights must be finite.
#[inline(always)]
pub fn project_group(w: &[f32], rule: ScaleRule, codes: &mut [u8]) -> f16 {
    assert!(
        w.len().is_multiple_of(8) && codes.len() == w.len() / CODES_PER_BYTE,
        "a group of {} weights",
        w.len()
    );
    let (scale, threshold) = scale_rule::scale_and_threshold(w, rule);
    pack(w, threshold, codes);
    scale
}

/// Codes of weights against a threshold, four to a byte.
#[inline(always)]
fn pack(w: &[f32], threshold: f32, codes: &mut [u8]) {
    for (byte, four) in codes.iter_mut().zip(w.as_chunks::<4>().0) {
        let code = |k: usize| u8::from(four[k] > threshold) + u8::from(four[k] >= -threshold);
        *byte = code(0) | code(1) << 2 | code(2) << 4 | code(3) << 6;
    }
}

/// Writes `(code - 1) * scale` of each packed code. `out.len() == codes.len() * 4`.
#[inline(always)]
pub fn unpack_group(codes: &[u8], scale: f32, out: &mut [f32]) {
    for (four, &byte) in out.as_chunks_mut::<4>().0.iter_mut().zip(codes) {
        for (k, value) in four.iter_mut().enumerate() {
            *value = (f32::from((byte >> (2 * k)) & 3) - 1.0) * scale;
        }
    }
}

/// Number of zero weights among packed codes.
#[inline(always)]
pub fn count_zeros(codes: &[u8]) -> usize {
    codes.iter().map(|&byte| (byte & !(byte >> 1) & ZEROS).count_ones() as usize).sum()
}

/// Number of weights whose codes differ between two packed groups.
#[inline(always)]
pub fn count_flips(old: &[u8], new: &[u8]) -> usize {
    let differing = |(&a, &b): (&u8, &u8)| (((a ^ b) | ((a ^ b) >> 1)) & ZEROS).count_ones() as usize;
    old.iter().zip(new).map(differing).sum()
}

/// A ternary matrix in memory: codes and scales apart, each `rows` long runs.
#[derive(Debug, Clone, PartialEq)]
pub struct TernaryMatrix {
    /// Output features.
    pub rows: usize,
    /// Input features; a multiple of `group`.
    pub cols: usize,
    /// Weights that share a scale; a multiple of 8.
    pub group: usize,
    /// `[rows, cols / 4]`: codes `t + 1`, four to a byte, lowest bits first.
    pub codes: Vec<u8>,
    /// `[rows, cols / group]`.
    pub scales: Vec<f16>,
}

impl TernaryMatrix {
    /// A matrix of zeros.
    pub fn zeros(rows: usize, cols: usize, group: usize) -> Self {
        assert!(group.is_multiple_of(8) && cols.is_multiple_of(group), "{cols} columns in groups of {group}");
        let codes = vec![ZEROS; rows * cols / CODES_PER_BYTE];
        Self { rows, cols, group, codes, scales: vec![f16::ZERO; rows * cols / group] }
    }

    /// Rounds `w` (`[rows, cols]`, finite).
    pub fn project(w: &[f32], rows: usize, cols: usize, group: usize, rule: ScaleRule) -> Self {
        let mut matrix = Self::zeros(rows, cols, group);
        assert_eq!(w.len(), rows * cols);
        let groups = w.chunks_exact(group).zip(matrix.codes.chunks_exact_mut(group / CODES_PER_BYTE));
        for ((w, codes), scale) in groups.zip(&mut matrix.scales) {
            *scale = project_group(w, rule, codes);
        }
        matrix
    }

    /// Writes rows `row..row + n` as f32, `out.len() == n * cols`.
    #[inline(always)]
    pub fn read_rows(&self, row: usize, out: &mut [f32]) {
        let (first, bytes) = (row * self.cols / self.group, self.group / CODES_PER_BYTE);
        for (n, out) in out.chunks_exact_mut(self.group).enumerate() {
            let codes = &self.codes[(first + n) * bytes..][..bytes];
            unpack_group(codes, self.scales[first + n].to_f32(), out);
        }
    }

    /// All weights as f32, `[rows, cols]`.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows * self.cols];
        self.read_rows(0, &mut values);
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rounding as the paper writes it, one weight at a time.
    fn by_the_book(w: &[f32]) -> (f16, Vec<i8>) {
        let s = f16::from_f32((w.iter().map(|x| f64::from(x.abs())).sum::<f64>() / w.len() as f64) as f32);
        let t = w.iter().map(|x| {
            if s == f16::ZERO { 0 } else { (x / s.to_f32()).round_ties_even().clamp(-1.0, 1.0) as i8 }
        });
        (s, t.collect())
    }

    fn trits(codes: &[u8]) -> Vec<i8> {
        codes.iter().flat_map(|&byte| (0..4).map(move |k| ((byte >> (2 * k)) & 3) as i8 - 1)).collect()
    }

    proptest! {
        #[test]
        fn absmean_is_round_and_clamp(w in prop::collection::vec(-0.1f32..0.1, 128)) {
            let mut codes = [0; 32];
            let scale = project_group(&w, ScaleRule::Absmean, &mut codes);
            let (s, t) = by_the_book(&w);
            prop_assert_eq!(scale, s);
            prop_assert_eq!(trits(&codes), t);
        }
    }

    #[test]
    fn a_group_of_zeros_stays_zero() {
        let mut codes = [0xff; 2];
        assert_eq!(project_group(&[0.0; 8], ScaleRule::Absmean, &mut codes), f16::ZERO);
        assert_eq!(codes, [ZEROS; 2]);
        assert_eq!(project_group(&[1e-9; 8], ScaleRule::Absmean, &mut codes), f16::ZERO);
        assert_eq!(codes, [ZEROS; 2]);
    }

    #[test]
    fn counts_of_zeros_and_flips() {
        let codes =
            |t: [i8; 4]| t.iter().enumerate().fold(0u8, |byte, (k, t)| byte | ((t + 1) as u8) << (2 * k));
        let (a, b) = (codes([-1, 0, 1, 0]), codes([1, 0, 0, 0]));
        assert_eq!((count_zeros(&[a]), count_zeros(&[b])), (2, 3));
        assert_eq!(count_flips(&[a], &[b]), 2);
    }
}
