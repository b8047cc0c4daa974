//! The only source of chance in the trainer: SplitMix64.
//!
//! `state += 0x9E3779B97F4A7C15; output = mix(state)`. Stable for ever: a seed gives the same numbers on every
//! system and in every later version, because runs are resumed and compared by their seeds. That is why the
//! logarithm and the cosine of [`Random::normal`] come from Rust code and not from the system's C library.

/// A stream of pseudo-random numbers; not for secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Random {
    state: u64,
}

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// A bijection of the 64-bit numbers that leaves no trace of their order.
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

impl Random {
    /// The stream that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Stream number `index` of `seed`: one for each document, tensor or epoch, so that any of them can be made
    /// without the ones before it.
    pub fn stream(seed: u64, index: u64) -> Self {
        Self { state: mix(mix(seed.wrapping_add(STEP)) ^ mix(index.wrapping_mul(STEP).wrapping_add(1))) }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }

    /// A number in `0..n`, off from even by less than n / 2^64. Panics for `n == 0`.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "below(0) has no answer");
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// A number in `[0, 1)` with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number from the normal distribution with mean 0 and deviation 1 (Box-Muller; always two draws).
    pub fn normal(&mut self) -> f64 {
        let radius = 1.0 - self.uniform(); // in (0, 1]: its logarithm is finite
        let angle = std::f64::consts::TAU * self.uniform();
        (-2.0 * libm::log(radius)).sqrt() * libm::cos(angle)
    }

    /// Puts `items` in random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_never_change() {
        // The reference outputs of SplitMix64 for seed 1234567.
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(random.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn normal_has_mean_0_and_deviation_1() {
        let mut random = Random::new(5);
        let draws: Vec<f64> = (0..100_000).map(|_| random.normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    #[test]
    fn shuffle_keeps_all_items_and_below_stays_below() {
        let mut random = Random::new(9);
        let mut items: Vec<usize> = (0..100).collect();
        random.shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
        assert!((0..1000).all(|_| random.below(7) < 7 && (0.0..1.0).contains(&random.uniform())));
    }
}
