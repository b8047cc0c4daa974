//! Memory forecast: what a run will hold at its peak, before it starts.

use std::collections::BTreeSet;

use bonsai_runtime::config::{Kind, TensorSpec};
use bonsai_runtime::tensor::Format;
use bonsai_runtime::{Config, ModelFile};
use serde::Serialize;

use crate::config::RunConfig;
use crate::cpu::{CpuBackend, head_factors, head_scratch_bytes};
use crate::error::Result;
use crate::formats::Compute;
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
    /// Forecast of a run of this shape, with a teacher of that shape: of the machine's memory, or of the GPU's where
    /// `device` is gpu.
    pub fn new(model: &Config, teacher: Option<&Config>, run: &RunConfig) -> Result<Self> {
        Self::make(model, teacher.map(|t| teacher_bytes(t, run, |_| false)), run)
    }

    /// The same where the teacher is that file, which may have its weights in bf16.
    pub fn with_teacher(model: &Config, teacher: Option<&ModelFile>, run: &RunConfig) -> Result<Self> {
        let bytes = |file: &ModelFile| {
            let halves = |t: &TensorSpec| file.tensors[&t.name].format == Format::Bf16;
            teacher_bytes(&file.config, run, halves)
        };
        Self::make(model, teacher.map(bytes), run)
    }

    fn make(model: &Config, teacher: Option<usize>, run: &RunConfig) -> Result<Self> {
        let optimizer = Optimizer::new(run);
        let tensors = model.tensors();
        let numbers = model.parameters() as usize;
        let state = |t: &TensorSpec| optimizer.moments(t).iter().map(|m| m.bytes(t.len())).sum::<usize>();
        let gpu = run.device == "gpu";
        let scale = if gpu { 4 } else { 2 }; // kernels read scales as f32
        let projection = run.projection_of()?;
        let matrices = || tensors.iter().filter(|t| t.kind != Kind::Norm);
        let rounded = matrices().filter_map(|t| projection(t).map(|p| (t.len(), p.group)));
        let codes = rounded.map(|(len, group)| len / 4 + len / group * scale).sum();
        let tokens = run.micro_batch() * run.seq_len;
        let (batch, recompute) = (run.micro_batch(), run.activation_checkpointing);
        let head = head_scratch_bytes(tokens, model.vocab, model.hidden, teacher.is_some());
        let unpacked = tensors.iter().filter(|t| t.kind == Kind::Linear).map(|t| 4 * t.len()).max();
        let scratch = match gpu {
            true => 4 * gpu_scratch(model, run, teacher.is_some()),
            false => head.max(unpacked.unwrap_or(0)) + factors(model, &tensors, tokens, run),
        };
        Ok(Self {
            parameters: numbers,
            latents: tensors.iter().map(|t| t.len() * run.latents.of(t).bytes()).sum(),
            gradients: 4 * if run.optimizer_in_backward { distinct(&tensors) } else { numbers },
            moments: tensors.iter().map(state).sum(),
            codes,
            activations: 4 * Activations::<CpuBackend>::len(model, batch, run.seq_len, recompute),
            teacher: teacher.unwrap_or(0),
            scratch,
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

/// Weights of a teacher, on the CPU in bf16 where its file has them so, what its forward pass needs, and there one matrix
/// unpacked.
fn teacher_bytes(model: &Config, run: &RunConfig, in_bf16: impl Fn(&TensorSpec) -> bool) -> usize {
    let gpu = run.device == "gpu";
    let halves = |t: &TensorSpec| !gpu && t.kind != Kind::Norm && in_bf16(t);
    let tensors = model.tensors();
    let weights: usize = tensors.iter().map(|t| t.len() * if halves(t) { 2 } else { 4 }).sum();
    let unpacked = tensors.iter().filter(|t| t.kind == Kind::Linear && halves(t)).map(TensorSpec::len).max();
    let forward = match run.hidden_weight > 0.0 {
        true => Activations::<CpuBackend>::len(model, run.micro_batch(), run.seq_len, true),
        false => Activations::<CpuBackend>::forward_only_len(model, run.micro_batch(), run.seq_len),
    };
    let backend = if gpu { gpu_backend(model, run) } else { 0 };
    let found = match run.teacher_cache.as_os_str().is_empty() {
        true => 0,
        false => head_scratch_bytes(run.micro_batch() * run.seq_len, model.vocab, model.hidden, false),
    };
    weights + found + 4 * (forward + backend + unpacked.unwrap_or(0))
}

/// Bytes of the factors of the largest product in bf16, which are packed before they are multiplied.
fn factors(model: &Config, tensors: &[TensorSpec], tokens: usize, run: &RunConfig) -> usize {
    if run.compute == Compute::F32 {
        return 0;
    }
    let layers = tensors.iter().filter(|t| t.kind == Kind::Linear);
    let largest = |t: &TensorSpec| t.len().max(tokens * t.rows.min(t.cols)) + tokens * t.rows.max(t.cols);
    2 * layers.map(largest).max().unwrap_or(0).max(head_factors(tokens, model.vocab, model.hidden))
}

/// Numbers of the largest binding of a GPU.
const BINDING: usize = 1 << 25;

/// Numbers that a GPU backend holds for a model of this shape: the tally, angles, ids of tokens, odds and ends.
fn gpu_backend(model: &Config, run: &RunConfig) -> usize {
    const TALLY: usize = 1 << 20;
    const SMALL: usize = 12;
    TALLY + SMALL + run.seq_len * model.head_dim + run.micro_batch() * run.seq_len
}

/// Numbers that a GPU's operations use beside their arguments: the backend's own, chunks of logits, Muon's factors, and
/// what norms and attention leave for the second half of their backward pass.
fn gpu_scratch(model: &Config, run: &RunConfig, teacher: bool) -> usize {
    let tokens = run.micro_batch() * run.seq_len;
    let stride = model.vocab.next_multiple_of(64);
    let logits = (BINDING / stride / 16 * 16).clamp(16, 1 << 15).min(tokens) * stride;
    let copies = if teacher { 2 } else { 1 };
    let lists = 5 * tokens; // targets, and tokens by id
    let shift = tokens * model.heads;
    gpu_backend(model, run)
        + copies * logits
        + lists
        + shift
        + gpu_norms(model, tokens)
        + gpu_muon(model, run)
}

/// Of the norms' gains: a sum a chunk of runs (at most about 256) and number of the gain; and a factor a run.
fn gpu_norms(model: &Config, tokens: usize) -> usize {
    let heads = model.qk_norm_eps.map(|_| (tokens * model.heads, model.head_dim));
    let norms = [Some((tokens, model.hidden)), heads];
    let sizes = norms.into_iter().flatten().map(|(runs, n)| {
        let chunk = (runs / 256).next_multiple_of(64).max(64);
        [runs.div_ceil(chunk) * n, runs.min((BINDING / n / chunk).max(1) * chunk)]
    });
    sizes.fold([0; 2], |most, size| [0, 1].map(|i| most[i].max(size[i]))).into_iter().sum()
}

/// Of Muon: two matrices, two squares of the shorter side, partial sums of squares.
fn gpu_muon(model: &Config, run: &RunConfig) -> usize {
    let optimizer = Optimizer::new(run);
    let tensors = model.tensors();
    let muon = || tensors.iter().filter(|t| optimizer.uses_muon(t));
    let largest = muon().map(TensorSpec::len).max().unwrap_or(0);
    let square = muon().map(|t| t.rows.min(t.cols).pow(2)).max().unwrap_or(0);
    2 * largest + 2 * square + largest.div_ceil(1 << 14).next_multiple_of(4)
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
