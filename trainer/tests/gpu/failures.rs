//! No adapter, a lost device, too little memory: one clear line, and nothing that was saved is lost.

use std::path::Path;

use bonsai_trainer::data::Dataset;
use bonsai_trainer::device::Device;

use super::*;

#[test]
fn a_lost_device_ends_the_run_with_its_checkpoint_whole() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let config = settings(dir.path());
    let gpu = gpu();
    let model = tiny_run::shape(&config);
    let backend = GpuBackend::new(gpu.clone(), &model, config.seq_len).unwrap();
    let mut trainer =
        tiny_run::trainer_on(backend, config, |index, spec| params::scratch(&model, 3, index, spec));
    tiny_run::steps(&mut trainer, &data, 1);
    checkpoint::save(dir.path(), &trainer).unwrap();
    let saved = std::fs::read(dir.path().join("model.safetensors")).unwrap();
    gpu.destroy();
    let error = trainer.step(&data.train).err().unwrap();
    assert_eq!(error.exit_code(), 6, "{error}");
    assert!(trainer.step(&data.train).is_err() && trainer.validate(&data).is_err(), "it stays lost");
    let refused = checkpoint::save(dir.path(), &trainer).unwrap_err();
    assert_eq!(refused.exit_code(), 6, "{refused}");
    assert!(saved == std::fs::read(dir.path().join("model.safetensors")).unwrap());
    assert_eq!(Saved::open(dir.path()).unwrap().state.step, 1);
}

/// Asks the device of a run to die once the checkpoint of step `step` is in `dir`.
fn destroy_after(gpu: &Gpu, dir: &Path, step: u64) -> std::thread::JoinHandle<()> {
    let (gpu, state) = (gpu.clone(), dir.join("trainer_state.json"));
    std::thread::spawn(move || {
        let reached = || {
            let text = std::fs::read_to_string(&state).unwrap_or_default();
            serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|v| v["step"].as_u64() >= Some(step))
        };
        while !reached() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        gpu.destroy();
    })
}

/// Takes a run's remaining steps on a device.
fn go_on(gpu: Gpu, dir: &Path, data: &Dataset) -> bonsai_trainer::error::Result<run::Outcome> {
    let saved = Saved::open(dir).unwrap();
    let backend = GpuBackend::new(gpu, &saved.model.config, saved.run.seq_len).unwrap();
    let params = saved.params(&backend, true).unwrap();
    let trainer = Trainer::new(saved.run, backend, params, saved.state, Order::Shuffled { seed: 7 });
    let watch = Watch { cancelled: &AtomicBool::new(false), quiet: true };
    run::train(trainer, data, None, &watch)
}

#[test]
fn a_device_lost_in_the_middle_of_a_run_costs_the_steps_since_the_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    let [whole, broken] = ["whole", "broken"].map(|name| place.path().join(name));
    let data = dataset(place.path());
    let config = |out: &Path, steps| RunConfig { steps, save_every: 2, ..settings(out) };
    for dir in [&whole, &broken] {
        let mut trainer = gpu_trainer(shared_gpu(), config(dir, 400));
        tiny_run::steps(&mut trainer, &data, 1);
        std::fs::create_dir_all(dir).unwrap();
        checkpoint::save(dir, &trainer).unwrap();
    }
    let gpu = gpu();
    let killer = destroy_after(&gpu, &broken, 4);
    let error = go_on(gpu, &broken, &data).unwrap_err();
    killer.join().unwrap();
    assert_eq!(error.exit_code(), 6, "{error}");
    assert!(error.to_string().contains(broken.to_str().unwrap()), "{error}");
    // Where it stopped is a checkpoint; from there the run is the unbroken one.
    let reached = Saved::open(&broken).unwrap().state.step;
    assert!((4..400).contains(&reached), "step {reached}");
    let end = reached + 3;
    for dir in [&whole, &broken] {
        let saved = Saved::open(dir).unwrap();
        let backend = GpuBackend::new(shared_gpu(), &saved.model.config, saved.run.seq_len).unwrap();
        let params = saved.params(&backend, true).unwrap();
        let n = (end - saved.state.step) as usize;
        let order = Order::Shuffled { seed: 7 };
        let mut trainer = Trainer::new(saved.run, backend, params, saved.state, order);
        tiny_run::steps(&mut trainer, &data, n);
        checkpoint::save(dir, &trainer).unwrap();
    }
    let model = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
    assert!(model(&whole) == model(&broken));
}

#[test]
fn more_tokens_than_a_gpu_takes_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let config = RunConfig { device: "gpu".into(), batch_size: 1 << 15, ..settings(&dir.path().join("run")) };
    let out = config.out.clone();
    let watch = Watch { cancelled: &AtomicBool::new(false), quiet: true };
    let error = run::start(config, &watch).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    assert!(error.to_string().contains("micro_batch"), "{error}");
    assert!(!out.exists(), "something was written");
    let shape = shape();
    let refused =
        |config: &Config, seq| GpuBackend::new(shared_gpu(), config, seq).err().unwrap().to_string();
    assert!(refused(&shape, 1 << 19).contains("sequences of 524288 tokens"));
    let many = Config { vocab: 3 << 20, ..shape };
    assert!(refused(&many, SEQ).contains("a vocabulary of 3145728"));
}

#[test]
fn what_does_not_fit_is_an_error_of_the_next_answer() {
    let mut b = gpu_backend(TUNINGS[1]);
    let huge = b.buffer(1 << 33);
    b.sum_of_squares(&huge);
    let error = b.tally().unwrap_err();
    assert_eq!(error.exit_code(), 4, "{error}");
    assert!(b.read(&huge).is_err());
}

#[test]
fn a_batch_that_does_not_fit_leaves_the_checkpoint_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let mut trainer = gpu_trainer(shared_gpu(), settings(dir.path()));
    tiny_run::steps(&mut trainer, &data, 1);
    checkpoint::save(dir.path(), &trainer).unwrap();
    let before = std::fs::read(dir.path().join("model.safetensors")).unwrap();
    // 8 million tokens: the first buffer of activations would be 4 GiB.
    let large = RunConfig { batch_size: 1 << 18, ..settings(dir.path()) };
    let mut trainer = gpu_trainer(gpu(), large);
    let error = trainer.backend.tally().unwrap_err();
    assert_eq!(error.exit_code(), 4, "{error}");
    assert_eq!(checkpoint::save(dir.path(), &trainer).unwrap_err().exit_code(), 4);
    assert!(before == std::fs::read(dir.path().join("model.safetensors")).unwrap());
}

#[test]
fn without_an_adapter_gpu_is_an_error_and_auto_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("text.txt"), stories::corpus(1, 40_000).join("\n<|endoftext|>\n")).unwrap();
    let (text, run) = (at("text.txt"), at("run"));
    let train = |device: &str| {
        let tiny = ["--preset", "1m", "--seq-len", "32", "--batch-size", "2", "--set", "vocab_size=300"];
        let given = ["train", "--data", &text, "--out", &run, "--steps", "1", "--device", device];
        program(&[("BONSAI_GPU_ADAPTER", "no such adapter")], &[&given[..], &tiny].concat())
    };
    let (code, _, said) = train("gpu");
    assert_eq!(code, Some(6), "{said}");
    assert!(said.contains("no such adapter") && !Path::new(&run).exists(), "{said}");
    let (code, printed, said) = train("auto");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("training on the CPU (") && printed.starts_with("step 1: "), "{printed}{said}");
}

/// `auto` has promised a device that can do all; where that turns out wrong, it takes the CPU, and `gpu` says why not.
#[test]
fn a_shape_that_no_kernel_knows_goes_to_the_cpu_if_that_is_left_open() {
    let watch = Watch { cancelled: &AtomicBool::new(false), quiet: true };
    let choose = |device: &str, model: &Config| {
        let run = RunConfig { device: device.into(), seq_len: SEQ, ..RunConfig::default() };
        Device::Gpu(shared_gpu()).for_models(&run, model, &watch)
    };
    let odd = Config { head_dim: 30, ..shape() };
    assert!(matches!(choose("auto", &shape()), Ok(Device::Gpu(_))));
    assert!(matches!(choose("auto", &odd), Ok(Device::Cpu)));
    assert!(choose("gpu", &odd).err().unwrap().to_string().contains("a width of 30"));
}
