//! Training by the library: resuming, threads, micro-batches, gradients, learning, trouble, crashes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tiny_run;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use bonsai_runtime::Config;
use bonsai_runtime::config::{Kind, TensorSpec};
use bonsai_trainer::backend::Backend;
use bonsai_trainer::checkpoint::{self, Saved};
use bonsai_trainer::config::{OptimizerKind, Precision, RunConfig, preset};
use bonsai_trainer::cpu::CpuBackend;
use bonsai_trainer::data::{self, Batch, Dataset, IGNORE, Order};
use bonsai_trainer::formats::{Compute, LatentFormat, StateFormat};
use bonsai_trainer::model::{self, Activations};
use bonsai_trainer::params::Params;
use bonsai_trainer::random::Random;
use bonsai_trainer::run::{self, Watch};
use bonsai_trainer::schedule::RampSteps;
use bonsai_trainer::train::{State, Trainer, target_tokens};
use bonsai_trainer::{Error, bpe, corpus, stories};
use tiny_run::{VOCAB, dataset, settings, steps, trainer, trainer_with, weights};

/// The saved run in `dir`, ready to go on.
fn reopened(dir: &Path) -> Trainer<CpuBackend> {
    reopened_with(dir, |_| ())
}

fn reopened_with(dir: &Path, change: impl FnOnce(&mut RunConfig)) -> Trainer<CpuBackend> {
    let mut saved = Saved::open(dir).unwrap();
    change(&mut saved.run);
    let backend = CpuBackend::new(&saved.model.config, saved.run.seq_len).computing_in(saved.run.compute);
    let params = saved.params(&backend, true).unwrap();
    Trainer::new(saved.run, backend, params, saved.state, Order::Shuffled { seed: 7 })
}

/// Both optimizers, with all they keep in f32 and in fewer bits.
fn variants(base: &RunConfig) -> [(&'static str, RunConfig); 4] {
    let with = |optimizer, optimizer_state, latents, compute| RunConfig {
        optimizer,
        optimizer_state,
        latents,
        compute,
        ..base.clone()
    };
    let (adamw, muon) = (OptimizerKind::Adamw, OptimizerKind::Muon);
    [
        ("adamw", with(adamw, StateFormat::F32, LatentFormat::F32, Compute::F32)),
        ("muon", with(muon, StateFormat::F32, LatentFormat::F32, Compute::F32)),
        ("adamw-small", with(adamw, StateFormat::Bits8, LatentFormat::Bf16, Compute::Bf16)),
        ("muon-small", with(muon, StateFormat::Bits8, LatentFormat::Bf16, Compute::Bf16)),
    ]
}

const FILES: [&str; 5] =
    ["config.json", "run.toml", "trainer_state.json", "model.safetensors", "optimizer.safetensors"];

fn assert_same_files(a: &Path, b: &Path, names: &[&str]) {
    for name in names {
        assert!(
            std::fs::read(a.join(name)).unwrap() == std::fs::read(b.join(name)).unwrap(),
            "{name} differs"
        );
    }
}

#[test]
fn a_resumed_run_is_the_straight_run_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(&dir.path().join("data"));
    for (variant, config) in variants(&settings(dir.path())) {
        let at = |name: &str| dir.path().join(format!("{name}-{variant}"));
        let (whole, halves) = (at("whole"), at("halves"));
        let mut straight = trainer(config.clone());
        steps(&mut straight, &data, 6);
        checkpoint::save(&whole, &straight).unwrap();
        let mut first = trainer(config);
        steps(&mut first, &data, 3);
        checkpoint::save(&halves, &first).unwrap();
        let mut second = reopened(&halves);
        assert_eq!(second.state, first.state);
        steps(&mut second, &data, 3);
        checkpoint::save(&halves, &second).unwrap();
        assert_same_files(&whole, &halves, &FILES[2..]);
    }
}

/// The place in the data is counted in rows: another batch size goes on where the last one ended.
#[test]
fn another_batch_size_goes_on_in_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dataset(&dir.path().join("data")), dir.path().join("run"));
    let mut first = trainer(settings(&out));
    steps(&mut first, &data, 3);
    checkpoint::save(&out, &first).unwrap();
    let halved = || reopened_with(&out, |run| run.batch_size = 2);
    let mut second = halved();
    steps(&mut second, &data, 2);
    assert_eq!((first.state.rows, second.state.rows, second.state.step), (12, 16, 5));
    let starts = [12, 13].map(|row| Order::Shuffled { seed: 7 }.start(data.train.len(), row, 32));
    let expected = first.evaluate(&data.train, &starts).unwrap().cross_entropy;
    assert!(
        (halved().step(&data.train).unwrap().loss - expected).abs() < 1e-6,
        "its first batch is rows 12 and 13"
    );
}

/// States are compared byte for byte, so a number in text must come back to the last bit.
#[test]
fn a_state_comes_back_to_the_bit() {
    let mut random = Random::new(3);
    for _ in 0..1000 {
        let state = State { mean_loss: 1.0 + 3.0 * random.uniform(), ..State::default() };
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state, "{text}");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    for (variant, config) in variants(&settings(dir.path())) {
        let train = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut trainer = trainer(config.clone());
                steps(&mut trainer, &data, 4);
                weights(&trainer)
            })
        };
        let one = train(1);
        assert!(one == train(2), "2 threads, {variant}");
        assert!(one == train(3), "3 threads, {variant}");
    }
}

/// |a - b| / |b| in the 2-norm.
fn relative(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: f64 = a.iter().zip(b).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum();
    (difference / b.iter().map(|b| b * b).sum::<f64>().max(1e-60)).sqrt()
}

/// Rows of made-up tokens; row r ignores its first `ignored[r]` targets.
fn batch(vocab: usize, seq: usize, ignored: &[usize], seed: u64) -> Batch {
    let mut random = Random::new(seed);
    let mut ids = |n: usize| (0..n).map(|_| random.below(vocab) as u32).collect::<Vec<_>>();
    let (tokens, mut targets) = (ids(ignored.len() * seq), ids(ignored.len() * seq));
    for (row, &n) in targets.chunks_exact_mut(seq).zip(ignored) {
        row[..n].fill(IGNORE);
    }
    Batch { batch: ignored.len(), seq, tokens, targets }
}

fn rows(batch: &Batch, first: usize, n: usize) -> Batch {
    let part = |ids: &[u32]| ids[first * batch.seq..(first + n) * batch.seq].to_vec();
    Batch { batch: n, seq: batch.seq, tokens: part(&batch.tokens), targets: part(&batch.targets) }
}

/// Sums are taken in another order, f32: 1e-5 of the norm is some ten times the rounding error.
#[test]
fn micro_batches_give_the_gradient_of_one_batch() {
    let dir = tempfile::tempdir().unwrap();
    let whole = batch(VOCAB, 32, &[0, 31, 5, 20], 1); // rows of very different weight
    let scale = 1.0 / target_tokens(&whole) as f32;
    let gradients = |micro: usize| {
        let Trainer { backend: mut b, params: mut p, .. } = trainer(settings(dir.path()));
        let mut a = Activations::new(&b, &p.config, micro, whole.seq);
        for first in (0..whole.batch).step_by(micro) {
            let part = rows(&whole, first, micro);
            model::forward(&mut b, &p, &mut a, &part);
            model::backward(&mut b, &mut p, &mut a, &part, scale);
        }
        p.list.iter().map(|p| (p.spec.name.clone(), p.grad.clone().unwrap())).collect::<Vec<_>>()
    };
    let expected = gradients(4);
    for micro in [1, 2] {
        for ((name, ours), (_, expected)) in gradients(micro).iter().zip(&expected) {
            let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
            let error = relative(ours, &expected);
            assert!(error < 1e-5, "micro-batch {micro}: {name} {error:.1e}");
        }
    }
}

#[test]
fn micro_batches_make_the_same_step() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let step = |micro_batch| {
        let mut trainer = trainer(RunConfig { micro_batch, ..settings(dir.path()) });
        let step = trainer.step(&data.train).unwrap();
        (step.loss, step.grad_norm, step.tokens)
    };
    let (loss, norm, tokens) = step(4);
    assert_eq!(tokens, 128);
    for micro in [1, 2] {
        let (l, n, t) = step(micro);
        assert!(
            (l / loss - 1.0).abs() < 1e-6 && (n / norm - 1.0).abs() < 1e-5 && t == tokens,
            "{micro}: {l} {n}"
        );
    }
}

fn small(qk_norm_eps: Option<f32>, tied: bool) -> Config {
    let (hidden, intermediate, head_dim) = (64, 96, 16);
    let base = preset("1m", 61, 16).unwrap();
    Config { hidden, intermediate, layers: 2, head_dim, qk_norm_eps, tied, ..base }
}

/// Weights large enough that every tensor matters to the loss.
fn lively(spec: &TensorSpec) -> Vec<f32> {
    let seed = spec.name.bytes().fold(5u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
    let mut random = Random::new(seed);
    let spread = if spec.kind == Kind::Norm { 0.2 } else { 1.5 / (spec.cols as f64).sqrt() };
    let mean = if spec.kind == Kind::Norm { 1.0 } else { 0.0 };
    (0..spec.len()).map(|_| (mean + spread * random.normal()) as f32).collect()
}

/// Summed loss of a dense model whose tensor `at` is moved by `h` along `direction`.
fn moved_loss(config: &Config, batch: &Batch, at: usize, direction: &[f32], h: f32) -> f64 {
    let mut b = CpuBackend::new(config, batch.seq);
    let p = Params::new(
        &b,
        config,
        |_| None,
        |_| &[],
        |index, spec| {
            let mut w = lively(spec);
            if index == at {
                w.iter_mut().zip(direction).for_each(|(w, d)| *w += h * d);
            }
            w
        },
    );
    let mut a = Activations::new(&b, config, batch.batch, batch.seq);
    model::forward(&mut b, &p, &mut a, batch);
    model::loss(&mut b, &p, &a, batch);
    b.tally().unwrap().loss
}

/// Each tensor is moved along the signs of the gradient of 12 of its weights, chosen at random. Two step widths,
/// extrapolated, leave an error of h^4; the rest is that the loss is a sum of f32 rows: 1% and 2e-3 nats cover both.
fn check_gradients(qk_norm_eps: Option<f32>, tied: bool) {
    let config = small(qk_norm_eps, tied);
    let batch = batch(config.vocab, 12, &[0, 3], 2);
    let mut b = CpuBackend::new(&config, batch.seq);
    let mut p = Params::new(&b, &config, |_| None, |_| &[], |_, spec| lively(spec));
    let mut a = Activations::new(&b, &config, batch.batch, batch.seq);
    model::forward(&mut b, &p, &mut a, &batch);
    model::backward(&mut b, &mut p, &mut a, &batch, 1.0);
    let mut random = Random::new(9);
    for (at, param) in p.list.iter().enumerate() {
        let grad = param.grad.as_ref().unwrap();
        let mut direction = vec![0.0; param.spec.len()];
        for _ in 0..12 {
            let i = match param.spec.kind {
                // Rows of tokens that do not occur have no gradient in an untied embedding.
                Kind::Embedding => batch.tokens[random.below(24)] as usize * config.hidden + random.below(64),
                _ => random.below(param.spec.len()),
            };
            direction[i] = if grad[i] < 0.0 { -1.0 } else { 1.0 };
        }
        let expected: f64 = direction.iter().zip(grad).map(|(d, g)| f64::from(d * g)).sum();
        let central = |h: f32| {
            let loss = |h| moved_loss(&config, &batch, at, &direction, h);
            (loss(h) - loss(-h)) / (2.0 * f64::from(h))
        };
        let found = (4.0 * central(0.004) - central(0.008)) / 3.0;
        let error = (found - expected).abs();
        assert!(error < 1e-2 * expected + 2e-3, "{}: {expected} but moving it says {found}", param.spec.name);
        assert!(expected > 0.01, "{}: a gradient of {expected} shows nothing", param.spec.name);
    }
}

#[test]
fn gradients_are_the_slopes_of_the_loss_qwen3() {
    check_gradients(Some(1e-6), true);
    check_gradients(Some(1e-6), false);
}

#[test]
fn gradients_are_the_slopes_of_the_loss_llama() {
    check_gradients(None, false);
}

/// Loss, dh and dw in f64, all logits of a token at a time.
fn cross_entropy_f64(
    h: &[f32],
    w: &[f32],
    cols: usize,
    targets: &[u32],
    scale: f64,
) -> (f64, Vec<f64>, Vec<f64>) {
    let (mut loss, mut dh, mut dw) = (0.0, vec![0.0; h.len()], vec![0.0; w.len()]);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    for ((h, dh), &target) in h.chunks_exact(cols).zip(dh.chunks_exact_mut(cols)).zip(targets) {
        if target == IGNORE {
            continue;
        }
        let logits: Vec<f64> = w.chunks_exact(cols).map(|w| dot(h, w)).collect();
        let total: f64 = logits.iter().map(|x| x.exp()).sum();
        loss += total.ln() - logits[target as usize];
        for (v, x) in logits.iter().enumerate() {
            let d = scale * (x.exp() / total - if v == target as usize { 1.0 } else { 0.0 });
            for i in 0..cols {
                dh[i] += d * f64::from(w[v * cols + i]);
                dw[v * cols + i] += d * f64::from(h[i]);
            }
        }
    }
    (loss, dh, dw)
}

/// Vocabularies above 4096 are unpacked in several blocks, and 900 tokens of 40,000 logits come in two chunks.
#[test]
fn cross_entropy_in_chunks_is_that_of_all_logits_at_once() {
    const HIDDEN: usize = 16;
    for (vocab, tokens) in [(97, 50), (40_000, 900), (9000, 140)] {
        let mut random = Random::new(vocab as u64);
        let mut normals = |n: usize| (0..n).map(|_| random.normal() as f32).collect::<Vec<_>>();
        let (h, w) = (normals(tokens * HIDDEN), normals(vocab * HIDDEN));
        let targets = batch(vocab, tokens, &[tokens / 10], 4).targets;
        let mut b = CpuBackend::new(&small(None, true), 16);
        let matrix = b.matrix(vocab, HIDDEN, w.clone(), None);
        let (mut dh, mut dw) = (vec![7.0; h.len()], vec![0.0; w.len()]); // dh is overwritten
        b.cross_entropy_backward(&mut dh, &mut dw, &h, &matrix, &targets, 0.25, 0.0);
        let loss = b.tally().unwrap().loss;
        let (expected, expected_dh, expected_dw) = cross_entropy_f64(&h, &w, HIDDEN, &targets, 0.25);
        assert!((loss / expected - 1.0).abs() < 1e-6, "{vocab}: {loss} {expected}");
        b.cross_entropy(&h, &matrix, &targets);
        assert_eq!(loss, b.tally().unwrap().loss);
        assert!(relative(&dh, &expected_dh) < 1e-5, "{vocab}: dh {:.1e}", relative(&dh, &expected_dh));
        assert!(relative(&dw, &expected_dw) < 1e-5, "{vocab}: dw {:.1e}", relative(&dw, &expected_dw));
    }
}

#[test]
fn a_ternary_model_learns_a_small_text_by_heart() {
    let dir = tempfile::tempdir().unwrap();
    let one = stories::corpus(1, 700).join("\n");
    let split = corpus::Split {
        train: vec![one.clone(); 8],
        valid: vec![one],
        valid_fraction: None,
        seed: 0,
        dropped: 0,
        cut: false,
    };
    let options = bpe::BpeOptions { vocab_size: VOCAB, ..bpe::BpeOptions::default() };
    let tokenizer = bpe::learn(split.train.iter(), &options).unwrap();
    data::prepare(&split, &tokenizer, dir.path(), &|_| ()).unwrap();
    let data = Dataset::open(dir.path()).unwrap();
    let optimizer = OptimizerKind::Muon;
    let config =
        RunConfig { optimizer, steps: 120, batch_size: 8, warmup: 10, lr: 6e-3, ..settings(dir.path()) };
    let mut trainer = trainer(config);
    let before = trainer.validate(&data).unwrap().cross_entropy;
    assert!((before - (VOCAB as f64).ln()).abs() < 0.3, "untrained: {before}");
    steps(&mut trainer, &data, 120);
    let after = trainer.validate(&data).unwrap().cross_entropy;
    assert!(after < 0.5, "{before:.3} before, {after:.3} after");
}

static QUIET: AtomicBool = AtomicBool::new(false);

/// Weights of the saved run in `dir` with one that is no number.
fn poisoned(dir: &Path, change: impl FnOnce(&mut RunConfig)) -> Trainer<CpuBackend> {
    let saved = Saved::open(dir).unwrap();
    let mut config = saved.run.clone();
    change(&mut config);
    trainer_with(config, |index, spec| {
        let mut w = saved.model.tensors[&spec.name].to_f32();
        if index == 4 {
            w[5] = f32::NAN;
        }
        w
    })
}

#[test]
fn a_step_that_is_no_number_is_skipped_and_a_row_of_them_ends_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dataset(&dir.path().join("data")), dir.path().join("run"));
    let mut good = trainer(RunConfig { precision: Precision::Fp, ..settings(&out) });
    steps(&mut good, &data, 2);
    checkpoint::save(&out, &good).unwrap();
    let copy = dir.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for name in FILES {
        std::fs::copy(out.join(name), copy.join(name)).unwrap();
    }
    let mut bad = poisoned(&out, |_| ());
    let before = weights(&bad);
    let step = bad.step(&data.train).unwrap();
    assert!(step.skipped.is_some() && step.loss.is_nan());
    assert!(weights(&bad) == before && bad.state.updates == 0 && bad.state.bad_steps == 1);
    // A run of them: a checkpoint is due after each step, but none may replace the good one.
    let bad = poisoned(&out, |config| (config.save_every, config.max_bad_steps, config.steps) = (1, 3, 50));
    let error = run::train(bad, &data, None, &Watch { cancelled: &QUIET, quiet: true }).unwrap_err();
    assert!(matches!(error, Error::Diverged { step: 3, .. }), "{error}");
    assert_eq!(error.exit_code(), 5);
    assert_same_files(&out, &copy, &FILES);
    assert_eq!(reopened(&out).state.step, 2);
}

#[test]
fn a_spike_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let mut trainer = trainer(RunConfig { steps: 100, spike: 0.5, ..settings(dir.path()) });
    steps(&mut trainer, &data, 20);
    trainer.state.mean_loss -= 3.0; // as if the weights had been much better until now
    let before = weights(&trainer);
    let step = trainer.step(&data.train).unwrap();
    assert_eq!(step.skipped, Some("the loss jumped"));
    assert!(weights(&trainer) == before);
    assert_eq!((trainer.state.step, trainer.state.updates, trainer.state.bad_steps), (21, 20, 1));
    trainer.state.mean_loss += 3.0;
    steps(&mut trainer, &data, 1);
    assert_eq!(trainer.state.bad_steps, 0);
}

/// A ramp makes a worse model of a dense one: its loss rises, and that is no reason to stop.
#[test]
fn while_a_ramp_rises_nothing_is_a_spike() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let ramp = RunConfig {
        steps: 100,
        spike: 0.5,
        ramp: RampSteps::Steps(10),
        embedding_ramp: 5,
        ..settings(dir.path())
    };
    let mut trainer = trainer(ramp);
    steps(&mut trainer, &data, 34);
    trainer.state.mean_loss -= 3.0;
    assert_eq!(trainer.step(&data.train).unwrap().skipped, None);
    trainer.state.mean_loss -= 3.0;
    assert_eq!(trainer.step(&data.train).unwrap().skipped, Some("the loss jumped"));
}

/// Another process that opens the run (to export it, say) must not take the files of a save for those of a crash.
#[test]
fn opening_a_run_waits_for_a_save_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let saving = trainer(settings(&run));
    checkpoint::save(&run, &saving).unwrap();
    let lock = std::fs::File::options().append(true).open(run.join("LOCK")).unwrap();
    lock.lock().unwrap();
    let half = run.join("model.safetensors.new");
    std::fs::write(&half, "half").unwrap();
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| Saved::open(&run).map(|saved| saved.state.step));
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(half.exists() && !opening.is_finished());
        drop(lock);
        assert_eq!(opening.join().unwrap().unwrap(), 0);
    });
    assert!(!half.exists(), "nobody saves any more: these are what a crash left");
}

/// Every moment at which a save can be interrupted, acted out on copies of two checkpoints.
#[test]
fn a_crash_at_any_moment_leaves_a_whole_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(&dir.path().join("data"));
    let [old, new] = ["old", "new"].map(|name| dir.path().join(name));
    let mut trainer = trainer(settings(&old));
    steps(&mut trainer, &data, 1);
    checkpoint::save(&old, &trainer).unwrap();
    steps(&mut trainer, &data, 1);
    trainer.config.save_every = 9; // so that run.toml differs, too
    checkpoint::save(&new, &trainer).unwrap();
    let crash = |written: usize, cut: bool, marked: bool, renamed: usize, whole: &Path| {
        let here = dir.path().join("here");
        let _ = std::fs::remove_dir_all(&here);
        std::fs::create_dir(&here).unwrap();
        for (i, name) in FILES.iter().enumerate() {
            let from = if i < renamed { &new } else { &old };
            std::fs::copy(from.join(name), here.join(name)).unwrap();
            if i >= renamed && i < written {
                let bytes = std::fs::read(new.join(name)).unwrap();
                let keep = if cut && i + 1 == written { bytes.len() / 2 } else { bytes.len() };
                std::fs::write(here.join(format!("{name}.new")), &bytes[..keep]).unwrap();
            }
        }
        let mark = if marked { "COMMIT" } else { "COMMIT.new" };
        if written == FILES.len() && !cut {
            std::fs::write(here.join(mark), "step 2\n").unwrap();
        }
        let what = format!("{written} written (cut: {cut}), marked: {marked}, {renamed} renamed");
        let opened = Saved::open(&here).unwrap_or_else(|e| panic!("{what}: {e}"));
        let backend = CpuBackend::new(&opened.model.config, 32);
        opened.params(&backend, true).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_same_files(&here, whole, &FILES);
        let names = std::fs::read_dir(&here).unwrap().map(|entry| entry.unwrap().file_name());
        let left = names.filter(|name| name != "LOCK").count();
        assert_eq!(left, FILES.len(), "{what}: something is left behind");
    };
    for written in 1..=FILES.len() {
        crash(written, true, false, 0, &old);
        crash(written, false, false, 0, &old);
    }
    for renamed in 0..=FILES.len() {
        crash(FILES.len(), false, true, renamed, &new);
    }
}

/// `/dev/full` in the place of a file that a save writes: the disk is full there. The tensor files are not written
/// through a link, so a directory that cannot be overwritten stands for the failing disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_old_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(&dir.path().join("data"));
    let out = dir.path().join("run");
    let mut trainer = trainer(settings(&out));
    steps(&mut trainer, &data, 1);
    checkpoint::save(&out, &trainer).unwrap();
    steps(&mut trainer, &data, 1);
    for name in FILES {
        let full = format!("{name}.new");
        let tensors = name.ends_with("safetensors");
        if tensors {
            std::fs::create_dir(out.join(&full)).unwrap();
        } else {
            std::os::unix::fs::symlink("/dev/full", out.join(&full)).unwrap();
        }
        let error = checkpoint::save(&out, &trainer).unwrap_err();
        assert!(error.to_string().contains(name) && error.exit_code() == 3, "{error}");
        assert!(tensors || error.to_string().contains("No space"), "{error}");
        if tensors {
            std::fs::remove_dir(out.join(&full)).unwrap();
        }
        assert_eq!(reopened(&out).state.step, 1);
    }
    checkpoint::save(&out, &trainer).unwrap();
    assert_eq!(reopened(&out).state.step, 2);
}
