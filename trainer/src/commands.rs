//! What each command does: arguments to calls, results to stdout.

mod help;
mod train_args;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

use bonsai_runtime::Error as RuntimeError;
use bonsai_runtime::gguf::PackedFormat;
use clap::Subcommand;

use crate::communicator::{self, Communicator};
use crate::config::{RunConfig, preset, reference};
use crate::corpus::{Input, plain_text};
use crate::error::{Error, Result};
use crate::numbers::{decimal, whole};
use crate::run::{self, Watch};
use crate::{
    ablate, checkpoint, convert, device, eval, export, fit, loss, lr_find, output, plot, preview, quickstart,
    summary, verify,
};
use help::{ABLATE_HELP, PREPARE_HELP, SETTINGS_HELP, TRAIN_HELP};
pub use train_args::{TrainArgs, parse_setting};

/// The commands, in the order of a model's life.
#[derive(Subcommand)]
pub enum Command {
    /// Writes its own corpus, trains, verifies, evaluates, exports and tells stories: a few minutes on two cores.
    Quickstart {
        /// Where everything goes.
        #[arg(long, default_value = "bonsai-quickstart")]
        out: PathBuf,
        /// Training steps.
        #[arg(long, default_value_t = quickstart::STEPS, value_parser = whole::<u64>, allow_negative_numbers = true)]
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
        #[arg(long, default_value_t = 4096, value_parser = whole::<usize>, allow_negative_numbers = true)]
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
        #[arg(long, default_value_t = 0.02, value_parser = decimal, allow_negative_numbers = true)]
        valid_fraction: f64,
        /// tokenizer.json, or a model directory or GGUF file that has a tokenizer.
        #[arg(long)]
        tokenizer: PathBuf,
        /// Seed of the split.
        #[arg(long, default_value_t = 0, value_parser = whole::<u64>, allow_negative_numbers = true)]
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
        /// Plain text to read (.txt, .txt.gz, .txt.zst).
        #[arg(long)]
        data: PathBuf,
        /// Tokens of context; each window starts anew.
        #[arg(long, default_value_t = 512, value_parser = whole::<usize>, allow_negative_numbers = true)]
        window: usize,
        /// Only the first windows of the text [default: all].
        #[arg(long, value_parser = whole::<usize>, allow_negative_numbers = true)]
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
        #[arg(long, short = 'n', default_value_t = 150, value_parser = whole::<usize>, allow_negative_numbers = true)]
        tokens: usize,
        /// Seed of the sampler.
        #[arg(long, default_value_t = 0, value_parser = whole::<u64>, allow_negative_numbers = true)]
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
    #[command(mut_arg("resume", |arg| arg.hide(true)), mut_arg("lr", |arg| arg.hide(true)))]
    #[command(mut_arg("out", |arg| arg.help("Run directory to write [default: a new one, runs/lr-find]")))]
    LrFind {
        /// Settings of the run.
        #[command(flatten)]
        train: Box<TrainArgs>,
        /// Learning rate of the first step.
        #[arg(long, default_value_t = 1e-5, value_parser = decimal, allow_negative_numbers = true)]
        from: f64,
        /// Learning rate of the last step.
        #[arg(long, default_value_t = 0.1, value_parser = decimal, allow_negative_numbers = true)]
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
    /// Explains every setting of a run, with its default, or those that have to do with some words.
    #[command(after_help = SETTINGS_HELP)]
    Settings {
        /// Words of a name, of an explanation, or of the heading over it.
        about: Vec<String>,
        /// JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Forecasts the memory of a run before it starts.
    Fit {
        /// Settings of the run.
        #[command(flatten)]
        train: Box<TrainArgs>,
        /// JSON on stdout, in bytes.
        #[arg(long)]
        json: bool,
    },
    /// Lists what --device can mean on this machine.
    Devices {
        /// JSON on stdout.
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    /// Whether something would be lost if the program just ended when somebody stops it: a run's last steps, half of a file.
    pub fn saves_when_stopped(&self) -> bool {
        match self {
            Self::Quickstart { .. }
            | Self::Prepare { .. }
            | Self::Train(_)
            | Self::Ablate { .. }
            | Self::LrFind { .. }
            | Self::Export { .. }
            | Self::Convert { .. } => true,
            Self::Tokenizer { .. }
            | Self::Preview(_)
            | Self::Eval { .. }
            | Self::Verify { .. }
            | Self::Sample { .. }
            | Self::Plot { .. }
            | Self::Report { .. }
            | Self::Settings { .. }
            | Self::Fit { .. }
            | Self::Devices { .. } => false,
        }
    }
}

/// Runs one command.
pub fn run(command: Command, quiet: bool, cancelled: &AtomicBool) -> Result<()> {
    let watch = Watch { cancelled, quiet };
    if communicator::launched().0 > 1 && !matches!(command, Command::Train(_)) {
        return Err(Error::Config("mpirun is for train: call the other commands without it".into()));
    }
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
            output::line(eval::sample(&eval::open(&model)?, &prompt, tokens, seed)?)
        }
        Command::Plot { runs, out } => draw(&runs, &out),
        Command::Ablate { file } => output::print(&ablate::ablate(&file, &watch)?.to_string()),
        Command::LrFind { train, from, to, json } => {
            print(&lr_find::lr_find(train.config_of_search()?, (from, to), &watch)?, json)
        }
        Command::Report { run } => {
            summary::write(&run)?;
            output::line(run.join(summary::FILE).display())
        }
        Command::Settings { about, json } => explain_settings(&about.join(" "), json),
        Command::Fit { train, json } => show_forecast(&forecast(&train)?, json),
        Command::Devices { json } => list_devices(json),
    }
}

fn print<T: serde::Serialize + std::fmt::Display>(result: &T, json: bool) -> Result<()> {
    if json { output::json(result) } else { output::line(result) }
}

fn learn_tokenizer(input: &Input, vocab_size: usize, out: &Path, watch: &Watch<'_>) -> Result<()> {
    if out.is_file() {
        let out = out.display();
        return Err(Error::Config(format!("{out}: is there already: name another file with --out")));
    }
    let tokenizer = run::learn_tokenizer(vocab_size, watch, |sink| input.each_of_some(sink))?;
    std::fs::write(out, tokenizer.to_json()?).map_err(RuntimeError::io(out))?;
    output::line(format_args!("{}: {} tokens", out.display(), tokenizer.vocab_size()))
}

fn prepare(
    text: run::Text<'_>,
    share: (f64, u64),
    tokenizer: &Path,
    out: &Path,
    watch: &Watch<'_>,
) -> Result<()> {
    let mut tokenizer = run::open_tokenizer(tokenizer)?;
    let corpus = run::scan(text, share, watch)?;
    let dataset = run::tokenize(&corpus, &mut tokenizer, out, watch)?;
    let (train, valid) = (dataset.train.len(), dataset.valid.len());
    output::line(format_args!("{}: {train} training and {valid} validation tokens", out.display()))
}

/// Trains, alone or among the processes that `mpirun` started.
fn train(args: &TrainArgs, watch: &Watch<'_>) -> Result<()> {
    let world = communicator::world()?;
    let watch = Watch { quiet: watch.quiet || world.rank() > 0, ..*watch };
    match train_among(&world, args, &watch) {
        Err(error) if world.size() > 1 => communicator::abandon(&*world, &error),
        Ok(outcome) if world.rank() == 0 => tell(&outcome),
        result => result.map(|_| ()),
    }
}

fn train_among(world: &Rc<dyn Communicator>, args: &TrainArgs, watch: &Watch<'_>) -> Result<run::Outcome> {
    match &args.resume {
        Some(dir) => {
            let settings = args.settings()?;
            run::resume_among(world, dir, |old| RunConfig::load_over(&old, &settings), watch)
        }
        None => run::start_among(world, args.config()?, watch),
    }
}

fn tell(outcome: &run::Outcome) -> Result<()> {
    if outcome.interrupted {
        eprintln!("stopped at step {}: saved; go on with --resume", outcome.step);
        return Err(RuntimeError::Cancelled.into());
    }
    let (step, loss) = (outcome.step, outcome.last_loss);
    output::line(format_args!("step {step}: valid loss {loss:.4}, perplexity {:.2}", loss.exp()))
}

fn evaluate(model: &Path, file: &Path, reading: eval::Reading, json: bool, quiet: bool) -> Result<()> {
    let model = eval::open(model)?;
    let text = plain_text(file)?;
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
            packed.parse::<PackedFormat>().map_err(|e| Error::Config(format!("{e}, or hf")))?,
            out,
        )?,
    };
    if !json {
        output::line(format_args!("{}: {:.2} MB", out.display(), proof.bytes as f64 / 1e6))?;
    }
    print(&proof, json)
}

fn explain_settings(about: &str, json: bool) -> Result<()> {
    if reference::sections(about).is_empty() {
        return Err(Error::Config(format!(
            "no setting has to do with '{about}': without words, all are explained"
        )));
    }
    match json {
        true => output::json(&reference::sections(about)),
        false => output::print(&reference::listing(about).to_string()),
    }
}

fn list_devices(json: bool) -> Result<()> {
    let all = device::list();
    if json { output::json(&all) } else { all.iter().try_for_each(output::line) }
}

fn draw(runs: &[PathBuf], out: &Path) -> Result<()> {
    let curves: Vec<(String, PathBuf)> = runs.iter().map(|run| (plot::label(run), run.clone())).collect();
    plot::plot(&curves, out)?;
    output::line(out.display())
}

fn show_forecast(forecast: &fit::Forecast, json: bool) -> Result<()> {
    /// The parts, and what they come to.
    #[derive(serde::Serialize)]
    struct WithPeak<'a> {
        #[serde(flatten)]
        parts: &'a fit::Forecast,
        peak: usize,
    }
    if json {
        output::json(&WithPeak { parts: forecast, peak: forecast.total() })
    } else {
        output::line(forecast)
    }
}

fn forecast(args: &TrainArgs) -> Result<fit::Forecast> {
    let config = match &args.resume {
        Some(run) => RunConfig::load_over(&checkpoint::settings(run)?, &args.settings()?)?,
        None => args.config()?,
    };
    if config.device == "gpu" {
        device::check_gpu(&config)?;
    }
    let open = |path: &Path| bonsai_runtime::ModelFile::open(path);
    let model = match &args.resume {
        Some(run) => open(run)?.config,
        None if config.converts() => config.rotation.shape(&open(Path::new(&config.init))?.config),
        None => preset(&config.preset, run::vocabulary(&config)?, config.seq_len)?,
    };
    let teacher = loss::teacher_path(&config)?.map(|path| open(&path)).transpose()?;
    fit::Forecast::with_teacher(&model, teacher.as_ref(), &config)
}
