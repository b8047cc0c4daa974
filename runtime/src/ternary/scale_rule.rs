//! How the scale of a group, and the threshold below which its weights become zero, follow from its weights.

use half::f16;
use serde::{Deserialize, Serialize};

use super::MAX_GROUP;

/// How the scale `s` of a group follows from its weights, and which of them become zero.
///
/// All but [`ScaleRule::Absmean`] are idempotent: projecting what was projected changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRule {
    /// `s = mean|w|`, zero where `|w| <= s / 2`: BitNet b1.58 (arXiv 2402.17764), per group.
    #[default]
    Absmean,
    /// The same zeros; `s` = mean of the `|w|` that survive: smaller error, keeps a layer's energy.
    Refit,
    /// Zero where `|w| <= 0.7 mean|w|`, `s` = mean of the rest: ternary weight networks (Li et al., arXiv 1605.04711).
    Twn,
    /// The `s` and zeros that make `sum (w - s t)^2` smallest; they are found exactly, by sorting `|w|`.
    LeastSquares,
    /// `s = max|w|`, zero where `|w| <= s / 2`: for weights that are ternary already, and sparse from scratch.
    Absmax,
}

impl ScaleRule {
    /// Every rule.
    pub const ALL: [Self; 5] = [Self::Absmean, Self::Refit, Self::Twn, Self::LeastSquares, Self::Absmax];

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Absmean => "absmean",
            Self::Refit => "refit",
            Self::Twn => "twn",
            Self::LeastSquares => "least_squares",
            Self::Absmax => "absmax",
        }
    }
}

impl std::str::FromStr for ScaleRule {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(" ");
        let unknown = || format!("unknown scale rule '{name}': expected one of {names}");
        Self::ALL.into_iter().find(|rule| rule.name() == name).ok_or_else(unknown)
    }
}

/// The scale of a group, and the magnitude up to which its weights are zero: infinite when the scale rounds to zero.
#[inline(always)]
pub(super) fn scale_and_threshold(w: &[f32], rule: ScaleRule) -> (f16, f32) {
    let (scale, threshold) = match rule {
        ScaleRule::Absmean => halved(mean(w)),
        ScaleRule::Absmax => halved(w.iter().fold(0.0, |max, x| max.max(x.abs()))),
        ScaleRule::LeastSquares => halved(least_squares(w)),
        ScaleRule::Refit => kept_mean(w, 0.5 * mean(w)),
        ScaleRule::Twn => kept_mean(w, 0.7 * mean(w)),
    };
    let scale = if scale.is_finite() { scale } else { f16::MAX };
    (scale, if scale == f16::ZERO { f32::INFINITY } else { threshold })
}

/// A scale in f16, and half of it.
#[inline(always)]
fn halved(scale: f32) -> (f16, f32) {
    let scale = f16::from_f32(scale);
    (scale, 0.5 * scale.to_f32())
}

#[inline(always)]
fn mean(w: &[f32]) -> f32 {
    (sum(w, |x| x.abs()) / w.len() as f64) as f32
}

/// The mean magnitude of the weights above a threshold, and the threshold.
#[inline(always)]
fn kept_mean(w: &[f32], threshold: f32) -> (f16, f32) {
    let kept = sum(w, |x| if x.abs() > threshold { 1.0 } else { 0.0 });
    let total = sum(w, |x| if x.abs() > threshold { x.abs() } else { 0.0 });
    (f16::from_f32((total / kept.max(1.0)) as f32), threshold)
}

/// With the k largest magnitudes kept, the best scale is their mean `c / k` and the error falls by `c^2 / k`, `c` their
/// sum: the k for which that is most. There the zeros are exactly the weights below half of the scale.
fn least_squares(w: &[f32]) -> f32 {
    let mut room = [0.0f32; MAX_GROUP];
    let sorted = &mut room[..w.len()];
    sorted.iter_mut().zip(w).for_each(|(out, x)| *out = x.abs());
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let (mut total, mut most, mut best) = (0.0f64, -1.0, 0.0);
    for (i, &x) in sorted.iter().enumerate() {
        let k = (i + 1) as f64;
        total += f64::from(x);
        if total * total / k > most {
            (most, best) = (total * total / k, total / k);
        }
    }
    best as f32
}

/// Sums `f(w)` in f64 in eight fixed lanes, so that every machine gets the same bits.
#[inline(always)]
fn sum(w: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let mut lanes = [0.0f64; 8];
    for eight in w.as_chunks::<8>().0 {
        for (lane, &x) in lanes.iter_mut().zip(eight) {
            *lane += f64::from(f(x));
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ternary::TernaryMatrix;
    use proptest::prelude::*;

    fn squared_error(w: &[f32], scale: f32, threshold: f32) -> f64 {
        let t = |x: f32| if x.abs() > threshold { x.signum() * scale } else { 0.0 };
        w.iter().map(|&x| f64::from(x - t(x)).powi(2)).sum()
    }

    proptest! {
        #[test]
        fn all_but_absmean_are_idempotent(w in prop::collection::vec(-0.1f32..0.1, 128)) {
            for rule in ScaleRule::ALL.into_iter().filter(|&rule| rule != ScaleRule::Absmean) {
                let once = TernaryMatrix::project(&w, 1, 128, 128, rule);
                let twice = TernaryMatrix::project(&once.to_f32(), 1, 128, 128, rule);
                prop_assert_eq!(once, twice, "{:?}", rule);
            }
        }

        /// 0.1%: the scale is rounded to f16, whose relative error is at most 2^-11.
        #[test]
        fn least_squares_is_no_worse_than_any_threshold_or_rule(w in prop::collection::vec(-0.1f32..0.1, 128)) {
            let (scale, threshold) = scale_and_threshold(&w, ScaleRule::LeastSquares);
            let ours = squared_error(&w, scale.to_f32(), threshold);
            for x in &w {
                let (scale, threshold) = kept_mean(&w, x.abs());
                prop_assert!(ours <= 1.001 * squared_error(&w, scale.to_f32(), threshold));
            }
            for rule in ScaleRule::ALL {
                let (scale, threshold) = scale_and_threshold(&w, rule);
                prop_assert!(ours <= 1.001 * squared_error(&w, scale.to_f32(), threshold), "{:?}", rule);
            }
        }
    }

    #[test]
    fn rules_by_hand() {
        // mean 2.5, so absmean and refit zero what is up to 1.25; twn up to 1.75; absmax up to 3.
        let w = [1.0, -1.0, 1.5, 1.5, -2.0, 3.0, 4.0, -6.0];
        let kept = |rule| {
            let (scale, threshold) = scale_and_threshold(&w, rule);
            (scale.to_f32(), w.iter().filter(|x| x.abs() > threshold).count())
        };
        assert_eq!(kept(ScaleRule::Absmean), (2.5, 6));
        assert_eq!(kept(ScaleRule::Refit), (3.0, 6));
        assert_eq!(kept(ScaleRule::Twn), (3.75, 4));
        // c^2 / k for k = 1.. is 36, 50, 56.33, 56.25, ...: three are kept.
        assert_eq!(kept(ScaleRule::LeastSquares), (f16::from_f32(13.0 / 3.0).to_f32(), 3));
        assert_eq!(kept(ScaleRule::Absmax), (6.0, 2));
    }

    #[test]
    fn names_read_back() {
        for rule in ScaleRule::ALL {
            assert_eq!(rule.name().parse(), Ok(rule));
            assert_eq!(serde_json::to_value(rule).unwrap(), rule.name());
        }
        assert!("median".parse::<ScaleRule>().unwrap_err().contains("least_squares"));
    }
}
