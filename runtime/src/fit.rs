//! Memory forecast of a session, before it starts.

use crate::config::Config;
use crate::cpu::{KvFormat, matmul_scratch_bytes};
use crate::model::State;
use crate::model_file::ModelFile;
use crate::session::chunk;

/// Bytes that a session holds when its context is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// Tokens of context.
    pub context: usize,
    /// Weights: of a mapped file, what was read of it, which the system may drop and read again.
    pub weights: usize,
    /// Keys and values of one token, all layers.
    pub cache_per_token: usize,
    /// Keys and values of the whole context, as allocated: in blocks of about 2 MiB a layer.
    pub cache: usize,
    /// Activations of a chunk of the prompt, and the logits.
    pub activations: usize,
}

impl Fit {
    /// Forecast for a model, a context and a format of the cache.
    pub fn new(file: &ModelFile, context: usize, kv: KvFormat) -> Self {
        let weights = file.tensors.values().map(|tensor| tensor.bytes.len()).sum();
        Self { weights, ..Self::of(&file.config, context, kv) }
    }

    fn of(config: &Config, context: usize, kv: KvFormat) -> Self {
        let tokens = chunk(context);
        let numbers = State::<crate::cpu::CpuBackend>::numbers(config, tokens) + config.vocab;
        Self {
            context,
            weights: 0,
            cache_per_token: kv.bytes_per_token(config),
            cache: kv.allocated_bytes(config, context),
            activations: size_of::<f32>() * numbers + matmul_scratch_bytes(config, tokens),
        }
    }

    /// Sum of the parts.
    pub fn total(&self) -> usize {
        self.weights + self.cache + self.activations
    }

    /// The longest context, at most the model's, that fits into `bytes`; 0 if not even one block does.
    pub fn longest_context(file: &ModelFile, kv: KvFormat, bytes: usize) -> usize {
        let fits = |context: usize| context == 0 || Self::new(file, context, kv).total() <= bytes;
        let (mut low, mut high) = (0, file.config.context);
        while low < high {
            let middle = (low + high).div_ceil(2);
            if fits(middle) { low = middle } else { high = middle - 1 }
        }
        low
    }
}
