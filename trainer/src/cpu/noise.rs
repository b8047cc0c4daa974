//! Chance for stochastic rounding: a function of a key and of a number's place, so that neither threads nor the order of
//! work change it (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

use half::bf16;

use crate::random::mix;

/// The random bits of one tensor in one update.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noise([u32; 2]);

impl Noise {
    /// Stream number `stream` of a key.
    pub(super) fn new(key: u64, stream: u64) -> Self {
        let key = mix(key ^ mix(stream + 1));
        Self([key as u32, (key >> 32) as u32])
    }

    /// 32 bits for the number at `index`: the finalizer of MurmurHash3 with a key before and in the middle. In tensors of
    /// more than 2^32 numbers they begin again.
    #[inline(always)]
    pub(super) fn bits(self, index: usize) -> u32 {
        let Self([first, second]) = self;
        let mut h = (index as u32).wrapping_mul(0x9E37_79B9) ^ first;
        h = (h ^ (h >> 16)).wrapping_mul(0x85EB_CA6B).wrapping_add(second);
        h = (h ^ (h >> 13)).wrapping_mul(0xC2B2_AE35);
        h ^ (h >> 16)
    }
}

/// One of the two bf16 beside a finite `x`, the nearer one more often: the mean over all `random` is `x` (Gupta et al., arXiv
/// 1502.02551).
#[inline(always)]
pub(super) fn round_bf16(x: f32, random: u32) -> bf16 {
    bf16::from_bits((x.to_bits().wrapping_add(random & 0xFFFF) >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits are even, and neighbours, keys and streams differ: the deviation of a mean of 2^16 bits is 1/512.
    #[test]
    fn bits_are_even_and_keys_are_independent() {
        let n = 1 << 16;
        let ones = |f: &dyn Fn(usize) -> u32, bit: u32| {
            (0..n).filter(|&i| f(i) >> bit & 1 == 1).count() as f64 / n as f64
        };
        let noise = Noise::new(7, 0);
        let others = [Noise::new(8, 0), Noise::new(7, 1)];
        for bit in 0..32 {
            assert!((ones(&|i| noise.bits(i), bit) - 0.5).abs() < 0.01);
            assert!((ones(&|i| noise.bits(i) ^ noise.bits(i + 1), bit) - 0.5).abs() < 0.01);
            for other in others {
                assert!((ones(&|i| noise.bits(i) ^ other.bits(i), bit) - 0.5).abs() < 0.01);
            }
        }
    }

    #[test]
    fn rounding_keeps_the_mean() {
        let noise = Noise::new(1, 2);
        for x in [1.0f32, 1.001, -0.3, 3e-5, 0.0] {
            let n = 1 << 16;
            let mean =
                (0..n).map(|i| round_bf16(x, noise.bits(i)).to_f64()).sum::<f64>() / f64::from(n as u32);
            // Neighbours are x / 128 apart at most: four deviations of the mean.
            assert!((mean - f64::from(x)).abs() <= f64::from(x.abs()) / 128.0 / 128.0, "{x}: {mean}");
        }
        assert_eq!(round_bf16(1.5, u32::MAX), bf16::from_f32(1.5), "what bf16 can hold stays");
    }
}
