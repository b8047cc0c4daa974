//! What a training step does to the weights, by kind of layer: zeros, flips, scales, the way that weights went.
//!
//! Counts and gradient norms are summed by the step itself; what needs the weights is read from a sample of them, at
//! validations only, so that no operation of a backend has to know about it.

use std::collections::BTreeMap;

use bonsai_runtime::config::{Kind, TensorSpec};
use bonsai_runtime::ternary::{CODES_PER_BYTE, TernaryMatrix};
use serde::Serialize;

use crate::backend::{Backend, Codes};
use crate::error::Result;
use crate::params::{Param, Params};

/// Weights of a tensor that are followed.
const SAMPLE: usize = 1 << 14;

/// What steps did to one tensor since the last report.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Codes after each update, summed.
    pub codes: Codes,
    /// Squared gradient norms before clipping, summed.
    pub squares: f64,
    /// Steps that counted.
    pub steps: u64,
}

impl Tally {
    /// Counts one step. A gradient that is no number is left out.
    pub fn add(&mut self, codes: Codes, squares: f64) {
        self.codes = self.codes + codes;
        if squares.is_finite() {
            self.squares += squares;
            self.steps += 1;
        }
    }
}

/// The report on one kind of layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Layer {
    /// Share of the weights that are zero, mean over the steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero_fraction: Option<f64>,
    /// Share of the weights that changed their code in a step, mean over the steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flip_rate: Option<f64>,
    /// Share of the weights whose code is another than before the first step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<f64>,
    /// Mean scale of the groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Root mean square of the way that latent weights went since the last report, in units of the mean scale.
    #[serde(rename = "move", skip_serializing_if = "Option::is_none")]
    pub moved: Option<f64>,
    /// Root mean square over the steps of the gradient's norm, before clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
}

/// The kind of a tensor, as reports call it.
pub fn kind(spec: &TensorSpec) -> &'static str {
    const LINEAR: [&str; 7] = ["q", "k", "v", "o", "gate", "up", "down"];
    match spec.kind {
        Kind::Embedding => "embed",
        Kind::Head => "head",
        Kind::Norm => "norm",
        Kind::Linear => {
            let is = |name: &&&str| spec.name.contains(&format!(".{name}_proj."));
            LINEAR.iter().find(is).copied().unwrap_or("linear")
        }
    }
}

/// A sample of one tensor's latents and codes.
struct Sample {
    latents: Vec<f32>,
    codes: Vec<u8>,
}

/// Follows the weights of a run from report to report.
pub struct Diagnostics {
    /// From the last report.
    last: Vec<Sample>,
    /// Codes before the first step; `None` when this process did not see them.
    first: Option<Vec<Vec<u8>>>,
}

impl Diagnostics {
    /// Begins to follow; `fresh` when no step was taken yet.
    pub fn new<B: Backend>(b: &B, p: &Params<B>, fresh: bool) -> Result<Self> {
        let last = samples(b, p)?;
        let first = fresh.then(|| last.iter().map(|sample| sample.codes.clone()).collect());
        Ok(Self { last, first })
    }

    /// The report on each kind of layer since the last one. `tallies` follow the order of the parameters.
    pub fn report<B: Backend>(
        &mut self,
        b: &B,
        p: &Params<B>,
        tallies: &[Tally],
    ) -> Result<BTreeMap<&'static str, Layer>> {
        let now = samples(b, p)?;
        let mut sums: BTreeMap<&'static str, Sums> = BTreeMap::new();
        for (i, param) in p.list.iter().enumerate() {
            let sums = sums.entry(kind(&param.spec)).or_default();
            sums.tally(&tallies[i]);
            sums.way(&self.last[i].latents, &now[i].latents, param.spec.len());
            if let Some(ternary) = b.ternary(&param.value)? {
                sums.scale += ternary.scales.iter().map(|s| f64::from(s.to_f32())).sum::<f64>();
                sums.groups += ternary.scales.len();
            }
            if let Some(first) = &self.first {
                sums.changed += first[i].iter().zip(&now[i].codes).filter(|(a, b)| a != b).count();
                sums.compared += now[i].codes.len();
            }
        }
        self.last = now;
        Ok(sums.into_iter().map(|(kind, sums)| (kind, sums.layer())).collect())
    }
}

/// Mean scale of a model's groups; `None` when nothing is ternary.
pub fn mean_scale<B: Backend>(b: &B, p: &Params<B>) -> Result<Option<f64>> {
    let (mut sum, mut groups) = (0.0, 0);
    for param in p.list.iter().filter(|param| param.spec.kind == Kind::Linear) {
        let Some(ternary) = b.ternary(&param.value)? else { continue };
        sum += ternary.scales.iter().map(|s| f64::from(s.to_f32())).sum::<f64>();
        groups += ternary.scales.len();
    }
    Ok((groups > 0).then(|| sum / groups as f64))
}

/// The share of codes that a random walk of `way` scales (root mean square) changes in normally distributed weights under
/// the rule absmean: interpolated in a table that was computed once (docs/training.md).
pub fn expected_change(way: f64) -> f64 {
    const TABLE: [(f64, f64); 11] = [
        (0.0, 0.0),
        (0.05, 0.023),
        (0.1, 0.047),
        (0.15, 0.070),
        (0.2, 0.093),
        (0.25, 0.116),
        (0.3, 0.138),
        (0.4, 0.18),
        (0.5, 0.22),
        (0.7, 0.29),
        (1.0, 0.37),
    ];
    let after = TABLE.partition_point(|&(x, _)| x < way).clamp(1, TABLE.len() - 1);
    let ((x0, y0), (x1, y1)) = (TABLE[after - 1], TABLE[after]);
    (y0 + (y1 - y0) * (way - x0) / (x1 - x0)).min(0.5)
}

#[derive(Default)]
struct Sums {
    codes: Codes,
    squares: f64,
    steps: u64,
    way: f64,
    weights: f64,
    scale: f64,
    groups: usize,
    changed: usize,
    compared: usize,
}

impl Sums {
    fn tally(&mut self, tally: &Tally) {
        self.codes = self.codes + tally.codes;
        self.squares += tally.squares;
        self.steps = self.steps.max(tally.steps);
    }

    /// A sample stands for all `len` weights of its tensor.
    fn way(&mut self, old: &[f32], new: &[f32], len: usize) {
        let squares: f64 = old.iter().zip(new).map(|(a, b)| f64::from(b - a).powi(2)).sum();
        self.way += squares * len as f64 / new.len() as f64;
        self.weights += len as f64;
    }

    fn layer(self) -> Layer {
        let share = |n: u64| (self.codes.total > 0).then(|| n as f64 / self.codes.total as f64);
        let scale = (self.groups > 0).then(|| self.scale / self.groups as f64);
        let moved = scale.filter(|s| *s > 0.0).map(|scale| (self.way / self.weights).sqrt() / scale);
        Layer {
            zero_fraction: share(self.codes.zeros),
            flip_rate: share(self.codes.flips),
            changed: (self.compared > 0).then(|| self.changed as f64 / self.compared as f64),
            scale,
            moved,
            grad_norm: (self.steps > 0).then(|| (self.squares / self.steps as f64).sqrt()),
        }
    }
}

fn samples<B: Backend>(b: &B, p: &Params<B>) -> Result<Vec<Sample>> {
    let sample = |param: &Param<B>| {
        // Odd, so that all places within a group are met.
        let stride = (param.spec.len() / SAMPLE).max(1) | 1;
        let latents = b.latent(&param.value)?.iter().step_by(stride).copied().collect();
        let ternary = b.ternary(&param.value)?;
        let codes = ternary.map_or(Vec::new(), |ternary| codes(&ternary, stride));
        Ok(Sample { latents, codes })
    };
    p.list.iter().map(sample).collect()
}

fn codes(ternary: &TernaryMatrix, stride: usize) -> Vec<u8> {
    let code = |i: usize| (ternary.codes[i / CODES_PER_BYTE] >> (2 * (i % CODES_PER_BYTE))) & 3;
    (0..ternary.rows * ternary.cols).step_by(stride).map(code).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::preset;
    use crate::random::Random;
    use bonsai_runtime::ternary::ScaleRule;

    #[test]
    fn every_tensor_has_its_kind() {
        let config = preset("1m", 64, 64).unwrap();
        let mut kinds: Vec<_> = config.tensors().iter().map(kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds, ["down", "embed", "gate", "k", "norm", "o", "q", "up", "v"]);
    }

    /// The table against a simulation: normally distributed weights, moved by noise. One point in a hundred.
    #[test]
    fn expected_change_is_that_of_a_random_walk() {
        let mut random = Random::new(1);
        let normals: Vec<f32> = (0..128 * 400).map(|_| random.normal() as f32).collect();
        let project = |w: &[f32]| TernaryMatrix::project(w, 400, 128, 128, ScaleRule::Absmean);
        let before = project(&normals);
        let scale = (2.0 / std::f64::consts::PI).sqrt();
        for way in [0.05, 0.15, 0.3, 0.7] {
            let moved: Vec<f32> =
                normals.iter().map(|w| w + (random.normal() * way * scale) as f32).collect();
            let flips = bonsai_runtime::ternary::count_flips(&before.codes, &project(&moved).codes);
            let found = flips as f64 / normals.len() as f64;
            assert!((found - expected_change(way)).abs() < 0.01, "{way}: {found}");
        }
    }
}
