//! What a step holds, and what it asks of the device.

use bonsai_trainer::loss::Teacher;
use bonsai_trainer::params::Params;

use super::*;

/// Weights after three steps with a setting changed.
fn trained(change: impl FnOnce(&mut RunConfig)) -> Vec<u32> {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let mut config = RunConfig { clip: 0.0, ..settings(dir.path()) };
    change(&mut config);
    let mut trainer = gpu_trainer(shared_gpu(), config);
    tiny_run::steps(&mut trainer, &data, 3);
    weights(&trainer)
}

#[test]
fn what_saves_memory_changes_no_bit() {
    let plain = trained(|_| ());
    assert!(plain == trained(|config| config.activation_checkpointing = true));
    assert!(plain == trained(|config| config.optimizer_in_backward = true));
}

/// A trainer with a dense teacher of its own shape on the same device.
fn with_teacher(gpu: &Gpu, config: RunConfig) -> Trainer<GpuBackend> {
    let model = tiny_run::shape(&config);
    let backend = GpuBackend::new(gpu.clone(), &model, config.seq_len).unwrap();
    let latent =
        |index: usize, spec: &bonsai_runtime::config::TensorSpec| params::scratch(&model, 9, index, spec);
    let params = Params::new(&backend, &model, None, |_| 0, latent);
    let teacher = Teacher::new(backend, params, &config);
    gpu_trainer(gpu.clone(), config).with_teacher(Some(teacher))
}

#[test]
fn a_step_is_few_submissions_and_the_forecast_is_what_is_allocated() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    for (optimizer, in_backward, teacher) in [
        (OptimizerKind::Adamw, false, false),
        (OptimizerKind::Muon, true, false),
        (OptimizerKind::Adamw, true, true),
    ] {
        let device = "gpu".to_owned();
        let config = RunConfig {
            device,
            optimizer,
            optimizer_in_backward: in_backward,
            activation_checkpointing: teacher,
            ..settings(dir.path())
        };
        let model = tiny_run::shape(&config);
        let forecast = Forecast::new(&model, teacher.then_some(&model), &config).unwrap();
        let gpu = gpu();
        let mut trainer = if teacher { with_teacher(&gpu, config) } else { gpu_trainer(gpu, config) };
        tiny_run::steps(&mut trainer, &data, 2);
        let before = trainer.backend.counts();
        tiny_run::steps(&mut trainer, &data, 1);
        let after = trainer.backend.counts();
        let (submits, reads) = (after.submits - before.submits, after.read_backs - before.read_backs);
        println!(
            "{optimizer:?}, optimizer in backward {in_backward}, teacher {teacher}: {} dispatches, {submits} submissions, {reads} read-backs a step, {} bytes down; {} allocated, {} forecast",
            after.dispatches - before.dispatches,
            after.bytes_down - before.bytes_down,
            after.allocated,
            forecast.total()
        );
        assert!(submits <= 6 + u64::from(teacher) && reads == 2);
        assert_eq!(after.allocated, forecast.total() as u64);
    }
}
