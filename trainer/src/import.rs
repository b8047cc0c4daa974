//! Latent weights to start from, made of the weights of a trained dense model.
//!
//! Under the rule `absmean`, weights as they come shrink every layer by a third. The same rule starts from a better
//! ternary model when the latents are changed first, once: training goes on under the plain rule.

use bonsai_runtime::ternary::{CODES_PER_BYTE, MAX_GROUP, ScaleRule, project_group, unpack_group};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// How latents are made from dense weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Import {
    /// The weights themselves.
    #[default]
    Plain,
    /// Each group times one factor, so that `absmean` gives the codes and the scale that `refit` gives for the weights.
    Gain,
    /// What exceeds half of the least-squares scale is stretched, so that `absmean` gives the least-squares codes and scale.
    Warp,
}

/// Changes weights, groups of `group` one after another, into latents.
pub fn import(w: &mut [f32], group: usize, how: Import) {
    if how != Import::Plain {
        w.par_chunks_mut(group).for_each(|w| import_group(w, how));
    }
}

/// After it, `mean|w|` is the scale that the rule behind `how` gives, and the weights above half of it are those it keeps.
fn import_group(w: &mut [f32], how: Import) {
    let (mut codes, mut t) = ([0; MAX_GROUP / CODES_PER_BYTE], [0.0; MAX_GROUP]);
    let (codes, t) = (&mut codes[..w.len() / CODES_PER_BYTE], &mut t[..w.len()]);
    let rule = if how == Import::Warp { ScaleRule::LeastSquares } else { ScaleRule::Refit };
    let scale = f64::from(project_group(w, rule, codes).to_f32());
    if scale == 0.0 {
        return;
    }
    unpack_group(codes, 1.0, t);
    let total = scale * w.len() as f64;
    let magnitude = |x: f32| f64::from(x.abs());
    if how == Import::Gain {
        let factor = total / w.iter().map(|&x| magnitude(x)).sum::<f64>();
        w.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
        return;
    }
    let half = scale / 2.0;
    let of = |kept: bool| w.iter().zip(t.iter()).filter(move |(_, t)| (**t != 0.0) == kept).map(|(x, _)| *x);
    let below: f64 = of(false).map(magnitude).sum();
    let above: f64 = of(true).map(|x| magnitude(x) - half).sum();
    let stretch = (total - below - half * of(true).count() as f64) / above.max(1e-30);
    for (x, &t) in w.iter_mut().zip(t.iter()).filter(|(_, t)| **t != 0.0) {
        // A weight just above the threshold stays above it.
        let stretched = (half + (magnitude(*x) - half) * stretch).max(half * (1.0 + 1e-6));
        *x = (f64::from(t) * stretched) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bonsai_runtime::ternary::TernaryMatrix;
    use proptest::prelude::*;

    proptest! {
        /// Codes to the last one; scales to one unit of f16, for the mean of the latents is rounded again.
        #[test]
        fn absmean_then_gives_the_better_projection(w in prop::collection::vec(-0.1f32..0.1, 256)) {
            for (how, rule) in [(Import::Gain, ScaleRule::Refit), (Import::Warp, ScaleRule::LeastSquares)] {
                let expected = TernaryMatrix::project(&w, 2, 128, 128, rule);
                let mut latents = w.clone();
                import(&mut latents, 128, how);
                let found = TernaryMatrix::project(&latents, 2, 128, 128, ScaleRule::Absmean);
                // Under the gain the threshold is half of another scale: the codes are those of absmean, as refit's are.
                prop_assert_eq!(&found.codes, &expected.codes, "{:?}", how);
                for (a, b) in found.scales.iter().zip(&expected.scales) {
                    prop_assert!(a.to_bits().abs_diff(b.to_bits()) <= 1, "{:?} {} {}", how, a, b);
                }
            }
        }
    }

    #[test]
    fn zeros_and_ternary_weights_are_imported_too() {
        let mut zeros = [0.0; 128];
        import(&mut zeros, 128, Import::Warp);
        assert_eq!(zeros, [0.0; 128]);
        let ternary: Vec<f32> = (0..128).map(|i| [0.5, 0.0, -0.5][i % 3]).collect();
        for how in [Import::Gain, Import::Warp] {
            let mut latents = ternary.clone();
            import(&mut latents, 128, how);
            assert_eq!(TernaryMatrix::project(&latents, 1, 128, 128, ScaleRule::Absmean).to_f32(), ternary);
        }
    }
}
