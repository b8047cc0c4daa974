//! What each command does: arguments to calls, results to stdout.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bonsai_runtime::Error as RuntimeError;
use bonsai_runtime::gguf::PackedFormat;
use clap::{Args, Subcommand};

use crate::config::{RunConfig, preset};
use crate::corpus::Input;
use crate::error::{Error, Result};
use crate::run::{self, Watch};
use crate::{
    ablate, convert, device, eval, export, fit, loss, lr_find, plot, preview, quickstart, summary, verify,
};

/// The commands, in the order of a model's life.
#[derive(Subcommand)]
pub enum Command {
    /// Writes its own corpus, trains, verifies, evaluates, exports and tells stories: a few minutes on two cores.
    Quickstart {
        /// Where everything goes.
        #[arg(long, default_value = "bonsai-quickstart")]
        out: PathBuf,
        /// Training steps.
        #[arg(long, default_value_t = quickstart::STEPS)]
        steps: u64,
    },
    /// Learns a byte-level BPE tokenizer from text.
    Tokenizer {
        /// Files or directories of .txt, .jsonl and .parquet.
        #[arg(long, required = true, num_args = 1..)]
        data: Vec<PathBuf>,
        /// Field or column that holds the text.
        #[arg(long, default_value = "text")]
        text_column: String,
        /// Tokens, the three special ones included.
        #[arg(long, default_value_t = 4096)]
        vocab_size: usize,
        /// The tokenizer.json to write.
        #[arg(long, default_value = "tokenizer.json")]
        out: PathBuf,
    },
    /// Turns text into token shards, split by document into training and validation; goes on where it was stopped.
    #[command(after_help = PREPARE_HELP)]
    Prepare {
        /// Files or directories of .txt, .jsonl and .parquet.
        #[arg(long, required = true, num_args = 1..)]
        data: Vec<PathBuf>,
        /// Field or column that holds the text; without it, `messages` or `conversations`.
        #[arg(long, default_value = "text")]
        text_column: String,
        /// Validation text; else a share of the documents is set aside.
        #[arg(long, num_args = 1..)]
        valid: Vec<PathBuf>,
        /// Share of the documents set aside for validation.
        #[arg(long, default_value_t = 0.02)]
        valid_fraction: f64,
        /// tokenizer.json.
        #[arg(long)]
        tokenizer: PathBuf,
        /// Seed of the split.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Directory to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Shows what a model will read: tokens, which of them it learns to write, where documents end.
    #[command(after_help = preview::HELP)]
    Preview(preview::Arguments),
    /// Trains, from scratch or from a checkpoint; --resume goes on.
    #[command(after_help = TRAIN_HELP)]
    Train(Box<TrainArgs>),
    /// Perplexity and bits per byte on a text.
    Eval {
        /// Run directory, Hugging Face directory or GGUF file.
        model: PathBuf,
        /// Text to read.
        #[arg(long)]
        data: PathBuf,
        /// Tokens of context; each window starts anew.
        #[arg(long, default_value_t = 512)]
        window: usize,
        /// Only the first windows of the text [default: all].
        #[arg(long)]
        windows: Option<usize>,
        /// f32 activations instead of 8-bit ones.
        #[arg(long)]
        exact: bool,
        /// JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Proves that every weight is -s, 0 or +s, tensor by tensor.
    Verify {
        /// Run directory, GGUF file or Hugging Face directory of unpacked weights.
        model: PathBuf,
        /// JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Packs a run's weights, opens the file again and proves it equal.
    Export {
        /// Run directory.
        run: PathBuf,
        /// q2_0 (groups of 128), q2_0_g64 (loads in llama.cpp), pq2_0, ptq1_0 (smallest), tq2_0 or tq1_0 (groups of 256, load in
        /// llama.cpp), or hf (unpacked, for transformers).
        #[arg(long, default_value = "q2_0")]
        format: String,
        /// File, or directory for hf, to write.
        #[arg(long)]
        out: PathBuf,
        /// JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Writes a model as another kind of file, weight for weight, and proves it equal: a GGUF file as a Hugging Face directory
    /// (f32), a directory as GGUF, or a packed GGUF file in another packing.
    Convert {
        /// GGUF file or Hugging Face directory.
        source: PathBuf,
        /// GGUF file (name.gguf) or directory to write.
        out: PathBuf,
        /// Packing of ternary weights in a GGUF file: as in `export` [default: Q2_0 in the groups that they have].
        #[arg(long)]
        format: Option<PackedFormat>,
        /// JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Writes text.
    Sample {
        /// Run directory, Hugging Face directory or GGUF file.
        model: PathBuf,
        /// How the text begins.
        #[arg(long, short, default_value = "Once upon a time")]
        prompt: String,
        /// Tokens to write.
        #[arg(long, short = 'n', default_value_t = 150)]
        tokens: usize,
        /// Seed of the sampler.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Draws loss, validation, learning rate, zeros and flips of one or more runs.
    Plot {
        /// Run directories or metrics.jsonl files.
        #[arg(required = true)]
        runs: Vec<PathBuf>,
        /// Picture to write.
        #[arg(long, default_value = "loss.svg")]
        out: PathBuf,
    },
    /// Trains every row of a table of settings with every seed, one run after another, and compares them; goes on where it
    /// stopped.
    #[command(after_help = ABLATE_HELP)]
    Ablate {
        /// What all runs share and what varies (TOML).
        file: PathBuf,
    },
    /// A short run whose learning rate rises exponentially: where the loss falls, and where it breaks.
    LrFind {
        /// Settings of the run.
        #[command(flatten)]
        train: Box<TrainArgs>,
        /// Learning rate of the first step.
        #[arg(long, default_value_t = 1e-5)]
        from: f64,
        /// Learning rate of the last step.
        #[arg(long, default_value_t = 0.1)]
        to: f64,
        /// JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Writes report.md and loss.svg of a run: settings, curve, layers, proof, what to try next. Every finished run has them.
    Report {
        /// Run directory.
        run: PathBuf,
    },
    /// Forecasts the memory of a run before it starts.
    Fit(Box<TrainArgs>),
    /// Lists what --device can mean on this machine.
    Devices {
        /// JSON on stdout.
        #[arg(long)]
        json: bool,
    },
}

const PREPARE_HELP: &str = "Text:
  .txt      documents between <|endoftext|> marks, else passages of about 2 kB that end at blank lines
  .jsonl    a document a line: {\"text\": \"...\"}, or a conversation:
            {\"messages\": [{\"role\": \"user\", \"content\": \"...\"}, {\"role\": \"assistant\", \"content\": \"...\"}]}
  .parquet  a document a row, in the column `text`, or a conversation in the column `messages`
  .txt.gz, .jsonl.zst and so on are unpacked while they are read. No file is ever whole in memory.
Conversations are written by the tokenizer's chat template (ChatML if it has none but the marks), and only what the
assistant says is learnt. `bonsai-trainer preview` shows it.
Stopped by Ctrl-C, a crash or a full disk? The same command goes on where it was and makes the same files.
Examples:
  bonsai-trainer prepare --data books/ --tokenizer tokenizer.json --out shards
  bonsai-trainer prepare --data train-*.parquet --text-column content --tokenizer Qwen3-0.6B/tokenizer.json --out shards
  bonsai-trainer train --data shards --preset 10m";

const ABLATE_HELP: &str = "The file:
  seeds = [0, 1, 2]                      # every row with each; the same seeds see the same data
  [base]                                 # settings of all runs, as in run.toml
  data = [\"corpus.txt\"]
  steps = 300
  out = \"ablations/scale\"              # runs, ablation.md, ablation.json, loss.svg
  [grid]                                 # every combination
  scale_rule = [\"absmean\", \"twn\"]
  [[variant]]                            # single rows beside them
  name = \"full precision\"
  precision = \"fp\"
A finished run is not run again: add rows or seeds to the file and start it once more.";

const TRAIN_HELP: &str = "Examples:
  bonsai-trainer train --data corpus.txt --preset 10m --steps 2000 --out runs/mine
  bonsai-trainer train --data corpus.txt --init Qwen3-0.6B/ --steps 200 --seq-len 512 --batch-size 8 --set micro_batch=1
      (a conversion learns from the checkpoint itself: --set teacher=none for the text alone)
  bonsai-trainer train --data corpus.txt --init SmolLM2-135M-Instruct.Q4_1.gguf --set group=64 --steps 500
      (quantised weights are unpacked; the tokenizer is the file's)
  bonsai-trainer train --data corpus.txt --init SMALL/ --set teacher=LARGE/ --set temperature=2 --set ce_weight=0.1
  bonsai-trainer train --resume runs/mine
  bonsai-trainer train --config run.toml --set group=64 --set lr=2e-3
Every setting of run.toml (a run writes its own) can be given with --set.";

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
    /// tokenizer.json [default: that of --init, or one learnt from the data].
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// `scratch`, a Hugging Face directory or a GGUF file.
    #[arg(long)]
    init: Option<String>,
    /// Model shape: 1m 3m 6m 10m 20m 30m 0.6b.
    #[arg(long)]
    preset: Option<String>,
    /// Optimizer steps.
    #[arg(long)]
    steps: Option<u64>,
    /// Sequences per step.
    #[arg(long)]
    batch_size: Option<usize>,
    /// Tokens per sequence.
    #[arg(long)]
    seq_len: Option<usize>,
    /// Peak learning rate of AdamW. Default: 3e-3 from scratch; for a conversion a hundredth of the weights' mean
    /// scale, less in a long run.
    #[arg(long)]
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
    #[arg(long)]
    seed: Option<u64>,
    /// Run directory to write.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Goes on with the run in this directory.
    #[arg(long, value_name = "RUN")]
    resume: Option<PathBuf>,
}

impl TrainArgs {
    /// The settings given, as the run file would spell them.
    fn settings(&self) -> Result<Vec<(String, toml::Value)>> {
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

    fn config(&self) -> Result<RunConfig> {
        RunConfig::load(self.config.as_deref(), &self.settings()?)
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

/// Runs one command.
pub fn run(command: Command, quiet: bool, cancelled: &AtomicBool) -> Result<()> {
    let watch = Watch { cancelled, quiet };
    match command {
        Command::Quickstart { out, steps } => quickstart::quickstart(&out, steps, &watch),
        Command::Tokenizer { data, text_column, vocab_size, out } => {
            learn_tokenizer(&Input::new(&data, &text_column)?, vocab_size, &out, &watch)
        }
        Command::Prepare { data, text_column, valid, valid_fraction, tokenizer, seed, out } => {
            let text = run::Text { files: &data, valid: &valid, column: &text_column };
            prepare(text, (valid_fraction, seed), &tokenizer, &out, &watch)
        }
        Command::Preview(arguments) => preview::preview(&arguments),
        Command::Train(args) => train(&args, &watch),
        Command::Eval { model, data, window, windows, exact, json } => {
            evaluate(&model, &data, eval::Reading { window, windows, exact }, json, quiet)
        }
        Command::Verify { model, json } => print(&verify::verify(&model)?, json),
        Command::Export { run, format, out, json } => export_run(&run, &format, &out, json),
        Command::Convert { source, out, format, json } => {
            print(&convert::convert(&source, &out, format)?, json)
        }
        Command::Sample { model, prompt, tokens, seed } => {
            println!("{}", eval::sample(&eval::open(&model)?, &prompt, tokens, seed)?);
            Ok(())
        }
        Command::Plot { runs, out } => draw(&runs, &out),
        Command::Ablate { file } => {
            print!("{}", ablate::ablate(&file, &watch)?);
            Ok(())
        }
        Command::LrFind { train, from, to, json } => {
            print(&lr_find::lr_find(train.config()?, (from, to), &watch)?, json)
        }
        Command::Report { run } => {
            summary::write(&run)?;
            println!("{}", run.join(summary::FILE).display());
            Ok(())
        }
        Command::Fit(args) => forecast(&args),
        Command::Devices { json } => list_devices(json),
    }
}

fn print<T: serde::Serialize + std::fmt::Display>(result: &T, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(result).expect("numbers and texts"));
    } else {
        println!("{result}");
    }
    Ok(())
}

fn learn_tokenizer(input: &Input, vocab_size: usize, out: &Path, watch: &Watch<'_>) -> Result<()> {
    let tokenizer = run::learn_tokenizer(vocab_size, watch, |sink| input.each(sink))?;
    std::fs::write(out, tokenizer.to_json()?).map_err(RuntimeError::io(out))?;
    println!("{}: {} tokens", out.display(), tokenizer.vocab_size());
    Ok(())
}

fn prepare(
    text: run::Text<'_>,
    share: (f64, u64),
    tokenizer: &Path,
    out: &Path,
    watch: &Watch<'_>,
) -> Result<()> {
    let mut tokenizer = bonsai_runtime::Tokenizer::from_file(tokenizer)?;
    let corpus = run::scan(text, share, watch)?;
    let dataset = run::tokenize(&corpus, &mut tokenizer, out, watch)?;
    println!(
        "{}: {} training and {} validation tokens",
        out.display(),
        dataset.train.len(),
        dataset.valid.len()
    );
    Ok(())
}

fn train(args: &TrainArgs, watch: &Watch<'_>) -> Result<()> {
    let outcome = match &args.resume {
        Some(dir) => {
            let settings = args.settings()?;
            run::resume(dir, |old| RunConfig::load_over(&old, &settings), watch)?
        }
        None => run::start(args.config()?, watch)?,
    };
    if outcome.interrupted {
        eprintln!("stopped at step {}: saved; go on with --resume", outcome.step);
        return Err(RuntimeError::Cancelled.into());
    }
    println!(
        "step {}: valid loss {:.4}, perplexity {:.2}",
        outcome.step,
        outcome.last_loss,
        outcome.last_loss.exp()
    );
    Ok(())
}

fn evaluate(model: &Path, file: &Path, reading: eval::Reading, json: bool, quiet: bool) -> Result<()> {
    let model = eval::open(model)?;
    let text = std::fs::read_to_string(file).map_err(RuntimeError::io(file))?;
    let bar = if quiet { indicatif::ProgressBar::hidden() } else { indicatif::ProgressBar::new_spinner() };
    let result =
        eval::evaluate(&model, &text, reading, |done| bar.set_message(format!("{done} tokens read")))?;
    bar.finish_and_clear();
    print(&result, json)
}

fn export_run(dir: &Path, format: &str, out: &Path, json: bool) -> Result<()> {
    let proof = match format {
        "hf" => export::export_hf(dir, out)?,
        packed => export::export(
            dir,
            packed.parse::<PackedFormat>().map_err(|e| Error::Config(e.to_string()))?,
            out,
        )?,
    };
    if !json {
        println!("{}: {:.2} MB", out.display(), proof.bytes as f64 / 1e6);
    }
    print(&proof, json)
}

fn list_devices(json: bool) -> Result<()> {
    let all = device::list();
    if json {
        println!("{}", serde_json::to_string_pretty(&all).expect("numbers and texts"));
    } else {
        all.iter().for_each(|device| println!("{device}"));
    }
    Ok(())
}

fn draw(runs: &[PathBuf], out: &Path) -> Result<()> {
    let metrics = |run: &PathBuf| if run.is_dir() { run.join(crate::metrics::FILE) } else { run.clone() };
    let label =
        |run: &PathBuf| run.file_stem().map_or(String::new(), |name| name.to_string_lossy().into_owned());
    let curves: Vec<(String, PathBuf)> = runs.iter().map(|run| (label(run), metrics(run))).collect();
    plot::plot(&curves, out)?;
    println!("{}", out.display());
    Ok(())
}

fn forecast(args: &TrainArgs) -> Result<()> {
    let config = args.config()?;
    if config.device == "gpu" {
        device::check_gpu(&config)?;
    }
    let shape = |path: &Path| bonsai_runtime::ModelFile::open(path).map(|file| file.config);
    let model = if config.converts() {
        config.rotation.shape(&shape(Path::new(&config.init))?)
    } else {
        preset(&config.preset, config.vocab_size, config.seq_len)?
    };
    let teacher = loss::teacher_path(&config)?.map(|path| shape(&path)).transpose()?;
    println!("{}", fit::Forecast::new(&model, teacher.as_ref(), &config)?);
    Ok(())
}
