//! What saves memory must change nothing else, and the forecast must know of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tiny_run;

use bonsai_trainer::backend::Backend;
use bonsai_trainer::config::{OptimizerKind, RunConfig};
use bonsai_trainer::cpu::CpuBackend;
use bonsai_trainer::fit::Forecast;
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
fn gradients_in_parts_are_refused_with_the_optimizer_in_the_backward_pass() {
    let dir = tempfile::tempdir().unwrap();
    let config = RunConfig { micro_batch: 2, optimizer_in_backward: true, ..settings(dir.path()) };
    assert!(config.check().unwrap_err().to_string().contains("micro_batch"));
}

#[test]
fn the_forecast_is_what_is_allocated() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    for (optimizer, optimizer_in_backward) in
        [(OptimizerKind::Adamw, false), (OptimizerKind::Muon, false), (OptimizerKind::Adamw, true)]
    {
        let config = RunConfig { optimizer, optimizer_in_backward, ..settings(dir.path()) };
        let forecast = Forecast::new(&shape(&config), None, &config).unwrap();
        let mut trainer = trainer(config);
        steps(&mut trainer, &data, 2);
        let gradients = 4 * trainer.params.gradient_numbers();
        let Trainer { backend, params, .. } = trainer;
        let bytes =
            |of: &dyn Fn(&params::Param<CpuBackend>) -> usize| params.list.iter().map(of).sum::<usize>();
        assert_eq!(forecast.latents, bytes(&|p| 4 * backend.latent(&p.value).unwrap().len()));
        assert_eq!(forecast.gradients, gradients);
        assert_eq!(forecast.moments, bytes(&|p| p.moments.iter().map(|m| 4 * m.len()).sum()));
        let packed = |p: &params::Param<CpuBackend>| {
            backend.ternary(&p.value).unwrap().map_or(0, |t| t.codes.len() + 2 * t.scales.len())
        };
        assert_eq!(forecast.codes, bytes(&packed));
    }
}
