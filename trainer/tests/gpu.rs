//! The GPU: every operation against the CPU backend, and whole runs. Needs an adapter; Mesa's lavapipe will do.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "tests")]

#[cfg(feature = "shader-tests")]
#[path = "../../runtime/tests/support/shaders.rs"]
mod shaders;
mod tiny_run;

use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use bonsai_runtime::Config;
use bonsai_runtime::gpu::device::{Gpu, GpuOptions};
use bonsai_runtime::ternary::ScaleRule;
use bonsai_trainer::backend::{AdamW, AttentionShape, Backend, Clip, Muon, Projection};
use bonsai_trainer::checkpoint::{self, Saved};
use bonsai_trainer::config::{OptimizerKind, RunConfig, preset};
use bonsai_trainer::cpu::CpuBackend;
use bonsai_trainer::data::{IGNORE, Order};
use bonsai_trainer::fit::Forecast;
#[cfg(feature = "shader-tests")]
use bonsai_trainer::gpu::SHADERS;
use bonsai_trainer::gpu::{GpuBackend, Tuning};
use bonsai_trainer::random::Random;
use bonsai_trainer::run::{self, Watch};
use bonsai_trainer::train::Trainer;
use bonsai_trainer::{params, stories};
use tiny_run::{dataset, settings, weights};

/// Longest sequence that the backends of these tests know angles for.
const SEQ: usize = 64;
/// Each kind of product; a small span cuts every buffer of these tests into pieces.
const TUNINGS: [Tuning; 2] = [Tuning { span: 1 << 16, tiled: true }, Tuning { span: 1 << 25, tiled: false }];

fn shape() -> Config {
    preset("1m", 300, SEQ).unwrap()
}

/// A device of a test's own.
fn gpu() -> Gpu {
    Gpu::open(&GpuOptions::default()).unwrap()
}

/// One device for all tests that harm nobody: its kernels are compiled once.
fn shared_gpu() -> Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(gpu).clone()
}

fn gpu_backend(tuning: Tuning) -> GpuBackend {
    GpuBackend::with_tuning(shared_gpu(), &shape(), SEQ, tuning).unwrap()
}

fn cpu_backend() -> CpuBackend {
    CpuBackend::new(&shape(), SEQ)
}

fn normals(seed: u64, n: usize) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..n).map(|_| random.normal() as f32).collect()
}

/// |a - b|^2 / |b|^2
fn nmse(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>();
    let off = squares(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    off / squares(&mut b.iter().map(|&b| f64::from(b))).max(1e-60)
}

/// Buffers with these numbers.
fn filled<B: Backend>(b: &B, values: &[f32]) -> B::Buffer {
    let mut buffer = b.buffer(values.len());
    b.write(&mut buffer, values);
    buffer
}

/// What a test does on either backend: named results.
type Results = Vec<(String, Vec<f32>)>;

/// Runs the same on the CPU and on the GPU, cut in either way, and compares within `bound` (NMSE).
macro_rules! compare {
    ($bound:expr, $work:ident($($argument:expr),*)) => {{
        let expected = $work(&mut cpu_backend() $(, $argument)*);
        for tuning in TUNINGS {
            let got = $work(&mut gpu_backend(tuning) $(, $argument)*);
            assert_eq!(got.len(), expected.len());
            for ((name, got), (_, expected)) in got.iter().zip(&expected) {
                let error = nmse(got, expected);
                println!("{name} ({tuning:?}): NMSE {error:.1e}");
                assert!(error < $bound, "{name}: NMSE {error:.1e} is not below {:.0e}", $bound);
            }
        }
    }};
}

// Behind the macro that they use.
#[path = "gpu/conversion.rs"]
mod conversion;
#[path = "gpu/failures.rs"]
mod failures;
#[path = "gpu/losses.rs"]
mod losses;
#[path = "gpu/memory.rs"]
mod memory;

#[cfg(feature = "shader-tests")]
#[test]
fn shaders_translate_for_every_system() {
    for shader in SHADERS {
        shaders::check(shader);
    }
}

const PROJECTION: Projection = Projection { group: 64, rule: ScaleRule::Absmean };

fn linear<B: Backend>(b: &mut B, [t, n, k]: [usize; 3], projection: Option<Projection>) -> Results {
    let w = b.matrix(n, k, normals(1, n * k), projection);
    let (x, dy) = (filled(b, &normals(2, t * k)), filled(b, &normals(3, t * n)));
    let (mut y, mut dx, mut dw) =
        (b.buffer(t * n), filled(b, &normals(4, t * k)), filled(b, &normals(5, n * k)));
    b.linear(&mut y, &x, &w);
    let mut results = Vec::new();
    b.linear_backward(&mut dx, false, &mut dw, &dy, &x, &w);
    results.push(("linear dx".into(), b.read(&dx).unwrap().into_owned()));
    b.linear_backward(&mut dx, true, &mut dw, &dy, &x, &w);
    for (name, buffer) in [("y", &y), ("dx, accumulated", &dx), ("dw", &dw)] {
        results.push((format!("linear {t} x {n} x {k}: {name}"), b.read(buffer).unwrap().into_owned()));
    }
    results
}

#[test]
fn products_are_those_of_the_cpu() {
    // f32 sums of up to 300 products in another order: NMSE of about 1e-14.
    for projection in [None, Some(PROJECTION), Some(Projection { group: 128, ..PROJECTION })] {
        for size in [[1, 4, 128], [37, 100, 128], [130, 68, 256], [300, 132, 384], [70, 520, 256]] {
            compare!(1e-12, linear(size, projection));
        }
    }
}

fn norms<B: Backend>(b: &mut B, runs: usize, n: usize) -> Results {
    let gain = b.matrix(1, n, normals(1, n), None);
    let (x, dy) = (filled(b, &normals(2, runs * n)), filled(b, &normals(3, runs * n)));
    let (mut out, mut dx) = (b.buffer(runs * n), filled(b, &normals(4, runs * n)));
    let mut d_gain = filled(b, &normals(5, n));
    b.rms_norm(&mut out, &x, &gain, 1e-6);
    b.rms_norm_backward(&mut dx, true, &mut d_gain, [&dy, &x], &gain, 1e-6);
    let added = b.read(&dx).unwrap().into_owned();
    b.rms_norm_backward(&mut dx, false, &mut d_gain, [&dy, &x], &gain, 1e-6);
    let read =
        |name: &str, buffer| (format!("rms_norm {runs} x {n}: {name}"), b.read(buffer).unwrap().into_owned());
    vec![read("out", &out), ("rms_norm dx, added".into(), added), read("dx", &dx), read("d_gain", &d_gain)]
}

#[test]
fn norms_are_those_of_the_cpu() {
    for (runs, n) in [(1, 4), (77, 12), (1000, 32), (301, 128), (65, 1020), (20, 2048)] {
        compare!(1e-12, norms(runs, n));
    }
}

fn elementwise<B: Backend>(b: &mut B, n: usize) -> Results {
    let [x, y, d] = [1, 2, 3].map(|seed| normals(seed, n).iter().map(|x| 10.0 * x).collect::<Vec<_>>());
    let d_out = filled(b, &d);
    let (mut gate, mut up) = (filled(b, &x), filled(b, &y));
    let (mut out, mut sum, mut copy) = (b.buffer(n), filled(b, &x), b.buffer(n));
    b.swiglu(&mut out, &gate, &up);
    b.swiglu_backward(&mut gate, &mut up, &d_out);
    b.add(&mut sum, &d_out);
    b.copy(&mut copy, &sum);
    b.clear(&mut sum);
    b.sum_of_squares(&copy);
    let squares = b.tally().unwrap().squares;
    let read = |name: &str, buffer| (format!("{name} of {n}"), b.read(buffer).unwrap().into_owned());
    assert!(b.read(&sum).unwrap().iter().all(|&x| x == 0.0));
    vec![
        read("swiglu", &out),
        read("swiglu gate", &gate),
        read("swiglu up", &up),
        read("copy", &copy),
        (
            format!("sum_of_squares of {n}"),
            vec![squares as f32, (squares - f64::from(squares as f32)) as f32],
        ),
    ]
}

#[test]
fn elementwise_operations_are_those_of_the_cpu() {
    for n in [1, 30, 1023, 70_001] {
        compare!(1e-12, elementwise(n));
    }
}

#[test]
fn sums_of_squares_have_more_digits_than_f32() {
    let n = 3_000_000;
    let values = normals(9, n);
    let exact: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let mut b = gpu_backend(TUNINGS[1]);
    let x = filled(&b, &values);
    b.sum_of_squares(&x);
    let error = (b.tally().unwrap().squares / exact - 1.0).abs();
    println!("sum of {n} squares: relative error {error:.1e}");
    assert!(error < 1e-8, "{error:.1e}");
}

fn attention<B: Backend>(b: &mut B, shape: AttentionShape) -> Results {
    let t = shape.batch * shape.seq;
    let (wide, narrow) = (t * shape.heads * shape.head_dim, t * shape.kv_heads * shape.head_dim);
    let (mut q, k) = (filled(b, &normals(1, wide)), filled(b, &normals(2, narrow)));
    let (v, d_out) = (filled(b, &normals(3, narrow)), filled(b, &normals(4, wide)));
    if shape.head_dim == 32 {
        b.rope(&mut q, shape);
    }
    let (mut out, mut lse) = (b.buffer(wide), b.buffer(t * shape.heads));
    b.attention(&mut out, &mut lse, [&q, &k, &v], shape);
    let (mut dq, mut dk, mut dv) = (b.buffer(wide), b.buffer(narrow), b.buffer(narrow));
    b.attention_backward([&mut dq, &mut dk, &mut dv], &d_out, &out, &lse, [&q, &k, &v], shape);
    if shape.head_dim == 32 {
        b.rope_backward(&mut dq, shape);
    }
    let all = [("rope", &q), ("out", &out), ("lse", &lse), ("dq", &dq), ("dk", &dk), ("dv", &dv)];
    all.map(|(name, buffer)| (format!("attention {shape:?}: {name}"), b.read(buffer).unwrap().into_owned()))
        .into()
}

#[test]
fn attention_and_rope_are_those_of_the_cpu() {
    for (batch, seq, heads, kv_heads, head_dim) in [
        (1, 1, 1, 1, 32),
        (3, 17, 4, 2, 32),
        (2, 33, 3, 3, 20),
        (1, 50, 8, 2, 100),
        (1, 40, 2, 1, 256),
        (3, 64, 8, 4, 64),
    ] {
        // exp of the device, and scores summed in another order.
        compare!(1e-11, attention(AttentionShape { batch, seq, heads, kv_heads, head_dim }));
    }
}

fn embedding<B: Backend>(b: &mut B, projection: Option<Projection>) -> Results {
    let (vocab, cols, t) = (211, 128, 90);
    let table = b.matrix(vocab, cols, normals(1, vocab * cols), projection);
    let tokens: Vec<u32> = (0..t).map(|i| (i * i * 7 % 211) as u32).collect();
    let (mut out, d_out) = (b.buffer(t * cols), filled(b, &normals(2, t * cols)));
    let mut d_table = filled(b, &normals(3, vocab * cols));
    b.embed(&mut out, &table, &tokens);
    b.embed_backward(&mut d_table, &d_out, &tokens);
    let read = |name: &str, buffer| (name.to_string(), b.read(buffer).unwrap().into_owned());
    vec![read("embed", &out), read("embed_backward", &d_table)]
}

#[test]
fn embeddings_are_those_of_the_cpu_to_the_bit() {
    for projection in [None, Some(PROJECTION)] {
        compare!(1e-30, embedding(projection));
    }
}

fn updates<B: Backend>(b: &mut B, rows: usize, projection: Option<Projection>, clip: Clip) -> Results {
    let cols = 256;
    let n = rows * cols;
    let mut w = b.matrix(rows, cols, normals(1, n), projection);
    let (mut grad, mut m) = (b.buffer(n), [b.buffer(n), b.buffer(n)]);
    let mut results = Vec::new();
    for t in 1..=3 {
        b.write(&mut grad, &normals(10 + t, n));
        let (beta1, beta2, eps, weight_decay) = (0.9, 0.95, 1e-8, 0.1);
        b.adamw(&mut w, &mut grad, &mut m, AdamW { lr: 0.02, beta1, beta2, eps, weight_decay, t, clip });
        let codes = b.tally().unwrap().codes;
        let counts = [codes.total, codes.zeros, codes.flips].map(|n| n as f32);
        results.push((format!("adamw {t}: counts"), counts.to_vec()));
        results.push((format!("adamw {t}: weights"), b.latent(&w).unwrap().into_owned()));
        assert!(b.read(&grad).unwrap().iter().all(|&g| g == 0.0), "the gradient is left zero");
    }
    if let Some(ternary) = b.ternary(&w).unwrap() {
        results.push(("adamw: ternary weights".into(), ternary.to_f32()));
    }
    results
}

#[test]
fn adamw_and_its_projection_are_those_of_the_cpu() {
    // lavapipe computes the updates to the last bit; another device may fuse and differ by one in 1e7.
    for clip in [Clip::Factor(0.5), Clip::Own(1.0), Clip::Own(0.0)] {
        for projection in [None, Some(PROJECTION), Some(Projection { group: 256, rule: ScaleRule::Refit })] {
            compare!(1e-13, updates(330, projection, clip));
        }
    }
}

#[test]
fn a_gradient_that_is_no_number_leaves_its_tensor_alone() {
    let mut b = gpu_backend(TUNINGS[1]);
    let mut w = b.matrix(1, 128, normals(1, 128), Some(PROJECTION));
    let mut bad = normals(2, 128);
    bad[77] = f32::NAN;
    let mut grad = filled(&b, &bad);
    let mut moments = [b.buffer(128), b.buffer(128)];
    let step =
        AdamW { lr: 0.1, beta1: 0.9, beta2: 0.9, eps: 1e-8, weight_decay: 0.1, t: 1, clip: Clip::Own(1.0) };
    b.adamw(&mut w, &mut grad, &mut moments, step);
    let tally = b.tally().unwrap();
    assert!(tally.squares.is_nan() && tally.codes == Default::default(), "{tally:?}");
    assert_eq!(b.latent(&w).unwrap(), normals(1, 128));
    for buffer in [&grad, &moments[0], &moments[1]] {
        assert!(b.read(buffer).unwrap().iter().all(|&x| x == 0.0));
    }
}

fn muon<B: Backend>(b: &mut B, [rows, cols]: [usize; 2], clip: Clip) -> Results {
    let n = rows * cols;
    let mut w = b.matrix(rows, cols, normals(1, n), Some(PROJECTION));
    let (mut grad, mut momentum) = (filled(b, &normals(2, n)), [filled(b, &normals(3, n))]);
    let (lr, momentum_factor, weight_decay) = (0.5, 0.95, 0.1);
    let step = Muon { lr, momentum: momentum_factor, iterations: 5, weight_decay, clip };
    b.muon(&mut w, &mut grad, &mut momentum, step);
    let shape = format!("muon {rows} x {cols}");
    vec![
        (format!("{shape}: momentum"), b.read(&momentum[0]).unwrap().into_owned()),
        (shape, b.latent(&w).unwrap().into_owned()),
    ]
}

#[test]
fn muon_is_that_of_the_cpu() {
    for size in [[64, 192], [320, 128], [128, 128], [512, 192]] {
        for clip in [Clip::Factor(0.5), Clip::Own(1.0)] {
            compare!(1e-9, muon(size, clip)); // five iterations amplify what rounding leaves
        }
    }
}

/// Groups whose sums, or whose scales, lie on or beside a tie of the rounding, and groups of extreme weights.
fn hard_groups() -> Vec<f32> {
    let mut random = Random::new(5);
    let mut groups = Vec::new();
    for n in 0..6000 {
        let scale = 2f64.powi(n % 60 - 45);
        let mut group: Vec<f32> = (0..256)
            .map(|_| match n % 5 {
                0 => (random.normal() * scale) as f32,
                1 => (random.normal() * scale * 2f64.powi((random.normal() * 12.0) as i32)) as f32,
                // Few bits: exact ties of f32 and f16 are common.
                2 => ((random.normal() * 4.0).round() * scale) as f32,
                3 => f32::from_bits((random.normal() * 1000.0).abs() as u32), // subnormal
                _ => (scale * (1.0 + f64::from(n / 5 % 64) / 2048.0)) as f32,
            })
            .collect();
        if n % 7 == 0 {
            group.iter_mut().skip(1).step_by(2).for_each(|w| *w = 0.0);
        }
        if n % 11 == 0 {
            group[3] = 3e4 * scale as f32;
        }
        groups.extend(group);
    }
    groups
}

#[test]
fn codes_and_scales_are_those_of_project_group_to_the_bit() {
    let values = [hard_groups(), normals(3, 1 << 20)].concat();
    for group in [64, 128, 256] {
        for rule in ScaleRule::ALL {
            let projection = Some(Projection { group, rule });
            let rows = values.len() / 256;
            let (cpu, gpu) = (cpu_backend(), gpu_backend(TUNINGS[1]));
            let expected = cpu.matrix(rows, 256, values.clone(), projection);
            let got = gpu.matrix(rows, 256, values.clone(), projection);
            let (expected, got) =
                (cpu.ternary(&expected).unwrap().unwrap(), gpu.ternary(&got).unwrap().unwrap());
            let wrong =
                (0..got.scales.len()).find(|&n| got.scales[n].to_bits() != expected.scales[n].to_bits());
            if let Some(n) = wrong {
                let weights = &values[n * group..][..group];
                panic!(
                    "{rule:?} {group}: group {n}: {} not {}: {weights:?}",
                    got.scales[n], expected.scales[n]
                );
            }
            if let Some(n) = (0..got.codes.len()).find(|&n| got.codes[n] != expected.codes[n]) {
                let (four, scale) = (&values[4 * n..][..4], expected.scales[4 * n / group]);
                panic!(
                    "{rule:?} {group}: {:08b} not {:08b}: {four:?}, {scale}",
                    got.codes[n], expected.codes[n]
                );
            }
        }
    }
}

/// A run on the GPU, its weights those of [`tiny_run::trainer`].
fn gpu_trainer(gpu: Gpu, config: RunConfig) -> Trainer<GpuBackend> {
    let model = tiny_run::shape(&config);
    let backend = GpuBackend::new(gpu, &model, config.seq_len).unwrap();
    tiny_run::trainer_on(backend, config, |index, spec| params::scratch(&model, 3, index, spec))
}

/// [`tiny_run::trainer`] with every weight changed by 1e-7 of itself.
fn nudged(config: RunConfig) -> Trainer<CpuBackend> {
    let model = tiny_run::shape(&config);
    tiny_run::trainer_with(config, |index, spec| {
        params::scratch(&model, 3, index, spec).into_iter().map(|w| w * (1.0 + 1.2e-7)).collect()
    })
}

#[test]
fn a_run_learns_as_on_the_cpu_and_again_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let config = RunConfig { steps: 100, warmup: 10, spike: 10.0, ..settings(dir.path()) };
    let (mut cpu, mut gpu) = (tiny_run::trainer(config.clone()), gpu_trainer(shared_gpu(), config.clone()));
    let mut beside = nudged(config.clone());
    let mut unavoidable = 0.0f64;
    let (mut largest, mut first, mut last, mut early) = (0.0f64, 0.0, 0.0, Vec::new());
    for n in 0..100 {
        let (a, b) = (cpu.step(&data.train).unwrap(), gpu.step(&data.train).unwrap());
        assert!(a.skipped.is_none() && b.skipped.is_none(), "step {n}: CPU {a:?}, GPU {b:?}");
        assert_eq!((a.tokens, a.codes.total), (b.tokens, b.codes.total));
        let c = beside.step(&data.train).unwrap();
        unavoidable = unavoidable.max((a.loss - c.loss).abs());
        largest = largest.max((a.loss - b.loss).abs());
        first = if n == 0 { b.loss } else { first };
        last = b.loss;
        if n == 9 {
            early = weights(&gpu);
        }
    }
    println!(
        "100 steps: loss {first:.3} to {last:.3}; the CPU's differs by at most {largest:.4}, and by {unavoidable:.4} from itself with weights changed by 1e-7"
    );
    assert!(last < first - 1.0, "{first} {last}");
    // Rounding is chaotic: a last bit flips a code, which changes more. No more than that may be seen.
    assert!(largest < 3.0 * unavoidable.max(0.01), "the curves part by {largest}");
    let (a, b) = (cpu.validate(&data).unwrap().cross_entropy, gpu.validate(&data).unwrap().cross_entropy);
    assert!((a - b).abs() < 0.1, "validation {a} {b}");
    let mut again = gpu_trainer(shared_gpu(), config);
    tiny_run::steps(&mut again, &data, 10);
    assert!(early == weights(&again), "the same run has other bits");
}

#[test]
fn a_resumed_run_is_the_unbroken_one() {
    for optimizer in [OptimizerKind::Adamw, OptimizerKind::Muon] {
        let dir = tempfile::tempdir().unwrap();
        let data = dataset(dir.path());
        let config = RunConfig { optimizer, ..settings(dir.path()) };
        let mut straight = gpu_trainer(shared_gpu(), config.clone());
        tiny_run::steps(&mut straight, &data, 6);
        let mut half = gpu_trainer(shared_gpu(), config);
        tiny_run::steps(&mut half, &data, 3);
        checkpoint::save(dir.path(), &half).unwrap();
        let saved = Saved::open(dir.path()).unwrap();
        let backend = GpuBackend::new(shared_gpu(), &saved.model.config, saved.run.seq_len).unwrap();
        let params = saved.params(&backend, true).unwrap();
        let order = Order::Shuffled { seed: 7 };
        let mut resumed = Trainer::new(saved.run, backend, params, saved.state, order);
        tiny_run::steps(&mut resumed, &data, 3);
        assert!(weights(&straight) == weights(&resumed), "{optimizer:?}");
    }
}

/// Runs the program with variables of the environment; its exit code and what it printed and said.
fn program(variables: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bonsai-trainer"));
    let output = command.args(arguments).envs(variables.iter().copied()).output().unwrap();
    let [printed, said] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code(), printed, said)
}

#[test]
fn the_program_trains_on_a_gpu() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("text.txt"), stories::corpus(1, 60_000).join("\n<|endoftext|>\n")).unwrap();
    let program = |arguments: &[&str]| {
        let (code, printed, said) = program(&[], arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        (printed, said)
    };
    let (text, run) = (at("text.txt"), at("run"));
    let tiny = ["--preset", "1m", "--seq-len", "32", "--batch-size", "4", "--set", "vocab_size=300"];
    let given = ["train", "--data", &text, "--out", &run, "--steps", "3", "--device", "gpu"];
    let (printed, said) = program(&[&given[..], &tiny].concat());
    assert!(printed.starts_with("step 3: valid loss ") && said.contains("training on the GPU: "), "{said}");
    let (printed, _) = program(&["train", "--resume", &run, "--steps", "5"]);
    assert!(printed.starts_with("step 5: "), "{printed}");
    assert!(std::fs::read_to_string(at("run/run.toml")).unwrap().contains("device = \"gpu\""));
    assert!(program(&["verify", &run]).0.contains("ternary: all "));
    let (listed, _) = program(&["devices"]);
    assert!(listed.contains("gpu ") && listed.contains("cpu ") && listed.contains("<- auto"), "{listed}");
    assert!(program(&["fit", "--preset", "0.6b", "--device", "gpu"]).0.contains("peak"));
}
