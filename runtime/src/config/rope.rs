//! Rotary position embedding: by how much each pair of a head turns from one position to the next, and the ways in which
//! models stretch that over a longer context.

use std::f64::consts::PI;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Rotary position embedding: pairs (i, i + head_dim/2), angle = position * theta^(-2i/head_dim).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Context extension, when the model was trained with it.
    pub scaling: Option<Scaling>,
}

/// How the frequencies of a model with a longer context differ from the plain ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scaling {
    /// All divided by this factor (position interpolation, Chen et al., arXiv 2306.15595).
    Linear(f64),
    /// Slow ones divided, fast ones kept, and cos and sin made larger.
    Yarn(Yarn),
    /// Slow ones divided, fast ones kept, by other bounds.
    Llama3(Llama3),
}

/// YaRN context extension (Peng et al., arXiv 2309.00071), with beta 32 and 1 as every known file has them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Yarn {
    /// How many times longer the context became.
    pub factor: f64,
    /// Context before the extension, in tokens.
    pub original_context: usize,
}

/// The extension of Llama 3.1 and later, `rope_type` "llama3" of transformers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Llama3 {
    /// What slow frequencies are divided by.
    pub factor: f64,
    /// Fewer turns than this within the original context are slow.
    pub low_freq_factor: f64,
    /// More turns than this are fast.
    pub high_freq_factor: f64,
    /// Context before the extension, in tokens.
    pub original_context: usize,
}

impl Rope {
    /// Without an extension.
    pub fn plain(theta: f64) -> Self {
        Self { theta, scaling: None }
    }

    /// Angle per position of each pair, `[head_dim / 2]`, in f64, and the factor on cos and sin.
    pub fn frequencies(&self, head_dim: usize) -> (Vec<f64>, f64) {
        let d = head_dim as f64;
        let mut all: Vec<f64> =
            (0..head_dim / 2).map(|i| libm::pow(self.theta, -2.0 * i as f64 / d)).collect();
        match self.scaling {
            None => {}
            Some(Scaling::Linear(factor)) => all.iter_mut().for_each(|f| *f /= factor),
            Some(Scaling::Yarn(yarn)) if yarn.factor <= 1.0 => {}
            Some(Scaling::Yarn(yarn)) => {
                yarn.stretch(&mut all, self.theta);
                return (all, 0.1 * libm::log(yarn.factor) + 1.0);
            }
            Some(Scaling::Llama3(llama3)) => all.iter_mut().for_each(|f| *f /= llama3.divisor(*f)),
        }
        (all, 1.0)
    }

    pub(super) fn is_sensible(&self) -> bool {
        let factor = |factor: f64| factor.is_finite() && factor >= 1.0;
        let scaling = match self.scaling {
            None => true,
            Some(Scaling::Linear(by)) => factor(by),
            Some(Scaling::Yarn(yarn)) => factor(yarn.factor) && yarn.original_context > 0,
            Some(Scaling::Llama3(llama3)) => {
                let (low, high) = (llama3.low_freq_factor, llama3.high_freq_factor);
                let bounds = low > 0.0 && low < high && high.is_finite();
                factor(llama3.factor) && llama3.original_context > 0 && bounds
            }
        };
        self.theta.is_finite() && self.theta > 1.0 && scaling
    }
}

impl Yarn {
    /// arXiv 2309.00071 section 3.2 with `truncate`, as transformers computes it.
    fn stretch(&self, frequencies: &mut [f64], theta: f64) {
        let d = 2.0 * frequencies.len() as f64;
        let correction = |rotations: f64| {
            let l0 = self.original_context as f64;
            d * libm::log(l0 / (2.0 * PI * rotations)) / (2.0 * libm::log(theta))
        };
        let low = correction(32.0).floor().max(0.0);
        let high = correction(1.0).ceil().min(d - 1.0);
        for (i, f) in frequencies.iter_mut().enumerate() {
            let keep = 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            *f = *f / self.factor * (1.0 - keep) + *f * keep;
        }
    }
}

impl Llama3 {
    /// What a frequency is divided by: 1 for a fast one, `factor` for a slow one, and between the bounds so that it is
    /// blended of both (`_compute_llama3_parameters` of transformers; llama.cpp's converter writes these numbers into
    /// `rope_freqs.weight`).
    pub fn divisor(&self, frequency: f64) -> f64 {
        let turns = self.original_context as f64 * frequency / (2.0 * PI);
        let keep = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
        let keep = keep.clamp(0.0, 1.0);
        1.0 / ((1.0 - keep) / self.factor + keep)
    }
}

impl fmt::Display for Scaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linear(factor) => write!(f, "linear scaling x{factor}"),
            Self::Yarn(Yarn { factor, original_context }) => {
                write!(f, "YaRN x{factor} of {original_context}")
            }
            Self::Llama3(Llama3 { factor, original_context, .. }) => {
                write!(f, "Llama 3 scaling x{factor} of {original_context}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yarn_frequencies_match_the_table_of_formats_md() {
        let yarn = Yarn { factor: 4.0, original_context: 8192 };
        let rope = Rope { theta: 1e6, scaling: Some(Scaling::Yarn(yarn)) };
        let (inv, m) = rope.frequencies(128);
        for (i, expected) in [
            (17, 0.0254829675),
            (18, 0.0196292833),
            (25, 0.00293220118),
            (34, 1.62345408e-4),
            (63, 3.1023444e-7),
        ] {
            assert!((inv[i] / expected - 1.0).abs() < 1e-7, "{i}: {} {expected}", inv[i]);
        }
        assert!((m - 1.138629436).abs() < 1e-9);
    }

    /// Computed by transformers 5.24, which does it in f32.
    #[test]
    fn linear_and_llama3_frequencies_match_transformers() {
        let llama3 =
            Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
        let of_llama3 = [
            (1, 0.6636013),
            (14, 0.003211446),
            (15, 0.001290548),
            (16, 0.0004295567),
            (17, 9.708286e-05),
            (18, 1.946164e-05),
            (31, 9.418306e-08),
        ];
        let of_linear = [(0, 0.4), (15, 0.0008524478), (31, 1.205543e-06)];
        for (scaling, expected) in
            [(Scaling::Llama3(llama3), &of_llama3[..]), (Scaling::Linear(2.5), &of_linear[..])]
        {
            let (inv, m) = Rope { theta: 5e5, scaling: Some(scaling) }.frequencies(64);
            assert_eq!(m, 1.0);
            for &(i, expected) in expected {
                assert!((inv[i] / expected - 1.0).abs() < 2e-6, "{scaling}, {i}: {} {expected}", inv[i]);
            }
        }
    }
}
