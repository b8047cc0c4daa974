//! Made-up models and inputs that the benches share.

use std::collections::HashMap;

use bonsai_runtime::config::Kind;
use bonsai_runtime::tensor::{Format, StoredTensor};
use bonsai_runtime::ternary::{Packing, ScaleRule, TernaryMatrix};
use bonsai_runtime::{Model, ModelFile};
use bonsai_trainer::config::{RunConfig, preset};
use bonsai_trainer::cpu::CpuBackend;
use bonsai_trainer::data::{Dtype, Order, Tokens};
use bonsai_trainer::optimizer::Optimizer;
use bonsai_trainer::params::{self, Params};
use bonsai_trainer::random::Random;
use bonsai_trainer::train::{State, Trainer};

/// Weights along the input dimension that share a scale.
pub const GROUP: usize = 128;

/// `n` roughly normal numbers of deviation 1.
pub fn normals(n: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..n).map(|_| random.normal() as f32).collect()
}

/// `n` token ids.
pub fn ids(n: usize, vocab: usize) -> Vec<u32> {
    (0..n as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32 % vocab as u32).collect()
}

/// A matrix of random ternary weights, packed.
pub fn packed(rows: usize, cols: usize, seed: u64) -> StoredTensor {
    let ternary = TernaryMatrix::project(&normals(rows * cols, seed), rows, cols, GROUP, ScaleRule::Absmean);
    let mut blocks = Vec::new();
    Packing::Q2_0.encode(&ternary, &mut blocks).expect("groups of the same size");
    StoredTensor { format: Format::Ternary(Packing::Q2_0), rows, cols, bytes: blocks.into() }
}

/// A random ternary model of a preset's shape.
pub fn model(name: &str, vocab: usize) -> Model {
    let config = preset(name, vocab, 512).expect("a preset");
    let tensor = |(seed, spec): (usize, bonsai_runtime::config::TensorSpec)| {
        let tensor = match spec.kind {
            Kind::Norm => StoredTensor::from_f32(1, spec.cols, &vec![1.0; spec.cols]),
            _ => packed(spec.rows, spec.cols, seed as u64),
        };
        (spec.name, tensor)
    };
    let tensors: HashMap<_, _> = config.tensors().into_iter().enumerate().map(tensor).collect();
    let file = ModelFile { config, tokenizer: None, tensors, description: "random".into() };
    Model::from_file(file).expect("every tensor of the config")
}

/// A run about to take its first step, on a model of a preset's shape.
pub fn trainer(name: &str, vocab: usize, config: RunConfig) -> Trainer<CpuBackend> {
    let model = preset(name, vocab, config.seq_len).expect("a preset");
    let optimizer = Optimizer::new(&config);
    let backend = CpuBackend::new(&model, config.seq_len);
    let projection = config.projection().expect("a scale rule");
    let count = |spec: &_| optimizer.moments(spec).len();
    let params =
        Params::new(&backend, &model, projection, count, |i, spec| params::scratch(&model, 0, i, spec));
    Trainer::new(config, backend, params, State::default(), Order::Shuffled { seed: 0 })
}

/// A shard of `n` made-up tokens.
pub fn tokens(vocab: usize, n: usize) -> Tokens {
    let path = std::env::temp_dir().join(format!("bonsai-benches-{}-{n}.bin", std::process::id()));
    let bytes: Vec<u8> = ids(n, vocab).into_iter().flat_map(u32::to_le_bytes).collect();
    std::fs::write(&path, bytes).expect("a writable temporary directory");
    let tokens = Tokens::open(&path, Dtype::U32).expect("the file just written");
    let _ = std::fs::remove_file(path); // the map keeps it alive
    tokens
}
