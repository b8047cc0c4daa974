//! Seeded chance, the same on every machine.

/// SplitMix64: a counter and a mixer. Small, and good enough for sampling and made-up weights.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Roughly normal, with deviation 1: the sum of four uniform numbers.
    pub fn normal(&mut self) -> f32 {
        let sum: f64 = (0..4).map(|_| self.uniform() - 0.5).sum();
        (sum * 3f64.sqrt()) as f32
    }

    /// `n` of them.
    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }

    /// `n` token ids.
    pub fn ids(&mut self, n: usize, vocab: usize) -> Vec<u32> {
        (0..n).map(|_| (self.bits() % vocab as u64) as u32).collect()
    }
}
