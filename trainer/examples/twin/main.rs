//! Trains the PyTorch twin's model from the twin's weights in the twin's order, and compares the held-out losses.
//!
//! `cargo run --release -p bonsai-trainer --example twin -- TWIN_DIR OUT_DIR [KEY=VALUE ...]` where TWIN_DIR holds `init/`,
//! `train.bin`, `held.bin`, `offsets_600x8.u32` and `curves/`. Writes OUT_DIR/{dense,ternary}.jsonl and twin.svg.
//! `precision=ternary` runs that one only; `micro_batch=4` changes nothing but the order of sums, which shows how far
//! apart two runs of the same training come to lie.

mod held;

use std::fmt::Write;
use std::path::Path;

use bonsai_runtime::ModelFile;
use bonsai_trainer::commands::parse_setting;
use bonsai_trainer::config::{Precision, RunConfig};
use bonsai_trainer::cpu::CpuBackend;
use bonsai_trainer::data::{Dtype, Order, Tokens};
use bonsai_trainer::optimizer::Optimizer;
use bonsai_trainer::schedule::Decay;
use bonsai_trainer::train::{State, Trainer};
use bonsai_trainer::{Result, checkpoint, plot};

use held::{WINDOW, WINDOWS, evaluate};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [twin, out, settings @ ..] = arguments.as_slice() else {
        eprintln!("usage: twin TWIN_DIR OUT_DIR [KEY=VALUE ...]");
        std::process::exit(2);
    };
    let (twin, out) = (Path::new(twin), Path::new(out));
    let settings: Vec<_> = settings.iter().map(|s| parse_setting(s)).collect::<Result<_>>()?;
    let only = settings.iter().find(|(key, _)| key == "precision").and_then(|(_, value)| value.as_str());
    std::fs::create_dir_all(out).map_err(bonsai_runtime::Error::io(out))?;
    let mut curves = Vec::new();
    for (name, precision, reference) in
        [("dense", Precision::Fp, "fp_long"), ("ternary", Precision::Ternary, "t_long")]
    {
        if only.is_some_and(|only| (only == "ternary") != (precision == Precision::Ternary)) {
            continue;
        }
        let reference = twin.join(format!("curves/{reference}.jsonl"));
        let ours = out.join(format!("{name}.jsonl"));
        println!("{name}: step  ours    PyTorch  difference");
        train(twin, precision, &settings, &ours, &reference)?;
        curves.push((format!("{name}, bonsai"), ours));
        curves.push((format!("{name}, PyTorch"), reference));
    }
    plot::plot(&curves, &out.join("twin.svg"))?;
    plot::plot(&curves, &out.join("twin.png"))
}

fn train(
    twin: &Path,
    precision: Precision,
    settings: &[(String, toml::Value)],
    ours: &Path,
    reference: &Path,
) -> Result<()> {
    let config = RunConfig {
        init: twin.join("init").display().to_string(),
        scale_rule: "absmean".into(),
        steps: 600,
        batch_size: 8,
        seq_len: 128,
        lr: 2e-3,
        warmup: 50,
        schedule: Decay::Cosine,
        weight_decay: 0.1,
        precision,
        ..RunConfig::default()
    };
    let config = RunConfig::load_over(&config, settings)?;
    let file = ModelFile::open(&twin.join("init"))?;
    let backend = CpuBackend::new(&file.config, WINDOW);
    let optimizer = Optimizer::new(&config);
    let params = checkpoint::from_model_file(&backend, &file, &config, |spec| optimizer.moments(spec))?;
    let tokens = Tokens::open(&twin.join("train.bin"), Dtype::U16)?;
    let held = Tokens::open(&twin.join("held.bin"), Dtype::U16)?;
    let order = Order::from_file(&twin.join("offsets_600x8.u32"))?;
    let mut trainer = Trainer::new(config, backend, params, State::default(), order);
    let mut log = String::new();
    report(&mut trainer, &held, WINDOWS, reference, &mut log)?;
    let mut sum = 0.0;
    for step in 1..=600 {
        sum += trainer.step(&tokens)?.loss;
        if step % 10 == 0 {
            let _ = writeln!(log, "{}", serde_json::json!({"step": step, "train": sum / 10.0}));
            sum = 0.0;
        }
        if step % 100 == 0 {
            report(&mut trainer, &held, if step == 600 { WINDOWS } else { 32 }, reference, &mut log)?;
        }
    }
    Ok(std::fs::write(ours, log).map_err(bonsai_runtime::Error::io(ours))?)
}

/// Prints our held-out loss beside PyTorch's at the same step.
fn report(
    trainer: &mut Trainer<CpuBackend>,
    held: &Tokens,
    windows: usize,
    reference: &Path,
    log: &mut String,
) -> Result<()> {
    let (step, loss) = (trainer.state.step, evaluate(trainer, held, windows)?);
    let lines = std::fs::read_to_string(reference).unwrap_or_default();
    let values = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let theirs = values.filter(|v| v["step"] == step).find_map(|v| v["held"].as_f64()).unwrap_or(f64::NAN);
    println!("  {step:>10}  {loss:.4}  {theirs:.4}  {:+.4}", loss - theirs);
    let _ = writeln!(log, "{}", serde_json::json!({"step": step, "held": loss}));
    Ok(())
}
