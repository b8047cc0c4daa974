//! One optimizer step over all parameters: which rule updates which tensor, and with which constants.

use bonsai_runtime::config::{Kind, TensorSpec};

use crate::backend::{AdamW, Backend, Codes, Muon};
use crate::config::{OptimizerKind, RunConfig};
use crate::params::Params;

/// The constants of a run's optimizer.
#[derive(Debug, Clone, Copy)]
pub struct Optimizer {
    kind: OptimizerKind,
    adamw: AdamW,
    muon: Muon,
    clip: f64,
}

impl Optimizer {
    /// The optimizer of a run.
    pub fn new(c: &RunConfig) -> Self {
        let (weight_decay, grad_scale) = (c.weight_decay, 1.0);
        let (lr, beta1, beta2, eps) = (c.peak_lr() as f32, c.beta1, c.beta2, c.eps);
        let adamw = AdamW { lr, beta1, beta2, eps, weight_decay, t: 0, grad_scale };
        let (momentum, iterations) = (c.muon_momentum, c.muon_iterations);
        let muon = Muon { lr: c.muon_lr as f32, momentum, iterations, weight_decay, grad_scale };
        Self { kind: c.optimizer, adamw, muon, clip: c.clip }
    }

    /// True when Muon updates this tensor.
    pub fn uses_muon(&self, spec: &TensorSpec) -> bool {
        self.kind == OptimizerKind::Muon && spec.kind == Kind::Linear
    }

    /// Names of the buffers that this tensor needs: the keys of `optimizer.safetensors` begin with them.
    pub fn moments(&self, spec: &TensorSpec) -> &'static [&'static str] {
        if self.uses_muon(spec) { &["momentum"] } else { &["m", "v"] }
    }

    /// Factor on the gradient whose norm over all parameters is `norm`, so that it ends at most at the clip
    /// (`torch.nn.utils.clip_grad_norm_`).
    pub fn grad_scale(&self, norm: f64) -> f32 {
        if self.clip > 0.0 { (self.clip / (norm + 1e-6)).min(1.0) as f32 } else { 1.0 }
    }

    /// Updates every parameter. `t` counts updates from 1; `factor` is the schedule's; `grad_scale` the clipping's.
    /// Every gradient is zero afterwards.
    pub fn update<B: Backend>(
        &self,
        b: &mut B,
        p: &mut Params<B>,
        t: u64,
        factor: f64,
        grad_scale: f32,
    ) -> Codes {
        let factor = factor as f32;
        let adamw = AdamW { lr: self.adamw.lr * factor, t, grad_scale, ..self.adamw };
        let muon = Muon { lr: self.muon.lr * factor, grad_scale, ..self.muon };
        let update = |param: &mut crate::params::Param<B>| {
            let (value, grad, moments) = (&mut param.value, &mut param.grad, &mut param.moments);
            if self.uses_muon(&param.spec) {
                return b.muon(value, grad, moments, muon);
            }
            let weight_decay = if param.spec.kind == Kind::Norm { 0.0 } else { adamw.weight_decay };
            b.adamw(value, grad, moments, AdamW { weight_decay, ..adamw })
        };
        p.list.iter_mut().map(update).sum()
    }
}
