//! Converts the PyTorch twin's trained dense model into a ternary one, in the twin's data order, by several recipes.
//!
//! `cargo run --release -p bonsai-trainer --example path_a -- TWIN_DIR OUT_DIR [ROW ...]` where TWIN_DIR holds `dense/`,
//! `train.bin`, `held.bin`, `offsets_150x8.u32` and `curves/`. A ROW is a name of the table below, or
//! `NAME,KEY=VALUE,...` with settings of the run file; without any, every row of the table runs. Prints held-out
//! cross-entropies and the perplexity at the end, beside PyTorch's where it made the same run, and adds them to
//! OUT_DIR/path_a.md.

#[path = "../twin/held.rs"]
mod held;

use std::io::Write;
use std::path::Path;

use bonsai_runtime::ModelFile;
use bonsai_runtime::config::TensorSpec;
use bonsai_trainer::Result;
use bonsai_trainer::checkpoint;
use bonsai_trainer::commands::parse_setting;
use bonsai_trainer::config::RunConfig;
use bonsai_trainer::cpu::CpuBackend;
use bonsai_trainer::data::{Dtype, Order, Tokens};
use bonsai_trainer::loss::{Teacher, open_teacher};
use bonsai_trainer::optimizer::Optimizer;
use bonsai_trainer::params::Params;
use bonsai_trainer::schedule::Decay;
use bonsai_trainer::train::{State, Trainer};

use held::{WINDOW, WINDOWS, evaluate};

/// Name, settings, and PyTorch's run of the same.
const ROWS: [(&str, &str, &str); 12] = [
    ("kl", "lr=1e-3", "ft_lr1e-3_kd"),
    ("kl_warp", "lr=1e-3,import=warp", "ft_lr1e-3_kd_warp"),
    ("ce", "lr=1e-3,teacher=none", "ft_lr1e-3"),
    ("ce_warp", "lr=1e-3,teacher=none,import=warp", "ft_lr1e-3_warp"),
    ("kl_refit", "lr=1e-3,scale_rule=refit", ""),
    ("kl_least_squares", "lr=1e-3,scale_rule=least_squares", ""),
    ("kl_twn", "lr=1e-3,scale_rule=twn", ""),
    ("kl_lr2e-3", "lr=2e-3", "ft_lr2e-3_kd"),
    ("kl_ce", "lr=1e-3,kl_weight=0.5,ce_weight=0.5", "ft_lr1e-3_kdce"),
    ("ce_gain", "lr=1e-3,teacher=none,import=gain", "ft_lr1e-3_gain"),
    ("ce_ramp50", "lr=1e-3,teacher=none,ramp=50", "ft_lr1e-3_lam50"),
    ("ce_absmax", "lr=1e-3,teacher=none,scale_rule=absmax", "ft_max_lr1e-3"),
];
const STEPS: u64 = 150;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [twin, out, chosen @ ..] = arguments.as_slice() else {
        eprintln!("usage: path_a TWIN_DIR OUT_DIR [ROW ...]");
        std::process::exit(2);
    };
    let (twin, out) = (Path::new(twin), Path::new(out));
    std::fs::create_dir_all(out).map_err(bonsai_runtime::Error::io(out))?;
    let table = ROWS.map(|(name, settings, reference)| (name, settings, reference));
    let rows: Vec<(&str, &str, &str)> = match chosen {
        [] => table.to_vec(),
        chosen => chosen.iter().map(|row| of_name(&table, row)).collect(),
    };
    println!("row: start, held-out loss at 50, 100, 150, perplexity (PyTorch's)");
    for (name, settings, reference) in rows {
        let line = convert(twin, name, settings, reference)?;
        println!("{line}");
        let path = out.join("path_a.md");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| writeln!(file, "{line}")).map_err(bonsai_runtime::Error::io(&path))?;
    }
    Ok(())
}

/// A row of the table, or one that says its settings itself.
fn of_name<'a>(table: &[(&'a str, &'a str, &'a str)], row: &'a str) -> (&'a str, &'a str, &'a str) {
    let (name, settings) = row.split_once(',').unwrap_or((row, ""));
    table.iter().copied().find(|entry| entry.0 == row).unwrap_or((name, settings, ""))
}

/// One conversion; a line of a Markdown table.
fn convert(twin: &Path, name: &str, settings: &str, reference: &str) -> Result<String> {
    let config = RunConfig {
        init: twin.join("dense").display().to_string(),
        scale_rule: "absmean".into(),
        steps: STEPS,
        batch_size: 8,
        seq_len: 128,
        warmup: 15,
        schedule: Decay::Cosine,
        weight_decay: 0.1,
        ..RunConfig::default()
    };
    let settings =
        settings.split(',').filter(|s| !s.is_empty()).map(parse_setting).collect::<Result<Vec<_>>>()?;
    let mut trainer = trainer(twin, RunConfig::load_over(&config, &settings)?)?;
    let tokens = Tokens::open(&twin.join("train.bin"), Dtype::U16)?;
    let held = Tokens::open(&twin.join("held.bin"), Dtype::U16)?;
    let mut found = vec![evaluate(&mut trainer, &held, WINDOWS)?];
    for step in 1..=STEPS {
        trainer.step(&tokens)?;
        if step % 50 == 0 {
            found.push(evaluate(&mut trainer, &held, if step == STEPS { WINDOWS } else { 32 })?);
        }
    }
    let theirs = pytorch(&twin.join(format!("curves/{reference}.jsonl")));
    let cell = |i: usize| match theirs.get(i) {
        Some(theirs) => format!("{:.4} ({theirs:.4})", found[i]),
        None => format!("{:.4}", found[i]),
    };
    let perplexity =
        |losses: &[f64], i: usize| losses.get(i).map_or(String::new(), |l| format!("{:.1}", l.exp()));
    let (start, end) = (perplexity(&found, 0), perplexity(&found, 3));
    let reference = perplexity(&theirs, 3);
    Ok(format!("| {name} | {start} | {} | {} | {} | {end} | {reference} |", cell(1), cell(2), cell(3)))
}

fn trainer(twin: &Path, config: RunConfig) -> Result<Trainer<CpuBackend>> {
    let file = ModelFile::open(Path::new(&config.init))?;
    let backend = CpuBackend::new(&file.config, WINDOW);
    let optimizer = Optimizer::new(&config);
    let moments = |spec: &TensorSpec| optimizer.moments(spec);
    let params = checkpoint::imported(&backend, &file, &config, (config.rotation, config.import), moments)?;
    let teacher = open_teacher(&config, &file.config)?.map(|(file, _)| {
        let backend = CpuBackend::new(&file.config, WINDOW);
        let latent = |_: usize, spec: &TensorSpec| file.tensors[&spec.name].to_f32();
        let params = Params::new(&backend, &file.config, |_| None, |_| &[], latent);
        Teacher::new(backend, params, &config)
    });
    let order = Order::from_file(&twin.join("offsets_150x8.u32"))?;
    Ok(Trainer::new(config, backend, params, State::default(), order).with_teacher(teacher))
}

/// Held-out losses that PyTorch had at steps 0, 50, 100 and 150.
fn pytorch(path: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.filter_map(|line| line["held"].as_f64()).collect()
}
