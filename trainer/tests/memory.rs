//! What saves memory must change nothing else, and the forecast must know of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tiny_run;

use bonsai_trainer::backend::Backend;
use bonsai_trainer::config::{OptimizerKind, RunConfig};
use bonsai_trainer::cpu::{CpuBackend, CpuMoment};
use bonsai_trainer::data::Dataset;
use bonsai_trainer::device::check_gpu;
use bonsai_trainer::fit::Forecast;
use bonsai_trainer::formats::{Compute, LatentFormat, StateFormat};
use bonsai_trainer::params;
use bonsai_trainer::train::Trainer;
use tiny_run::{dataset, settings, shape, steps, trainer, weights};

/// Weights after four steps with a setting changed.
fn trained(change: impl FnOnce(&mut RunConfig)) -> Vec<u32> {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let mut config = settings(dir.path());
    change(&mut config);
    let mut trainer = trainer(config);
    steps(&mut trainer, &data, 4);
    weights(&trainer)
}

#[test]
fn activation_checkpointing_changes_no_bit() {
    assert!(trained(|_| ()) == trained(|config| config.activation_checkpointing = true));
}

/// Without clipping, the order of updates is all that differs, and no update reads another tensor.
#[test]
fn the_optimizer_in_the_backward_pass_changes_no_bit() {
    for optimizer in [OptimizerKind::Adamw, OptimizerKind::Muon] {
        let plain = trained(|config| (config.clip, config.optimizer) = (0.0, optimizer));
        let inside = trained(|config| {
            (config.clip, config.optimizer) = (0.0, optimizer);
            config.optimizer_in_backward = true;
        });
        assert!(plain == inside, "{optimizer:?}");
        let clipped = trained(|config| (config.clip, config.optimizer_in_backward) = (1e-3, true));
        assert!(clipped != inside, "clipping did nothing");
    }
}

/// Mean loss of the last 10 of 60 steps.
fn learnt(data: &Dataset, change: impl FnOnce(&mut RunConfig)) -> f64 {
    let mut config = RunConfig { steps: 60, ..settings(data.train.path()) };
    change(&mut config);
    let mut trainer = trainer(config);
    let losses: Vec<f64> = (0..60).map(|_| trainer.step(&data.train).unwrap().loss).collect();
    losses[50..].iter().sum::<f64>() / 10.0
}

/// A run whose starting weights differ in the seventh digit ends up to 0.05 away.
#[test]
fn fewer_bits_learn_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    for optimizer in [OptimizerKind::Adamw, OptimizerKind::Muon] {
        let exact = learnt(&data, |config| config.optimizer = optimizer);
        assert!(exact < 4.6, "{optimizer:?}: {exact} is no loss of a run that learns");
        let state = learnt(&data, |config| {
            (config.optimizer, config.optimizer_state) = (optimizer, StateFormat::Bits8);
        });
        let latents =
            learnt(&data, |config| (config.optimizer, config.latents) = (optimizer, LatentFormat::Bf16));
        let products =
            learnt(&data, |config| (config.optimizer, config.compute) = (optimizer, Compute::Bf16));
        for (name, loss) in
            [("8-bit state", state), ("latents in bf16", latents), ("products in bf16", products)]
        {
            assert!(
                (loss - exact).abs() < 0.1 && loss != exact,
                "{optimizer:?}, {name}: {loss}, not {exact}"
            );
        }
    }
}

#[test]
fn a_second_moment_too_slow_for_8_bits_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = RunConfig { beta2: 0.999, optimizer_state: StateFormat::Bits8, ..settings(dir.path()) };
    assert!(config.check().unwrap_err().to_string().contains("beta2"));
}

#[test]
fn fewer_bits_are_refused_on_a_gpu() {
    let state = RunConfig { optimizer_state: StateFormat::Bits8, ..RunConfig::default() };
    let latents = RunConfig { latents: LatentFormat::Bf16, ..RunConfig::default() };
    let products = RunConfig { compute: Compute::Bf16, ..RunConfig::default() };
    for (run, what) in [(state, "8-bit"), (latents, "latents in bf16"), (products, "products in bf16")] {
        assert!(check_gpu(&run).unwrap_err().to_string().contains(what));
    }
}

#[test]
fn a_spike_changes_nothing_in_the_backward_pass_either() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let spike = RunConfig { steps: 100, spike: 0.5, optimizer_in_backward: true, ..settings(dir.path()) };
    let mut trainer = trainer(spike);
    steps(&mut trainer, &data, 20);
    trainer.state.mean_loss -= 3.0;
    let before = weights(&trainer);
    let step = trainer.step(&data.train).unwrap();
    assert_eq!((step.skipped, trainer.state.updates), (Some("the loss jumped"), 20));
    assert!(weights(&trainer) == before);
    trainer.state.mean_loss += 3.0;
    steps(&mut trainer, &data, 1);
}

#[test]
fn a_tensor_whose_gradient_is_no_number_stays_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let config = RunConfig { optimizer_in_backward: true, ..settings(dir.path()) };
    let mut trainer = trainer(config);
    steps(&mut trainer, &data, 2);
    let latents = |trainer: &Trainer<CpuBackend>| -> Vec<_> {
        trainer.params.list.iter().map(|p| trainer.backend.latent(&p.value).unwrap().into_owned()).collect()
    };
    let (before, mean, index) = (latents(&trainer), trainer.state.mean_loss, 3);
    let (_, grad) = trainer.params.value_and_grad(&trainer.backend, index);
    grad.fill(f32::NAN);
    let step = trainer.step(&data.train).unwrap();
    assert!(step.updated && step.grad_norm.is_nan());
    assert!(step.skipped.unwrap().starts_with("a tensor's gradient is not a number"));
    assert_eq!((trainer.state.updates, trainer.state.bad_steps), (3, 1));
    assert_ne!(trainer.state.mean_loss, mean);
    let moved = before.iter().zip(latents(&trainer)).enumerate().filter(|(_, (old, new))| *old != new);
    let others: Vec<usize> = (0..before.len()).filter(|&i| i != index).collect();
    assert_eq!(moved.map(|(i, _)| i).collect::<Vec<_>>(), others);
    steps(&mut trainer, &data, 1);
    assert_eq!((trainer.state.updates, trainer.state.bad_steps), (4, 0));
}

#[test]
fn gradients_in_parts_are_refused_with_the_optimizer_in_the_backward_pass() {
    let dir = tempfile::tempdir().unwrap();
    let config = RunConfig { micro_batch: 2, optimizer_in_backward: true, ..settings(dir.path()) };
    assert!(config.check().unwrap_err().to_string().contains("micro_batch"));
}

fn moment(backend: &CpuBackend, moment: &CpuMoment) -> usize {
    let held = backend.read_moment(moment).unwrap();
    4 * held.floats.len() + held.codes.len()
}

#[test]
fn the_forecast_is_what_is_allocated() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let (adamw, muon) = (OptimizerKind::Adamw, OptimizerKind::Muon);
    let (f32, bits8) = (StateFormat::F32, StateFormat::Bits8);
    for (optimizer, optimizer_in_backward, optimizer_state, latents) in [
        (adamw, false, f32, LatentFormat::F32),
        (muon, false, f32, LatentFormat::Bf16),
        (adamw, true, bits8, LatentFormat::F32),
        (muon, true, bits8, LatentFormat::Bf16),
    ] {
        let base = settings(dir.path());
        let config = RunConfig { optimizer, optimizer_in_backward, optimizer_state, latents, ..base };
        let forecast = Forecast::new(&shape(&config), None, &config).unwrap();
        let mut trainer = trainer(config);
        steps(&mut trainer, &data, 2);
        let gradients = 4 * trainer.params.gradient_numbers();
        let Trainer { backend, params, .. } = trainer;
        let bytes =
            |of: &dyn Fn(&params::Param<CpuBackend>) -> usize| params.list.iter().map(of).sum::<usize>();
        assert_eq!(forecast.latents, bytes(&|p| backend.latents(&p.value).unwrap().bytes().len()));
        assert_eq!(forecast.gradients, gradients);
        assert_eq!(forecast.moments, bytes(&|p| p.moments.iter().map(|m| moment(&backend, m)).sum()));
        let packed = |p: &params::Param<CpuBackend>| {
            backend.ternary(&p.value).unwrap().map_or(0, |t| t.codes.len() + 2 * t.scales.len())
        };
        assert_eq!(forecast.codes, bytes(&packed));
    }
}
