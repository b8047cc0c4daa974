//! Optimizer state, as f32 or in 8 bits a number.
//!
//! 8 bits: blocks of 128 numbers share a scale, their largest magnitude (block-wise quantisation: Dettmers et al., arXiv
//! 2110.02861), and each is a small float relative to it: four bits of exponent and three of fraction behind the sign, or
//! five and three where there is no sign (compare E4M3 of Micikevicius et al., arXiv 2209.05433). Rounding is stochastic: a
//! mean that moves by 5% a step would stand still under rounding to the nearest of numbers 6% to 12% apart.

use super::noise::Noise;
use crate::formats::{BLOCK, Moment, MomentFormat};

/// One moment of one tensor.
pub struct CpuMoment {
    format: MomentFormat,
    /// The numbers, or the scale of each block.
    floats: Vec<f32>,
    codes: Vec<u8>,
}

impl CpuMoment {
    /// `len` zeros.
    pub(super) fn zeros(len: usize, format: MomentFormat) -> Self {
        Self { format, floats: vec![0.0; format.floats(len)], codes: vec![0; format.codes(len)] }
    }

    /// What it holds, as checkpoints keep it.
    pub(super) fn read(&self) -> Moment<'_> {
        Moment { floats: self.floats.as_slice().into(), codes: self.codes.as_slice().into() }
    }

    /// Overwrites it.
    pub(super) fn write(&mut self, moment: &Moment<'_>) {
        self.floats.copy_from_slice(&moment.floats);
        self.codes.copy_from_slice(&moment.codes);
    }

    /// Pieces of `size` numbers, a multiple of [`BLOCK`].
    pub(super) fn chunks_mut(&mut self, size: usize) -> Vec<Chunk<'_>> {
        let format = self.format;
        if format == MomentFormat::F32 {
            let floats = self.floats.chunks_mut(size);
            return floats.map(|floats| Chunk { format, floats, codes: &mut [] }).collect();
        }
        let parts = self.floats.chunks_mut(size / BLOCK).zip(self.codes.chunks_mut(size));
        parts.map(|(floats, codes)| Chunk { format, floats, codes }).collect()
    }
}

/// A piece of a moment.
pub(super) struct Chunk<'a> {
    format: MomentFormat,
    floats: &'a mut [f32],
    codes: &'a mut [u8],
}

impl Chunk<'_> {
    /// The numbers from `first` on, which begins a block.
    #[inline(always)]
    pub(super) fn load(&self, first: usize, out: &mut [f32]) {
        if self.format == MomentFormat::F32 {
            return out.copy_from_slice(&self.floats[first..first + out.len()]);
        }
        let codes = &self.codes[first..first + out.len()];
        for (block, out) in out.chunks_mut(BLOCK).enumerate() {
            let (codes, scale) = (&codes[block * BLOCK..][..out.len()], self.floats[first / BLOCK + block]);
            match self.format {
                MomentFormat::Signed8 => Signed::decode(out, codes, scale),
                _ => Positive::decode(out, codes, scale),
            }
        }
    }

    /// Rounds `values` into place; `place` is that of the first of them in the whole tensor.
    #[inline(always)]
    pub(super) fn store(&mut self, first: usize, values: &[f32], noise: Noise, place: usize) {
        if self.format == MomentFormat::F32 {
            return self.floats[first..first + values.len()].copy_from_slice(values);
        }
        let codes = &mut self.codes[first..first + values.len()];
        for (block, values) in values.chunks(BLOCK).enumerate() {
            let codes = &mut codes[block * BLOCK..][..values.len()];
            let scale = &mut self.floats[first / BLOCK + block];
            *scale = values.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
            let place = place + block * BLOCK;
            match self.format {
                MomentFormat::Signed8 => Signed::encode(codes, values, *scale, noise, place),
                _ => Positive::encode(codes, values, *scale, noise, place),
            }
        }
    }
}

/// Floats of a few bits: `2^(e - 15 or 31) (1 + f / 8)`, largest `TOP`.
struct Small<const SIGN: bool>;
type Signed = Small<true>;
type Positive = Small<false>;

/// The largest value of both kinds, which the scale of a block stands for.
const TOP: f32 = 1.875;
/// Bits of an f32's fraction that a code does not have.
const DROPPED: u32 = 20;

impl<const SIGN: bool> Small<SIGN> {
    /// Codes without the sign.
    const MOST: u32 = if SIGN { 0x7F } else { 0xFF };
    /// What the upper bits of an f32 have more than its code: the exponent of the largest is that of 1.
    const BIAS: u32 = if SIGN { (127 - 15) << 3 } else { (127 - 31) << 3 };
    /// The value of code 1, or of code 0 where that is not 0.
    const LEAST: f32 = f32::from_bits((Self::BIAS + if SIGN { 1 } else { 0 }) << DROPPED);

    /// Signed, code 0 is 0. Otherwise it is the least value, for a second moment that became 0 would let a first moment
    /// that did not be divided by AdamW's epsilon alone.
    #[inline(always)]
    fn decode(out: &mut [f32], codes: &[u8], scale: f32) {
        let factor = scale / TOP;
        for (out, &code) in out.iter_mut().zip(codes) {
            let code = u32::from(code);
            let magnitude = f32::from_bits(((code & Self::MOST) + Self::BIAS) << DROPPED) * factor;
            let magnitude = if SIGN && code & Self::MOST == 0 { 0.0 } else { magnitude };
            *out = if SIGN && code > Self::MOST { -magnitude } else { magnitude };
        }
    }

    #[inline(always)]
    fn encode(codes: &mut [u8], values: &[f32], scale: f32, noise: Noise, place: usize) {
        let factor = if scale > 0.0 { TOP / scale } else { 0.0 };
        for (i, (code, &value)) in codes.iter_mut().zip(values).enumerate() {
            let (x, random) = (value.abs() * factor, noise.bits(place + i));
            let rounded = (x.to_bits() + (random & ((1 << DROPPED) - 1))) >> DROPPED;
            let share = random as f32 * (1.0 / 4_294_967_296.0);
            let small = u32::from(SIGN && share * Self::LEAST < x);
            let magnitude =
                if x < Self::LEAST { small } else { rounded.wrapping_sub(Self::BIAS).min(Self::MOST) };
            let sign = u32::from(SIGN && value < 0.0) << 7;
            *code = (magnitude | sign) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn rounded(format: MomentFormat, values: &[f32], key: u64) -> Vec<f32> {
        let mut moment = CpuMoment::zeros(values.len(), format);
        moment.chunks_mut(values.len().next_multiple_of(BLOCK))[0].store(0, values, Noise::new(key, 0), 0);
        let mut out = vec![0.0; values.len()];
        moment.chunks_mut(values.len().next_multiple_of(BLOCK))[0].load(0, &mut out);
        out
    }

    /// Numbers over ten powers of two and zeros; 300 of them, so that the last block is a short one.
    fn numbers(sign: bool) -> Vec<f32> {
        let mut random = Random::new(3);
        let mut number = || {
            let x = (random.normal() * (random.uniform() * 7.0).exp2()) as f32;
            if random.below(20) == 0 { 0.0 } else { x }
        };
        (0..300).map(|_| number()).map(|x| if sign { x } else { x * x }).collect()
    }

    #[test]
    fn codes_are_within_an_eighth_and_right_on_average() {
        for (format, sign) in [(MomentFormat::Signed8, true), (MomentFormat::Positive8, false)] {
            let values = numbers(sign);
            let most = values.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
            let least = most / if sign { 16384.0 } else { 1e9 };
            let mut sums = vec![0.0f64; values.len()];
            for key in 0..400 {
                for ((sum, &x), got) in sums.iter_mut().zip(&values).zip(rounded(format, &values, key)) {
                    assert!((got - x).abs() <= x.abs() / 7.9 + least, "{x} became {got}");
                    *sum += f64::from(got);
                }
            }
            // A rounding is off by at most half of an eighth in the root of the mean square: 4 deviations of the mean.
            for (sum, &x) in sums.iter().zip(&values) {
                let error = (sum / 400.0 - f64::from(x)).abs();
                assert!(error <= f64::from(x.abs()) / 80.0 + f64::from(least), "{x} became {}", sum / 400.0);
            }
        }
    }

    #[test]
    fn the_largest_stays_and_a_second_moment_is_never_zero_beside_it() {
        let mut values = [1e-12f32; BLOCK];
        values[5] = 3.0;
        values[6] = 0.0;
        let positive = rounded(MomentFormat::Positive8, &values, 1);
        assert!((positive[5] - 3.0).abs() < 1e-6 && positive[6] > 0.0 && positive[6] < 1e-9, "{positive:?}");
        let signed = rounded(MomentFormat::Signed8, &values, 1);
        assert!((signed[5] - 3.0).abs() < 1e-6 && signed[6] == 0.0, "{signed:?}");
        assert_eq!(rounded(MomentFormat::Positive8, &[0.0; BLOCK], 1), [0.0; BLOCK]);
    }
}
