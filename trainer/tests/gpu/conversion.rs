//! A conversion on the GPU: learning from a teacher, the ramp, each scale rule, and going on after a break.

use std::path::Path;

use bonsai_trainer::config::Precision;
use bonsai_trainer::data::Dataset;
use bonsai_trainer::schedule::RampSteps;

use super::*;

/// Validation losses and divergences of a run, in the order of the steps.
fn validations(run: &Path) -> Vec<[f64; 2]> {
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter_map(|v| Some([v["valid_loss"].as_f64()?, v["valid_kl"].as_f64()?])).collect()
}

#[test]
fn a_conversion_with_its_defaults_is_that_of_the_cpu_and_resumes_to_the_bit() {
    let place = tempfile::tempdir().unwrap();
    let [data, dense, cpu, gpu, half] =
        ["data", "dense", "cpu", "gpu", "half"].map(|name| place.path().join(name));
    dataset(&data);
    let fp = RunConfig { precision: Precision::Fp, lr: 3e-3, ..settings(&dense) };
    let mut teacher = tiny_run::trainer(fp);
    tiny_run::steps(&mut teacher, &Dataset::open(&data).unwrap(), 40);
    checkpoint::save(&dense, &teacher).unwrap();
    std::fs::copy(data.join("tokenizer.json"), dense.join("tokenizer.json")).unwrap();
    let config = |out: &Path, device: &str, steps| RunConfig {
        init: dense.to_str().unwrap().into(),
        data: vec![data.clone()],
        device: device.into(),
        steps,
        eval_every: 6,
        save_every: 6,
        ramp: RampSteps::Steps(3),
        embedding_ramp: 2,
        ..settings(out)
    };
    let watch = Watch { cancelled: &AtomicBool::new(false), quiet: true };
    run::start(config(&cpu, "cpu", 12), &watch).unwrap();
    run::start(config(&gpu, "gpu", 12), &watch).unwrap();
    let [expected, got] = [&cpu, &gpu].map(|run| validations(run));
    println!("loss and divergence, CPU {expected:?}, GPU {got:?}");
    assert!(expected.len() == 3 && got.len() == 3);
    let near = |a: &f64, b: &f64| (a - b).abs() < 0.02;
    assert!(expected.iter().zip(&got).all(|(a, b)| a.iter().zip(b).all(|(a, b)| near(a, b))));
    assert!(got[2][1] < 0.8 * got[0][1], "the divergence falls");
    // Layers: the report knows each kind, as on the CPU.
    let metrics = std::fs::read_to_string(gpu.join("metrics.jsonl")).unwrap();
    let last = metrics.lines().rfind(|line| line.contains("\"layers\"")).unwrap();
    let layers = &serde_json::from_str::<serde_json::Value>(last).unwrap()["layers"];
    for kind in ["embed", "q", "k", "v", "o", "gate", "up", "down"] {
        for word in ["zero_fraction", "flip_rate", "grad_norm"] {
            assert!(layers[kind][word].is_f64(), "{kind}, {word}: {last}");
        }
    }
    // A schedule of twelve steps, stopped after six and resumed.
    run::start(config(&half, "gpu", 12), &stop_after(&half, 6)).unwrap();
    assert!(Saved::open(&half).unwrap().state.step < 12);
    run::resume(&half, Ok, &watch).unwrap();
    for name in ["model.safetensors", "optimizer.safetensors"] {
        let [whole, half] = [&gpu, &half].map(|run| std::fs::read(run.join(name)).unwrap());
        assert!(whole == half, "{name}");
    }
}

/// A watch that asks the run in `dir` to stop once its checkpoint of step `step` is there.
fn stop_after(dir: &Path, step: u64) -> Watch<'static> {
    let flag: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let state = dir.join("trainer_state.json");
    std::thread::spawn(move || {
        let reached = || {
            let text = std::fs::read_to_string(&state).unwrap_or_default();
            serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|v| v["step"].as_u64() >= Some(step))
        };
        while !reached() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        flag.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    Watch { cancelled: flag, quiet: true }
}

#[test]
fn every_scale_rule_trains_as_on_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    for rule in [ScaleRule::Twn, ScaleRule::LeastSquares, ScaleRule::Absmax] {
        let config = RunConfig { scale_rule: rule.name().into(), z_loss: 1e-3, ..settings(dir.path()) };
        let (mut cpu, mut gpu) = (tiny_run::trainer(config.clone()), gpu_trainer(shared_gpu(), config));
        for n in 0..3 {
            let (a, b) = (cpu.step(&data.train).unwrap(), gpu.step(&data.train).unwrap());
            assert!((a.loss - b.loss).abs() < 2e-3, "{rule:?} step {n}: CPU {a:?}, GPU {b:?}");
        }
    }
}
