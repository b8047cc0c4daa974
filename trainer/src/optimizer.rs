//! The optimizer: which rule updates which tensor, and with which constants.

use bonsai_runtime::config::{Kind, TensorSpec};

use crate::backend::{AdamW, Backend, Clip, Muon, clip_factor};
use crate::config::{OptimizerKind, RunConfig};
use crate::corpus::fnv1a;
use crate::formats::{MomentFormat, StateFormat};
use crate::params::Param;
use crate::random::mix;

/// The constants of a run's optimizer.
#[derive(Debug, Clone, Copy)]
pub struct Optimizer {
    kind: OptimizerKind,
    adamw: AdamW,
    muon: Muon,
    clip: f64,
    state: StateFormat,
    seed: u64,
}

impl Optimizer {
    /// The optimizer of a run.
    pub fn new(c: &RunConfig) -> Self {
        let (weight_decay, clip) = (c.weight_decay, Clip::Factor(1.0));
        let (lr, beta1, beta2, eps) = (c.peak_lr() as f32, c.beta1, c.beta2, c.eps);
        let adamw = AdamW { lr, beta1, beta2, eps, weight_decay, t: 0, clip, noise: 0 };
        let (momentum, iterations) = (c.muon_momentum, c.muon_iterations);
        let muon = Muon { lr: c.muon_lr as f32, momentum, iterations, weight_decay, clip, noise: 0 };
        Self { kind: c.optimizer, adamw, muon, clip: c.clip, state: c.optimizer_state, seed: c.seed }
    }

    /// True when Muon updates this tensor.
    pub fn uses_muon(&self, spec: &TensorSpec) -> bool {
        self.kind == OptimizerKind::Muon && spec.kind == Kind::Linear
    }

    /// Names of the moments that this tensor needs: the keys of `optimizer.safetensors` begin with them.
    pub fn names(&self, spec: &TensorSpec) -> &'static [&'static str] {
        if self.uses_muon(spec) { &["momentum"] } else { &["m", "v"] }
    }

    /// How they are held.
    pub fn moments(&self, spec: &TensorSpec) -> &'static [MomentFormat] {
        use MomentFormat::{F32, Positive8, Signed8};
        let state = if spec.kind == Kind::Norm { StateFormat::F32 } else { self.state };
        match (state, self.uses_muon(spec)) {
            (StateFormat::F32, true) => &[F32],
            (StateFormat::F32, false) => &[F32, F32],
            (StateFormat::Bits8, true) => &[Signed8],
            (StateFormat::Bits8, false) => &[Signed8, Positive8],
        }
    }

    /// Key of the random bits of update `t` of a tensor.
    fn noise(&self, spec: &TensorSpec, t: u64) -> u64 {
        mix(mix(self.seed ^ mix(t)) ^ fnv1a(spec.name.as_bytes()))
    }

    /// Clipping where the norm of all gradients is known.
    pub fn clip(&self, norm: f64) -> Clip {
        Clip::Factor(clip_factor(self.clip, norm))
    }

    /// Clipping of each tensor by itself.
    pub fn clip_each(&self) -> Clip {
        Clip::Own(self.clip)
    }

    /// One update of one parameter. `t` counts updates from 1; `factor` is the schedule's.
    /// The gradient is zero afterwards; a parameter without one stays as it is.
    pub fn update<B: Backend>(&self, b: &mut B, param: &mut Param<B>, t: u64, factor: f64, clip: Clip) {
        let factor = factor as f32;
        let Some(grad) = &mut param.grad else { return };
        let (value, moments, noise) = (&mut param.value, &mut param.moments, self.noise(&param.spec, t));
        if self.uses_muon(&param.spec) {
            return b.muon(
                value,
                grad,
                moments,
                Muon { lr: self.muon.lr * factor, clip, noise, ..self.muon },
            );
        }
        let weight_decay = if param.spec.kind == Kind::Norm { 0.0 } else { self.adamw.weight_decay };
        let step = AdamW { lr: self.adamw.lr * factor, t, clip, weight_decay, noise, ..self.adamw };
        b.adamw(value, grad, moments, step)
    }
}
