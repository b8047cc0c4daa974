//! What a step holds, and what it asks of the device.

use bonsai_runtime::config::TensorSpec;
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

/// A dense teacher with random weights.
fn teacher(backend: GpuBackend, model: &Config, config: &RunConfig) -> Teacher<GpuBackend> {
    let latent = |index: usize, spec: &TensorSpec| params::scratch(model, 9, index, spec);
    let params = Params::new(&backend, model, |_| None, |_| &[], latent);
    Teacher::new(backend, params, config)
}

/// A trainer with a dense teacher of its own shape on the same device.
fn with_teacher(gpu: &Gpu, config: RunConfig) -> Trainer<GpuBackend> {
    let model = tiny_run::shape(&config);
    let backend = GpuBackend::new(gpu.clone(), &model, config.seq_len).unwrap();
    let teacher = teacher(backend, &model, &config);
    gpu_trainer(gpu.clone(), config).with_teacher(Some(teacher))
}

/// What a step of Qwen3-0.6B asks of a device, counted on a model of its depth that is an eighth as wide, with an eighth of
/// its vocabulary and bindings of a 64th: so its tensors fall into as many slices.
#[test]
fn a_step_at_the_depth_of_0_6b_is_a_hundred_dispatches_a_layer() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let model = Config {
        vocab: 151_936 / 8,
        hidden: 128,
        intermediate: 384,
        heads: 16,
        kv_heads: 8,
        head_dim: 16,
        ..preset("0.6b", 151_936, SEQ).unwrap()
    };
    for learns in [false, true] {
        let config = RunConfig {
            optimizer_in_backward: true,
            activation_checkpointing: true,
            batch_size: 1,
            seq_len: 16,
            ..settings(dir.path())
        };
        let tuning = Tuning { span: 1 << 19, tiled: false };
        let gpu = gpu(); // its counts are of this test alone
        let open = || GpuBackend::with_tuning(gpu.clone(), &model, config.seq_len, tuning).unwrap();
        let teacher = learns.then(|| teacher(open(), &model, &config));
        let latent = |index: usize, spec: &TensorSpec| params::scratch(&model, 3, index, spec);
        let mut trainer = tiny_run::trainer_of(open(), &model, config.clone(), latent).with_teacher(teacher);
        tiny_run::steps(&mut trainer, &data, 1);
        let before = trainer.backend.counts();
        tiny_run::steps(&mut trainer, &data, 1);
        let after = trainer.backend.counts();
        let [dispatches, submits, reads] = [
            after.dispatches - before.dispatches,
            after.submits - before.submits,
            after.read_backs - before.read_backs,
        ];
        let bound = after.bytes_bound - before.bytes_bound;
        let least = least_bytes(&model, learns, &config);
        println!(
            "0.6B's depth, teacher {learns}: {dispatches} dispatches, {submits} submissions, {reads} read-backs a step; {bound} bytes bound, {least} at least"
        );
        // A layer: 17 forward, 14 of them again, 39 backward, and three for the update of each of eleven tensors; 28 for
        // embedding, head and final norm. A teacher has another 17 a layer, and reads its dense table and head in slices.
        let teacher = if learns { 28 * 17 + 11 } else { 0 };
        assert_eq!(dispatches, 28 * 103 + 28 + teacher);
        assert!(submits <= 8 + u64::from(learns) && reads == 2, "{submits} {reads}");
        assert!(bound < least * 2, "{bound} bytes bound, {least} at least");
    }
}

/// Bytes that no step of this run moves less than, few tokens given: latent weights, moments, gradients and codes written
/// once and read once, codes once more in each of three passes (forward, again, backward), a dense teacher's weights once.
fn least_bytes(model: &Config, learns: bool, config: &RunConfig) -> u64 {
    let forecast = Forecast::new(model, None, &RunConfig { device: "gpu".into(), ..config.clone() }).unwrap();
    let gradients = 4 * forecast.parameters;
    let teacher = if learns { forecast.latents } else { 0 };
    let both_ways = forecast.latents + forecast.moments + gradients + forecast.codes;
    (2 * both_ways + 3 * forecast.codes + teacher) as u64
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
