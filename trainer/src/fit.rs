//! Memory forecast: what a run will hold at its peak, before it starts.

use std::collections::BTreeSet;

use bonsai_runtime::config::{Kind, TensorSpec};
use bonsai_runtime::tensor::Format;
use bonsai_runtime::{Config, ModelFile};
use serde::Serialize;

use crate::config::RunConfig;
use crate::cpu::{CpuBackend, head_scratch_bytes};
use crate::error::Result;
use crate::model::Activations;
use crate::optimizer::Optimizer;

/// Bytes of the program itself: code, tokenizer, threads, and what matrix products pack. Measured at 20 M weights, where
/// five sets of options were 31 to 33 MB above the sum of the other parts.
const PROGRAM: usize = 32_000_000;

/// Bytes at the peak of a training step.
#[derive(Debug, Clone, Serialize)]
pub struct Forecast {
    /// Weights of the model.
    pub parameters: usize,
    /// Latent weights.
    pub latents: usize,
    /// f32 gradients.
    pub gradients: usize,
    /// Optimizer state.
    pub moments: usize,
    /// Packed codes and scales that the forward pass reads.
    pub codes: usize,
    /// What the forward pass keeps for the backward pass, and the gradients of activations.
    pub activations: usize,
    /// A distillation's teacher: its weights, and what its forward pass needs.
    pub teacher: usize,
    /// One matrix unpacked, and a chunk of logits with its part of the head.
    pub scratch: usize,
    /// The program; 0 on a GPU, whose memory it does not use.
    pub program: usize,
}

impl Forecast {
    /// Forecast of a run of this shape, with that teacher: of the machine's memory, or of the GPU's where
    /// `device` is gpu.
    pub fn new(model: &Config, teacher: Option<&ModelFile>, run: &RunConfig) -> Result<Self> {
        let optimizer = Optimizer::new(run);
        let tensors = model.tensors();
        let numbers = model.parameters() as usize;
        let state = |t: &TensorSpec| optimizer.moments(t).iter().map(|m| m.bytes(t.len())).sum::<usize>();
        let ternary: usize = tensors.iter().filter(|t| t.kind != Kind::Norm).map(|t| t.len()).sum();
        let gpu = run.device == "gpu";
        let scale = if gpu { 4 } else { 2 }; // kernels read scales as f32
        let codes = run.projection()?.map_or(0, |p| ternary / 4 + ternary / p.group * scale);
        let tokens = run.micro_batch() * run.seq_len;
        let (batch, recompute) = (run.micro_batch(), run.activation_checkpointing);
        let largest = tensors.iter().filter(|t| t.kind == Kind::Linear).map(|t| t.len()).max().unwrap_or(0);
        let head = head_scratch_bytes(tokens, model.vocab, model.hidden, teacher.is_some());
        Ok(Self {
            parameters: numbers,
            latents: tensors.iter().map(|t| t.len() * run.latents.of(t).bytes()).sum(),
            gradients: 4 * if run.optimizer_in_backward { distinct(&tensors) } else { numbers },
            moments: tensors.iter().map(state).sum(),
            codes,
            activations: 4 * Activations::<CpuBackend>::len(model, batch, run.seq_len, recompute),
            teacher: teacher.map_or(0, |t| teacher_bytes(t, run)),
            scratch: if gpu { 4 * gpu_scratch(model, &optimizer, tokens) } else { head.max(4 * largest) },
            program: if gpu { 0 } else { PROGRAM },
        })
    }

    /// Sum of the parts.
    pub fn total(&self) -> usize {
        self.latents
            + self.gradients
            + self.moments
            + self.codes
            + self.activations
            + self.teacher
            + self.scratch
            + self.program
    }
}

/// Weights of a teacher, in bf16 where its file has them so, what its forward pass needs, and one matrix unpacked.
fn teacher_bytes(file: &ModelFile, run: &RunConfig) -> usize {
    let halves = |t: &TensorSpec| t.kind != Kind::Norm && file.tensors[&t.name].format == Format::Bf16;
    let tensors = file.config.tensors();
    let weights: usize = tensors.iter().map(|t| t.len() * if halves(t) { 2 } else { 4 }).sum();
    let unpacked = tensors.iter().filter(|t| t.kind == Kind::Linear && halves(t)).map(TensorSpec::len).max();
    let forward = Activations::<CpuBackend>::forward_only_len(&file.config, run.micro_batch(), run.seq_len);
    weights + 4 * (forward + unpacked.unwrap_or(0))
}

/// Numbers that a GPU's operations use beside their arguments: a chunk of logits, the tally, Muon's factors, and what
/// norms and attention leave for the second half of their backward pass.
fn gpu_scratch(model: &Config, optimizer: &Optimizer, tokens: usize) -> usize {
    const BINDING: usize = 1 << 25;
    const TALLY: usize = 1 << 20;
    let stride = model.vocab.next_multiple_of(64);
    let logits = (BINDING / stride / 16 * 16).clamp(16, 1 << 15).min(tokens) * stride;
    let tensors = model.tensors();
    let muon = || tensors.iter().filter(|t| optimizer.uses_muon(t));
    let factors = muon().map(TensorSpec::len).max().unwrap_or(0);
    let squares = muon().map(|t| t.rows.min(t.cols).pow(2)).max().unwrap_or(0);
    let heads = tokens * model.heads;
    // 256 chunks of runs at most, each with a sum for every number of the gain.
    let gains = [(tokens, model.hidden), (heads, model.head_dim)];
    let gain = gains.map(|(runs, n)| runs.div_ceil((runs / 256).next_multiple_of(64).max(64)) * n);
    let angles = tokens.min(model.context) * model.head_dim;
    TALLY + logits + 2 * factors + 2 * squares + gain[0].max(gain[1]) + 2 * heads + angles + 5 * tokens
}

/// Numbers of one gradient of each size: what is held when tensors of one size use the same buffer in turn.
fn distinct(tensors: &[TensorSpec]) -> usize {
    tensors.iter().map(TensorSpec::len).collect::<BTreeSet<_>>().into_iter().sum()
}

impl std::fmt::Display for Forecast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mb = |bytes: usize| bytes as f64 / 1e6;
        writeln!(f, "{:.1} million weights", self.parameters as f64 / 1e6)?;
        let parts = [
            ("latent weights", self.latents),
            ("gradients", self.gradients),
            ("optimizer state", self.moments),
            ("ternary codes", self.codes),
            ("activations", self.activations),
            ("teacher", self.teacher),
            ("scratch", self.scratch),
            ("program", self.program),
        ];
        for (name, bytes) in parts.into_iter().filter(|part| part.1 > 0) {
            writeln!(f, "  {name:<16} {:>10.1} MB", mb(bytes))?;
        }
        write!(f, "  {:<16} {:>10.1} MB", "peak", mb(self.total()))
    }
}
