//! A tiny run for the tests: a corpus of stories, settings, a trainer at its first step.

#![allow(dead_code, reason = "no test uses all of it")]

use std::path::Path;

use bonsai_runtime::Config;
use bonsai_runtime::config::TensorSpec;
use bonsai_trainer::backend::Backend;
use bonsai_trainer::config::{RunConfig, preset};
use bonsai_trainer::cpu::CpuBackend;
use bonsai_trainer::data::{self, Dataset, Order};
use bonsai_trainer::optimizer::Optimizer;
use bonsai_trainer::params::{self, Params};
use bonsai_trainer::train::{State, Trainer};
use bonsai_trainer::{bpe, corpus, stories};

pub const VOCAB: usize = 300;

/// Shards of a few stories in `dir`.
pub fn dataset(dir: &Path) -> Dataset {
    let split = corpus::split(stories::corpus(1, 40_000), 0.1, 0).unwrap();
    let options = bpe::BpeOptions { vocab_size: VOCAB, ..bpe::BpeOptions::default() };
    let tokenizer = bpe::learn(split.train.iter(), &options).unwrap();
    data::prepare(&split, &tokenizer, dir, &|_| ()).unwrap();
    Dataset::open(dir).unwrap()
}

pub fn settings(out: &Path) -> RunConfig {
    RunConfig {
        preset: "1m".into(),
        out: out.to_path_buf(),
        steps: 6,
        batch_size: 4,
        seq_len: 32,
        warmup: 2,
        eval_sequences: 4,
        eval_every: 0,
        sample_every: 0,
        ..RunConfig::default()
    }
}

pub fn shape(config: &RunConfig) -> Config {
    preset(&config.preset, VOCAB, config.seq_len).unwrap()
}

/// A run at its first step, its weights made by `latent`.
pub fn trainer_with(
    config: RunConfig,
    latent: impl FnMut(usize, &TensorSpec) -> Vec<f32>,
) -> Trainer<CpuBackend> {
    let backend = CpuBackend::new(&shape(&config), config.seq_len).computing_in(config.compute);
    trainer_on(backend, config, latent)
}

/// The same on any device.
pub fn trainer_on<B: Backend>(
    backend: B,
    config: RunConfig,
    latent: impl FnMut(usize, &TensorSpec) -> Vec<f32>,
) -> Trainer<B> {
    trainer_of(backend, &shape(&config), config, latent)
}

/// The same with a model of any shape.
pub fn trainer_of<B: Backend>(
    backend: B,
    model: &Config,
    config: RunConfig,
    mut latent: impl FnMut(usize, &TensorSpec) -> Vec<f32>,
) -> Trainer<B> {
    let optimizer = Optimizer::new(&config);
    let moments = |spec: &_| optimizer.moments(spec);
    let latent = |index: usize, spec: &TensorSpec| config.latents.hold(spec, latent(index, spec));
    let params = Params::new(&backend, model, config.projection_of().unwrap(), moments, latent);
    Trainer::new(config, backend, params, State::default(), Order::Shuffled { seed: 7 })
}

pub fn trainer(config: RunConfig) -> Trainer<CpuBackend> {
    let model = shape(&config);
    trainer_with(config, |index, spec| params::scratch(&model, 3, index, spec))
}

pub fn steps<B: Backend>(trainer: &mut Trainer<B>, data: &Dataset, n: usize) {
    for _ in 0..n {
        assert!(trainer.step(&data.train).unwrap().skipped.is_none());
    }
}

pub fn weights<B: Backend>(trainer: &Trainer<B>) -> Vec<u32> {
    let latents =
        trainer.params.list.iter().flat_map(|p| trainer.backend.latent(&p.value).unwrap().into_owned());
    latents.map(f32::to_bits).collect()
}
