//! The settings of a run as options of `train`, `fit` and `lr-find`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::lr_find;
use crate::numbers::{decimal, whole};

/// Settings of a run; each overrides the run file.
#[derive(Args)]
pub struct TrainArgs {
    /// Run file (TOML).
    #[arg(long)]
    config: Option<PathBuf>,
    /// Any setting by its name in the run file.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Files or directories of .txt, .jsonl and .parquet, or a directory that `prepare` wrote.
    #[arg(long, num_args = 1..)]
    data: Vec<PathBuf>,
    /// Field or column that holds the text [default: text; without it, messages or conversations].
    #[arg(long)]
    text_column: Option<String>,
    /// Validation text; else a share of the documents is set aside.
    #[arg(long, num_args = 1..)]
    valid: Vec<PathBuf>,
    /// tokenizer.json, or a model directory or GGUF file that has one [default: that of --init, or one learnt from the data].
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// `scratch`, a Hugging Face directory or a GGUF file.
    #[arg(long)]
    init: Option<String>,
    /// Model shape: 1m 3m 6m 10m 20m 30m 0.6b.
    #[arg(long)]
    preset: Option<String>,
    /// Optimizer steps.
    #[arg(long, value_parser = whole::<u64>, allow_negative_numbers = true)]
    steps: Option<u64>,
    /// Sequences per step.
    #[arg(long, value_parser = whole::<usize>, allow_negative_numbers = true)]
    batch_size: Option<usize>,
    /// Tokens per sequence.
    #[arg(long, value_parser = whole::<usize>, allow_negative_numbers = true)]
    seq_len: Option<usize>,
    /// Peak learning rate of AdamW. Default: 3e-3 from scratch; for a conversion a hundredth of the weights' mean
    /// scale, less in a long run.
    #[arg(long, value_parser = decimal, allow_negative_numbers = true)]
    lr: Option<f64>,
    /// adamw or muon.
    #[arg(long)]
    optimizer: Option<String>,
    /// ternary, or fp for the full-precision twin.
    #[arg(long)]
    precision: Option<String>,
    /// auto, cpu or gpu.
    #[arg(long)]
    device: Option<String>,
    /// Seed of weights and data order.
    #[arg(long, value_parser = whole::<u64>, allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Run directory to write [default: runs/run].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Goes on with the run in this directory.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["config", "out"])]
    pub(super) resume: Option<PathBuf>,
}

impl TrainArgs {
    /// The settings given, as the run file would spell them.
    pub(super) fn settings(&self) -> Result<Vec<(String, toml::Value)>> {
        let mut out = Vec::new();
        let paths = |list: &[PathBuf]| toml::Value::Array(list.iter().map(|p| text(p)).collect());
        let number = |n: u64| toml::Value::Integer(n as i64);
        let mut put =
            |key: &str, value: Option<toml::Value>| out.extend(value.map(|value| (key.to_owned(), value)));
        put("data", (!self.data.is_empty()).then(|| paths(&self.data)));
        put("text_column", self.text_column.clone().map(toml::Value::String));
        put("valid", (!self.valid.is_empty()).then(|| paths(&self.valid)));
        put("tokenizer", self.tokenizer.as_deref().map(text));
        put("init", self.init.clone().map(toml::Value::String));
        put("preset", self.preset.clone().map(toml::Value::String));
        put("steps", self.steps.map(number));
        put("batch_size", self.batch_size.map(|n| number(n as u64)));
        put("seq_len", self.seq_len.map(|n| number(n as u64)));
        put("lr", self.lr.map(toml::Value::Float));
        put("optimizer", self.optimizer.clone().map(toml::Value::String));
        put("precision", self.precision.clone().map(toml::Value::String));
        put("device", self.device.clone().map(toml::Value::String));
        put("seed", self.seed.map(number));
        put("out", self.out.as_deref().map(text));
        for setting in &self.set {
            out.push(parse_setting(setting)?);
        }
        Ok(out)
    }

    pub(super) fn config(&self) -> Result<RunConfig> {
        RunConfig::load(self.config.as_deref(), &self.settings()?)
    }

    /// The settings of `lr-find`, which chooses its rates itself and writes into a directory of its own.
    pub(super) fn config_of_search(&self) -> Result<RunConfig> {
        if self.resume.is_some() {
            return Err(Error::Config(
                "lr-find begins a run: give --init RUN to start from the weights of one".into(),
            ));
        }
        if self.lr.is_some() {
            return Err(Error::Config(
                "lr-find tries all rates between --from and --to: leave out --lr".into(),
            ));
        }
        let mut settings = self.settings()?;
        if settings.iter().all(|(key, _)| key != "out") {
            settings.push(("out".into(), text(&lr_find::free_directory())));
        }
        RunConfig::load(self.config.as_deref(), &settings)
    }
}

fn text(path: &Path) -> toml::Value {
    toml::Value::String(path.to_string_lossy().into_owned())
}

/// `key=value`, the value as TOML or, failing that, as text; whole numbers become floats where floats are meant.
pub fn parse_setting(setting: &str) -> Result<(String, toml::Value)> {
    let Some((key, value)) = setting.split_once('=') else {
        return Err(Error::Config(format!("--set {setting}: expected KEY=VALUE")));
    };
    let parsed = format!("x = {value}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("x"));
    Ok((key.trim().to_owned(), parsed.unwrap_or_else(|| toml::Value::String(value.to_owned()))))
}
