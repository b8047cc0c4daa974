//! Conversion: learning from a dense teacher, the ramp from dense to ternary weights, latents to start from.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tiny_run;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use bonsai_runtime::Config;
use bonsai_trainer::backend::{Backend, Distillation, Likeliest, Losses, Tally, Teaching};
use bonsai_trainer::checkpoint::{self, Saved};
use bonsai_trainer::config::{Precision, RunConfig, preset};
use bonsai_trainer::cpu::{CpuBackend, CpuMatrix};
use bonsai_trainer::data::{Batch, IGNORE, Order};
use bonsai_trainer::formats::Compute;
use bonsai_trainer::import::Import;
use bonsai_trainer::loss::teacher_path;
use bonsai_trainer::model::{self, Activations};
use bonsai_trainer::random::Random;
use bonsai_trainer::run::{self, Watch};
use bonsai_trainer::schedule::RampSteps;
use bonsai_trainer::teacher_cache::TeacherCache;
use tiny_run::{VOCAB, dataset, settings, steps, trainer};

static NEVER: AtomicBool = AtomicBool::new(false);
const QUIET: Watch<'_> = Watch { cancelled: &NEVER, quiet: true };

fn normals(random: &mut Random, n: usize, spread: f64) -> Vec<f32> {
    (0..n).map(|_| (spread * random.normal()) as f32).collect()
}

/// A student's head, a teacher's and targets, of random numbers.
struct Heads {
    b: CpuBackend,
    vocab: usize,
    h: Vec<f32>,
    w: Vec<f32>,
    teacher_h: Vec<f32>,
    teacher_w: CpuMatrix,
    targets: Vec<u32>,
}

impl Heads {
    fn new(vocab: usize, tokens: usize) -> Self {
        let mut random = Random::new(vocab as u64);
        let (h, w) = (normals(&mut random, tokens * 16, 1.0), normals(&mut random, vocab * 16, 0.6));
        let (teacher_h, teacher_w) =
            (normals(&mut random, tokens * 8, 1.0), normals(&mut random, vocab * 8, 0.6));
        let mut targets: Vec<u32> = (0..tokens).map(|_| random.below(vocab) as u32).collect();
        targets[1] = IGNORE;
        let b = CpuBackend::new(&preset("1m", vocab, 16).unwrap(), 16);
        let teacher_w = b.matrix(vocab, 8, teacher_w, None);
        Self { b, vocab, h, w, teacher_h, teacher_w, targets }
    }

    fn likeliest(&mut self, k: usize, temperature: f32) -> Likeliest {
        self.b.likeliest((&self.teacher_h, &self.teacher_w), k, temperature)
    }

    /// Losses, `dh` and `dw`; the teacher is asked itself, or its likeliest tokens were written down.
    fn gradients(&mut self, likeliest: Option<&Likeliest>, terms: Distillation) -> (Losses, [Vec<f32>; 2]) {
        let Self { b, vocab, h, w, teacher_h, teacher_w, targets } = self;
        let teacher = likeliest.map_or(Teaching::Head(teacher_h, teacher_w), Teaching::Likeliest);
        let (mut dh, mut dw) = (vec![7.0; h.len()], vec![0.0; w.len()]);
        let matrix = b.matrix(*vocab, 16, w.clone(), None);
        b.distillation_backward((&mut dh, &mut dw), (h, &matrix), teacher, targets, terms, 1.0);
        let Tally { loss: cross_entropy, kl, .. } = b.tally().unwrap();
        (Losses { cross_entropy, kl }, [dh, dw])
    }

    /// The objective of other `h` and `w`.
    fn objective(
        &mut self,
        [h, w]: [&Vec<f32>; 2],
        likeliest: Option<&Likeliest>,
        terms: Distillation,
    ) -> f64 {
        let Self { b, vocab, teacher_h, teacher_w, targets, .. } = self;
        let teacher = likeliest.map_or(Teaching::Head(teacher_h, teacher_w), Teaching::Likeliest);
        let w = b.matrix(*vocab, 16, w.clone(), None);
        b.distillation((h, &w), teacher, targets, terms);
        let sums = b.tally().unwrap();
        let [ce, kl, temperature] = [terms.cross_entropy, terms.kl, terms.temperature].map(f64::from);
        ce * sums.loss + kl * temperature.powi(2) * sums.kl
    }
}

/// The objective is moved along the signs of its gradient; two step widths, extrapolated. 900 tokens of 40,000 logits
/// come in two chunks, and vocabularies above 4,096 in several blocks.
#[test]
fn gradients_of_distillation_are_the_slopes_of_its_loss() {
    for (vocab, tokens, temperature) in [(97, 30, 1.0), (61, 40, 2.5), (40_000, 900, 2.0)] {
        let mut heads = Heads::new(vocab, tokens);
        let terms = Distillation { temperature, kl: 0.7, cross_entropy: 0.3 };
        let some = heads.likeliest(7, temperature);
        for likeliest in [None, Some(&some)] {
            let (_, [dh, dw]) = heads.gradients(likeliest, terms);
            assert!(dh[16..32].iter().all(|&d| d == 0.0), "an ignored token has a gradient");
            let sign = |d: &[f32]| d.iter().map(|d| d.signum()).collect::<Vec<f32>>();
            let moved = |x: &[f32], by: &[f32], step: f32| -> Vec<f32> {
                x.iter().zip(by).map(|(x, by)| x + step * by).collect()
            };
            for (name, gradient, of_h) in [("h", &dh, true), ("w", &dw, false)] {
                let direction = sign(gradient);
                let expected: f64 = gradient.iter().map(|&d| f64::from(d.abs())).sum();
                let mut loss = |step: f32| {
                    let h = if of_h { moved(&heads.h, &direction, step) } else { heads.h.clone() };
                    let w = if of_h { heads.w.clone() } else { moved(&heads.w, &direction, step) };
                    heads.objective([&h, &w], likeliest, terms)
                };
                let mut central = |step: f32| (loss(step) - loss(-step)) / (2.0 * f64::from(step));
                let found = (4.0 * central(0.004) - central(0.008)) / 3.0;
                let from = if likeliest.is_some() { "its likeliest tokens" } else { "the teacher" };
                assert!(
                    (found / expected - 1.0).abs() < 2e-3,
                    "{name}, {vocab} tokens, {from}: {expected}, moving says {found}"
                );
            }
        }
    }
}

/// All tokens written down are the teacher itself, up to the rounding to f16; fewer give a divergence that is smaller.
#[test]
fn likeliest_tokens_are_the_teachers() {
    let mut heads = Heads::new(300, 20);
    let terms = Distillation { temperature: 1.5, kl: 1.0, cross_entropy: 0.2 };
    let (whole, d_whole) = heads.gradients(None, terms);
    let mut before = 0.0;
    for k in [1, 10, 100, 300, 1000] {
        let likeliest = heads.likeliest(k, terms.temperature);
        assert_eq!((likeliest.k, likeliest.ids.len()), (k.min(300), 20 * k.min(300)));
        let sorted = |p: &[half::f16]| p.windows(2).all(|two| two[0] >= two[1]);
        assert!(likeliest.log_p.chunks(likeliest.k).all(sorted));
        let (some, d_some) = heads.gradients(Some(&likeliest), terms);
        assert_eq!(some.cross_entropy, whole.cross_entropy);
        assert!(some.kl > before && some.kl < 1.002 * whole.kl, "{k}: {} of {}", some.kl, whole.kl);
        before = some.kl * 0.998;
        if k >= 300 {
            assert!((some.kl / whole.kl - 1.0).abs() < 2e-3, "{} and {}", some.kl, whole.kl);
            for (some, whole) in d_some.iter().zip(&d_whole) {
                let square = |x: &[f32]| x.iter().map(|x| f64::from(x * x)).sum::<f64>();
                let apart: Vec<f32> = some.iter().zip(whole).map(|(a, b)| a - b).collect();
                assert!(square(&apart) < 1e-6 * square(whole), "{} of {}", square(&apart), square(whole));
            }
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

/// A conversion of that model, which it is to learn from.
fn conversion(dense: &Path, data: &Path, out: &Path) -> RunConfig {
    let (init, data) = (dense.to_str().unwrap().into(), vec![data.to_path_buf()]);
    RunConfig { init, data, steps: 30, lr: 1e-3, save_every: 6, ..settings(out) }
}

#[test]
fn a_conversion_comes_nearer_to_its_teacher_and_resumes_to_the_bit() {
    let place = tempfile::tempdir().unwrap();
    let [data, dense, whole, half] = ["data", "dense", "whole", "half"].map(|name| place.path().join(name));
    dataset(&data);
    dense_model(&dense, &data);
    let config = |out: &Path| RunConfig {
        ramp: RampSteps::Steps(4),
        embedding_ramp: 4,
        ..conversion(&dense, &data, out)
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
    assert!(Saved::open(&half).unwrap().run.ramp == RampSteps::Steps(4));
}

#[test]
fn a_teacher_cache_is_asked_first_and_gives_the_same_bytes() {
    let place = tempfile::tempdir().unwrap();
    let names = ["data", "dense", "first", "second", "half", "cache.bin"];
    let [data, dense, first, second, half, cache] = names.map(|name| place.path().join(name));
    let text = dataset(&data);
    dense_model(&dense, &data);
    let config = |out: &Path| RunConfig {
        teacher_cache: cache.clone(),
        teacher_top_k: 20,
        ..conversion(&dense, &data, out)
    };
    let model = |out: &Path| std::fs::read(out.join("model.safetensors")).unwrap();
    run::start(config(&first), &QUIET).unwrap();
    let whole = std::fs::read(&cache).unwrap();
    // Stopped, resumed, with a record of which a crash left a half, and one that is damaged: the same bytes.
    let record = 16 + 6 * 20 * settings(&first).seq_len;
    std::fs::write(&cache, &whole[..32 + 3 * record + 100]).unwrap();
    run::start(config(&half), &stop_after(&half, 6)).unwrap();
    let mut bytes = std::fs::read(&cache).unwrap();
    bytes[32 + 5 * record + 40] ^= 1;
    std::fs::write(&cache, bytes).unwrap();
    run::resume(&half, Ok, &QUIET).unwrap();
    assert!(model(&half) == model(&first));
    // A second run asks nobody.
    std::fs::write(&cache, &whole).unwrap();
    run::start(config(&second), &QUIET).unwrap();
    assert!(model(&second) == model(&first) && std::fs::read(&cache).unwrap() == whole);
    let (run, teacher) = (config(&second), bonsai_runtime::ModelFile::open(&dense).unwrap());
    let mut opened = TeacherCache::open(&run, &teacher).unwrap().unwrap();
    let (order, mut batch) = (Order::Repeated { seed: run.seed }, Batch::default());
    for step in 0..run.steps {
        order.batch(&text.train, step * 4, 4, run.seq_len, &mut batch);
        opened.fill(&batch, || panic!("step {step} is known")).unwrap();
    }
    assert_eq!((opened.windows(), opened.word().ids.len()), ((whole.len() - 32) / record, 4 * 32 * 20));
    drop(opened);
    // What does not fit is refused, and stays as it is.
    let refused = |change: &dyn Fn(&mut RunConfig), why: &str| {
        let mut config = config(&place.path().join("refused"));
        change(&mut config);
        let error = run::start(config, &QUIET).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    refused(&|c| c.temperature = 2.0, "another teacher, seq_len, teacher_top_k or temperature");
    refused(&|c| c.compute = Compute::Bf16, "another teacher");
    refused(&|c| c.teacher = "none".into(), "without a teacher");
    refused(&|c| c.teacher_top_k = 21, "another teacher, seq_len, teacher_top_k or temperature");
    refused(&|c| c.teacher_cache = dense.join("model.safetensors"), "no teacher cache");
    refused(&|c| c.hidden_weight = 1.0, "hidden_weight must be 0");
    let lock = std::fs::File::open(&cache).unwrap();
    lock.lock().unwrap();
    refused(&|_| (), "another run uses it");
    assert!(std::fs::read(&cache).unwrap() == whole);
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
        let mut trainer = trainer(RunConfig { ramp: RampSteps::Steps(ramp), ..settings(place.path()) });
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
        run::start(RunConfig { hidden_weight, ..conversion(&dense, &data, out) }, &QUIET).unwrap();
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
