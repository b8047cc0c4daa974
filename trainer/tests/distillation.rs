//! Conversion: learning from a dense teacher, the ramp from dense to ternary weights, latents to start from.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tiny_run;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use bonsai_trainer::backend::{Backend, Distillation};
use bonsai_trainer::checkpoint::{self, Saved};
use bonsai_trainer::config::{Precision, RunConfig, preset};
use bonsai_trainer::cpu::CpuBackend;
use bonsai_trainer::data::IGNORE;
use bonsai_trainer::import::Import;
use bonsai_trainer::loss::teacher_path;
use bonsai_trainer::random::Random;
use bonsai_trainer::run::{self, Watch};
use tiny_run::{VOCAB, dataset, settings, steps, trainer};

static NEVER: AtomicBool = AtomicBool::new(false);
const QUIET: Watch<'_> = Watch { cancelled: &NEVER, quiet: true };

fn normals(random: &mut Random, n: usize, spread: f64) -> Vec<f32> {
    (0..n).map(|_| (spread * random.normal()) as f32).collect()
}

/// The objective is moved along the signs of its gradient; two step widths, extrapolated. 2,200 tokens of 4,200 logits
/// come in several chunks, and vocabularies above 4,096 in several blocks.
#[test]
fn gradients_of_distillation_are_the_slopes_of_its_loss() {
    for (vocab, tokens, temperature) in [(97, 30, 1.0), (61, 40, 2.5), (4200, 2200, 2.0)] {
        let mut random = Random::new(vocab as u64);
        let (h, w) = (normals(&mut random, tokens * 16, 1.0), normals(&mut random, vocab * 16, 0.6));
        let (teacher_h, teacher_w) =
            (normals(&mut random, tokens * 8, 1.0), normals(&mut random, vocab * 8, 0.6));
        let mut targets: Vec<u32> = (0..tokens).map(|_| random.below(vocab) as u32).collect();
        targets[1] = IGNORE;
        let mut b = CpuBackend::new(&preset("1m", vocab, 16).unwrap(), 16);
        let teacher_w = b.matrix(vocab, 8, teacher_w, None);
        let terms = Distillation { temperature, kl: 0.7, cross_entropy: 0.3 };
        let (mut dh, mut dw) = (vec![7.0; h.len()], vec![0.0; w.len()]);
        let matrix = b.matrix(vocab, 16, w.clone(), None);
        b.distillation_backward(
            (&mut dh, &mut dw),
            (&h, &matrix),
            (&teacher_h, &teacher_w),
            &targets,
            terms,
            1.0,
        );
        assert!(dh[16..32].iter().all(|&d| d == 0.0), "an ignored token has a gradient");
        let sign = |d: &[f32]| d.iter().map(|d| d.signum()).collect::<Vec<f32>>();
        let moved = |x: &[f32], by: &[f32], step: f32| -> Vec<f32> {
            x.iter().zip(by).map(|(x, by)| x + step * by).collect()
        };
        for (name, gradient, of_h) in [("h", &dh, true), ("w", &dw, false)] {
            let direction = sign(gradient);
            let expected: f64 = gradient.iter().map(|&d| f64::from(d.abs())).sum();
            let mut loss = |step: f32| {
                let h = if of_h { moved(&h, &direction, step) } else { h.clone() };
                let w = if of_h { w.clone() } else { moved(&w, &direction, step) };
                let w = b.matrix(vocab, 16, w, None);
                b.tally().unwrap();
                b.distillation((&h, &w), (&teacher_h, &teacher_w), &targets, terms);
                let sums = b.tally().unwrap();
                0.3 * sums.loss + 0.7 * f64::from(temperature).powi(2) * sums.kl
            };
            let mut central = |step: f32| (loss(step) - loss(-step)) / (2.0 * f64::from(step));
            let found = (4.0 * central(0.004) - central(0.008)) / 3.0;
            assert!(
                (found / expected - 1.0).abs() < 2e-3,
                "{name}, {vocab} tokens: {expected}, moving says {found}"
            );
        }
    }
}

/// A trained dense model in `dir`, as a run.
fn dense_model(dir: &Path, data: &Path) -> RunConfig {
    let config = RunConfig { precision: Precision::Fp, lr: 3e-3, ..settings(dir) };
    let mut dense = trainer(config.clone());
    steps(&mut dense, &bonsai_trainer::data::Dataset::open(data).unwrap(), 60);
    checkpoint::save(dir, &dense).unwrap();
    std::fs::copy(data.join("tokenizer.json"), dir.join("tokenizer.json")).unwrap();
    config
}

#[test]
fn a_conversion_comes_nearer_to_its_teacher_and_resumes_to_the_bit() {
    let place = tempfile::tempdir().unwrap();
    let [data, dense, whole, half] = ["data", "dense", "whole", "half"].map(|name| place.path().join(name));
    dataset(&data);
    dense_model(&dense, &data);
    let config = |out: &Path| RunConfig {
        init: dense.to_str().unwrap().into(),
        data: vec![data.clone()],
        steps: 30,
        lr: 1e-3,
        ramp: 4,
        embedding_ramp: 4,
        save_every: 6,
        ..settings(out)
    };
    assert_eq!(teacher_path(&config(&whole)).unwrap().as_ref(), Some(&dense));
    run::start(config(&whole), &QUIET).unwrap();
    let metrics = std::fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
    let kl: Vec<f64> = metrics
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["valid_kl"].as_f64())
        .collect();
    assert!(kl.len() == 2 && kl[1] < 0.6 * kl[0], "validation divergence {kl:?}");
    // Stopped inside the ramp and resumed: the same bytes.
    run::start(RunConfig { max_bad_steps: 1, ..config(&half) }, &stop_after(&half, 6)).unwrap();
    run::resume(&half, Ok, &QUIET).unwrap();
    for name in ["model.safetensors", "optimizer.safetensors"] {
        assert!(
            std::fs::read(whole.join(name)).unwrap() == std::fs::read(half.join(name)).unwrap(),
            "{name}"
        );
    }
    // A ternary run is no teacher of its own continuation, unless it is named.
    let again = RunConfig { init: whole.to_str().unwrap().into(), ..config(&half) };
    assert_eq!(teacher_path(&again).unwrap(), None);
    assert!(Saved::open(&half).unwrap().run.ramp == 4);
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
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        flag.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    Watch { cancelled: flag, quiet: true }
}

#[test]
fn the_ramp_goes_from_dense_to_ternary() {
    let place = tempfile::tempdir().unwrap();
    let data = dataset(place.path());
    let mut ternary = trainer(settings(place.path()));
    let mut dense = trainer(RunConfig { precision: Precision::Fp, ..settings(place.path()) });
    let loss = |trainer: &mut bonsai_trainer::train::Trainer<CpuBackend>, share: f32| {
        for param in &mut trainer.params.list {
            trainer.backend.ramp(&mut param.value, share);
        }
        let batch =
            bonsai_trainer::data::Batch { batch: 1, seq: 32, tokens: vec![5; 32], targets: vec![9; 32] };
        let mut a = bonsai_trainer::model::Activations::new(&trainer.backend, &trainer.params.config, 1, 32);
        bonsai_trainer::model::forward(&mut trainer.backend, &trainer.params, &mut a, &batch);
        bonsai_trainer::model::loss(&mut trainer.backend, &trainer.params, &a, &batch);
        trainer.backend.tally().unwrap().loss
    };
    let fp = loss(&mut dense, 1.0);
    assert_eq!(loss(&mut ternary, 0.0), fp, "share 0 is the dense model");
    let (half, full) = (loss(&mut ternary, 0.5), loss(&mut ternary, 1.0));
    assert!(half != fp && full != fp && half != full);
    // Validation is that of the ternary model, wherever the ramp is.
    let valid = |ramp| {
        let mut trainer = trainer(RunConfig { ramp, ..settings(place.path()) });
        trainer.validate(&data).unwrap().cross_entropy
    };
    assert_eq!(valid(0), valid(1000));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let check = |change: fn(&mut RunConfig)| {
        let mut config = settings(Path::new("x"));
        change(&mut config);
        config.check().unwrap_err().to_string()
    };
    assert!(check(|c| c.temperature = 0.0).contains("temperature"));
    assert!(check(|c| c.kl_weight = 0.0).contains("kl_weight"));
    assert!(check(|c| (c.import, c.scale_rule) = (Import::Warp, "refit".into())).contains("absmean"));
}

#[test]
fn a_teacher_of_another_vocabulary_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("dense");
    let data = dataset(&place.path().join("data"));
    let mut dense = trainer(RunConfig { precision: Precision::Fp, ..settings(&out) });
    steps(&mut dense, &data, 1);
    checkpoint::save(&out, &dense).unwrap();
    let run = RunConfig { teacher: out.to_str().unwrap().into(), ..settings(&out) };
    assert!(bonsai_trainer::loss::open_teacher(&run, VOCAB).unwrap().is_some());
    let error = bonsai_trainer::loss::open_teacher(&run, VOCAB + 1).err().unwrap();
    assert!(error.to_string().contains("tokenizer"), "{error}");
}
