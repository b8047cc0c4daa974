//! A model's parameters, their gradients and the optimizer's moments, named by `Config::tensors()`.

use bonsai_runtime::config::{Config, Kind, TensorSpec};

use crate::backend::{Backend, Projection};
use crate::formats::{Latents, MomentFormat};
use crate::random::Random;

/// One tensor and all that training keeps beside it.
pub struct Param<B: Backend> {
    /// Its row in the table of tensors.
    pub spec: TensorSpec,
    /// Latent weights and their projection.
    pub value: B::Matrix,
    /// Gradient of the latent weights, same shape. `None` before the first backward pass, and between passes when the
    /// optimizer runs inside of them; zero when it is `Some` and nobody has added to it.
    pub grad: Option<B::Buffer>,
    /// Optimizer state, each of the same shape: m and v of AdamW, or the momentum of Muon.
    pub moments: Vec<B::Moment>,
}

/// Everything that an optimizer step changes.
pub struct Params<B: Backend> {
    /// Shape of the model.
    pub config: Config,
    /// In the order of `config.tensors()`.
    pub list: Vec<Param<B>>,
    /// Gradients, all zero, that no parameter holds at the moment.
    spare: Vec<(usize, B::Buffer)>,
}

/// The parameters of one layer, by the places that they have in the list.
#[derive(Clone, Copy)]
pub struct LayerIndex {
    /// Gain before attention, then the three projections.
    pub attn_norm: usize,
    /// Query projection.
    pub q: usize,
    /// Key projection.
    pub k: usize,
    /// Value projection.
    pub v: usize,
    /// Gains of the per-head norms on q and k, when the model has them.
    pub qk_norm: Option<[usize; 2]>,
    /// Output projection.
    pub o: usize,
    /// Gain before the feed-forward layer.
    pub ffn_norm: usize,
    /// Gate projection.
    pub gate: usize,
    /// Up projection.
    pub up: usize,
    /// Down projection.
    pub down: usize,
}

/// Place of the embedding in the list.
pub const EMBED: usize = 0;

impl<B: Backend> Params<B> {
    /// Parameters from latent weights. `projection` says how a tensor is rounded, which norms never are; `moments` which
    /// optimizer state it needs.
    pub fn new<L: Into<Latents>>(
        backend: &B,
        config: &Config,
        projection: impl Fn(&TensorSpec) -> Option<Projection>,
        moments: impl Fn(&TensorSpec) -> &'static [MomentFormat],
        mut latent: impl FnMut(usize, &TensorSpec) -> L,
    ) -> Self {
        let make = |(index, spec): (usize, TensorSpec)| {
            let projection = projection(&spec).filter(|_| spec.kind != Kind::Norm);
            let value = backend.matrix(spec.rows, spec.cols, latent(index, &spec), projection);
            let moment = |&format: &MomentFormat| backend.moment(spec.len(), format);
            Param { value, grad: None, moments: moments(&spec).iter().map(moment).collect(), spec }
        };
        let list = config.tensors().into_iter().enumerate().map(make).collect();
        Self { config: config.clone(), list, spare: Vec::new() }
    }

    /// A parameter and its gradient, which is a spare one or a new one where it had none.
    pub fn value_and_grad(&mut self, backend: &B, index: usize) -> (&B::Matrix, &mut B::Buffer) {
        let param = &mut self.list[index];
        let len = param.spec.len();
        let grad = param.grad.get_or_insert_with(|| match self.spare.iter().position(|(n, _)| *n == len) {
            Some(at) => self.spare.swap_remove(at).1,
            None => backend.buffer(len),
        });
        (&param.value, grad)
    }

    /// Takes a gradient, which must be zero, away from its parameter: the next one of the same size will use it.
    pub fn release_grad(&mut self, index: usize) {
        let param = &mut self.list[index];
        self.spare.extend(param.grad.take().map(|grad| (param.spec.len(), grad)));
    }

    /// Numbers of all gradients that are allocated: the forecast's test asks.
    pub fn gradient_numbers(&self) -> usize {
        let held = self.list.iter().filter(|param| param.grad.is_some()).map(|param| param.spec.len());
        held.sum::<usize>() + self.spare.iter().map(|(len, _)| len).sum::<usize>()
    }

    /// Places of layer `n`'s parameters.
    pub fn layer(&self, n: usize) -> LayerIndex {
        let qk = self.config.qk_norm_eps.is_some();
        let first = 1 + n * if qk { 11 } else { 9 };
        let after = first + if qk { 6 } else { 4 };
        LayerIndex {
            attn_norm: first,
            q: first + 1,
            k: first + 2,
            v: first + 3,
            qk_norm: qk.then_some([first + 4, first + 5]),
            o: after,
            ffn_norm: after + 1,
            gate: after + 2,
            up: after + 3,
            down: after + 4,
        }
    }

    /// Place of the final norm.
    pub fn final_norm(&self) -> usize {
        self.list.len() - if self.config.tied { 1 } else { 2 }
    }

    /// Place of the head: the embedding when tied.
    pub fn head(&self) -> usize {
        if self.config.tied { EMBED } else { self.list.len() - 1 }
    }
}

/// Weights of a model that nobody trained: N(0, 0.02), the matrices that write to the residual stream smaller by
/// 1/sqrt(2 layers) (Radford et al. 2019), gains 1. Each tensor has a stream of its own, so the order of making them
/// does not matter.
pub fn scratch(config: &Config, seed: u64, index: usize, spec: &TensorSpec) -> Vec<f32> {
    if spec.kind == Kind::Norm {
        return vec![1.0; spec.len()];
    }
    let into_residual = spec.name.contains("o_proj") || spec.name.contains("down_proj");
    let std = if into_residual { 0.02 / (2.0 * config.layers as f64).sqrt() } else { 0.02 };
    let mut random = Random::stream(seed, index as u64);
    (0..spec.len()).map(|_| (random.normal() * std) as f32).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::config::preset;

    /// One stream that all tensors begin at places of their own would give each of them its neighbour's numbers.
    #[test]
    fn no_two_tensors_begin_with_the_same_numbers() {
        let config = preset("1m", 300, 64).unwrap();
        for seed in 0..3 {
            let mut seen = HashSet::new();
            for (index, spec) in
                config.tensors().iter().enumerate().filter(|(_, spec)| spec.kind != Kind::Norm)
            {
                let weights = scratch(&config, seed, index, spec);
                let begin: HashSet<u32> = weights[..1000].iter().map(|w| w.to_bits()).collect();
                let shared = begin.intersection(&seen).count();
                assert!(
                    shared < 10,
                    "seed {seed}: {shared} of 1000 weights of {} were there before",
                    spec.name
                );
                seen.extend(begin);
            }
        }
    }
}
