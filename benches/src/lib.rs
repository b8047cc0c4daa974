//! Made-up models and inputs that the benches share.

use bonsai_runtime::random::Random;
use bonsai_runtime::random_model::{random_model, shape};
use bonsai_runtime::ternary::Packing;
use bonsai_runtime::{Config, Model};
use bonsai_trainer::backend::Backend;
use bonsai_trainer::config::{RunConfig, preset};
use bonsai_trainer::cpu::CpuBackend;
use bonsai_trainer::data::{Dtype, Order, Tokens};
use bonsai_trainer::loss::Teacher;
use bonsai_trainer::optimizer::Optimizer;
use bonsai_trainer::params::{self, Params};
use bonsai_trainer::train::{State, Trainer};

/// Weights along the input dimension that share a scale.
pub const GROUP: usize = 128;

/// `n` roughly normal numbers of deviation 1.
pub fn normals(n: usize, seed: u64) -> Vec<f32> {
    Random(seed).normals(n)
}

/// A random ternary model, of a shape of `bonsai bench` or of a preset of the trainer.
pub fn model(name: &str) -> Model {
    let config = shape(name).or_else(|_| preset(name, 4096, 4096)).expect("a shape or a preset");
    let file = random_model(config, Packing::Q2_0).expect("memory for the model");
    Model::from_file(file).expect("every tensor of the config")
}

/// A run about to take its first step, on a model of a preset's shape.
pub fn trainer(name: &str, vocab: usize, config: RunConfig) -> Trainer<CpuBackend> {
    let model = preset(name, vocab, config.seq_len).expect("a preset");
    trainer_on(CpuBackend::new(&model, config.seq_len).computing_in(config.compute), model, config)
}

/// The same on any device.
pub fn trainer_on<B: Backend>(backend: B, model: Config, config: RunConfig) -> Trainer<B> {
    let optimizer = Optimizer::new(&config);
    let projection = config.projection_of().expect("a scale rule");
    let moments = |spec: &_| optimizer.moments(spec);
    let params = Params::new(&backend, &model, projection, moments, |i, spec| {
        config.latents.hold(spec, params::scratch(&model, 0, i, spec))
    });
    Trainer::new(config, backend, params, State::default(), Order::Shuffled { seed: 0 })
}

/// A dense model with random weights that a run on the same device learns from.
pub fn teacher<B: Backend>(backend: B, model: &Config, config: &RunConfig) -> Teacher<B> {
    let params =
        Params::new(&backend, model, |_| None, |_| &[], |i, spec| params::scratch(model, 1, i, spec));
    Teacher::new(backend, params, config)
}

/// A shard of `n` made-up tokens.
pub fn tokens(vocab: usize, n: usize) -> Tokens {
    let path = std::env::temp_dir().join(format!("bonsai-benches-{}-{n}.bin", std::process::id()));
    let bytes: Vec<u8> = Random(0).ids(n, vocab).into_iter().flat_map(u32::to_le_bytes).collect();
    std::fs::write(&path, bytes).expect("a writable temporary directory");
    let tokens = Tokens::open(&path, Dtype::U32).expect("the file just written");
    let _ = std::fs::remove_file(path); // the map keeps it alive
    tokens
}
