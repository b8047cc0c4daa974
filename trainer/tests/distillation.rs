//! Conversion: learning from a dense teacher, the ramp from dense to ternary weights, latents to start from.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tiny_run;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use bonsai_runtime::Config;
use bonsai_trainer::backend::{Backend, Distillation};
use bonsai_trainer::checkpoint::{self, Saved};
use bonsai_trainer::config::{Precision, RunConfig, preset};
use bonsai_trainer::cpu::CpuBackend;
use bonsai_trainer::data::{Batch, IGNORE, Order};
use bonsai_trainer::import::Import;
use bonsai_trainer::loss::teacher_path;
use bonsai_trainer::model::{self, Activations};
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
fn the_gradient_of_the_distance_between_streams_is_its_slope() {
    let mut random = Random::new(3);
    let (tokens, width) = (5, 40);
    let [x, teacher] = [1.0, 3.0].map(|spread| normals(&mut random, tokens * width, spread));
    let targets = [1, 2, IGNORE, 4, 0];
    let mut b = CpuBackend::new(&preset("1m", 97, 16).unwrap(), 16);
    let mut dx = vec![0.5; x.len()]; // it is added to what is there
    b.stream_distance_backward(&mut dx, [&x, &teacher], &targets, 0.3);
    let square = |x: &[f32]| x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
    for (i, &found) in dx.iter().enumerate() {
        let token = i / width;
        let row = &teacher[token * width..][..width];
        let distance = |step: f64| (f64::from(x[i]) + step - f64::from(teacher[i])).powi(2) / square(row);
        let slope = 0.3 * (distance(1e-4) - distance(-1e-4)) / 2e-4;
        let expected = 0.5 + if targets[token] == IGNORE { 0.0 } else { slope };
        assert!((f64::from(found) - expected).abs() < 1e-6, "{i}: {found}, not {expected}");
    }
}

/// Mean relative squared distance of the layers' outputs from those of the dense model, on a batch of text.
fn distance(dir: &Path, dense: &Path, batch: &Batch) -> f64 {
    let streams = |dir: &Path| {
        let saved = Saved::open(dir).unwrap();
        let mut b = CpuBackend::new(&saved.model.config, batch.seq);
        let params = saved.params(&b, false).unwrap();
        let mut a = Activations::with_checkpointing(&b, &params.config, batch.batch, batch.seq, true);
        model::forward(&mut b, &params, &mut a, batch);
        a.streams().to_vec()
    };
    let (ours, theirs) = (streams(dir), streams(dense));
    let square = |x: &[f32]| x.iter().map(|x| f64::from(x * x)).sum::<f64>();
    let relative = |(x, t): (&Vec<f32>, &Vec<f32>)| {
        let apart: Vec<f32> = x.iter().zip(t).map(|(x, t)| x - t).collect();
        square(&apart) / square(t)
    };
    ours.iter().zip(&theirs).map(relative).sum::<f64>() / ours.len() as f64
}

#[test]
fn learning_from_a_teachers_layers_brings_them_nearer() {
    let place = tempfile::tempdir().unwrap();
    let [data, dense, with, without] =
        ["data", "dense", "with", "without"].map(|name| place.path().join(name));
    let text = dataset(&data);
    dense_model(&dense, &data);
    let mut batch = Batch::default();
    Order::Shuffled { seed: 5 }.batch(&text.train, 0, 4, 32, &mut batch);
    let [with, without] = [(&with, 3.0), (&without, 0.0)].map(|(out, hidden_weight)| {
        let init = dense.to_str().unwrap().into();
        let config = RunConfig { init, data: vec![data.clone()], steps: 30, lr: 1e-3, ..settings(out) };
        run::start(RunConfig { hidden_weight, ..config }, &QUIET).unwrap();
        distance(out, &dense, &batch)
    });
    assert!(with < 0.8 * without, "distance {with}, and {without} from the logits alone");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let check = |change: fn(&mut RunConfig)| {
        let mut config = settings(Path::new("x"));
        change(&mut config);
        config.check().unwrap_err().to_string()
    };
    assert!(check(|c| c.temperature = 0.0).contains("temperature"));
    assert!(check(|c| c.hidden_weight = -1.0).contains("hidden_weight"));
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
    assert!(bonsai_trainer::loss::open_teacher(&run, &dense.params.config).unwrap().is_some());
    let error =
        bonsai_trainer::loss::open_teacher(&run, &Config { vocab: VOCAB + 1, ..dense.params.config.clone() })
            .err()
            .unwrap();
    assert!(error.to_string().contains("tokenizer"), "{error}");
    let run = RunConfig { hidden_weight: 1.0, ..run };
    let deeper = Config { layers: dense.params.config.layers + 1, ..dense.params.config.clone() };
    let error = bonsai_trainer::loss::open_teacher(&run, &deeper).err().unwrap();
    assert!(error.to_string().contains("layer by layer"), "{error}");
}
