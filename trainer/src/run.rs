//! The loop round the training step: data and weights in place, progress, validation, samples, checkpoints.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bonsai_runtime::tokenizer::LazyTokenizer;
use bonsai_runtime::{Config, Error as RuntimeError, ModelFile, Tokenizer};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::backend::{Backend, Codes};
use crate::checkpoint::{self, Saved};
use crate::config::{RunConfig, preset};
use crate::cpu::CpuBackend;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::optimizer::Optimizer;
use crate::params::{self, Params};
use crate::train::{State, Step, Trainer, order};
use crate::{bpe, corpus, data, eval, export};

/// What the loop leaves behind.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Steps done.
    pub step: u64,
    /// Validation loss of the weights nobody trained, nats per token; `None` after a resume.
    pub first_loss: Option<f64>,
    /// Validation loss at the end, nats per token.
    pub last_loss: f64,
    /// Seconds spent training.
    pub seconds: f64,
    /// Stopped by the user before the last step.
    pub interrupted: bool,
}

/// Who watches a run: the bar, and the flag that Ctrl-C sets.
pub struct Watch<'a> {
    /// Set when the user wants to stop: the loop saves and ends.
    pub cancelled: &'a AtomicBool,
    /// No bar and no lines on stderr.
    pub quiet: bool,
}

/// Everything that a run needs before its first step.
pub struct Prepared {
    /// Shape of the model.
    pub model: Config,
    /// Starting weights of a conversion.
    pub start: Option<ModelFile>,
    /// Token shards.
    pub data: Dataset,
    /// Text to ids.
    pub tokenizer: Option<Tokenizer>,
}

/// Begins a run in `config.out`.
pub fn start(config: RunConfig, watch: &Watch<'_>) -> Result<Outcome> {
    config.check()?;
    checkpoint::claim(&config.out)?;
    let mut prepared = prepare(&config, watch)?;
    let optimizer = Optimizer::new(&config);
    let moments = |spec: &_| optimizer.moments(spec).len();
    let backend = CpuBackend::new(&prepared.model, config.seq_len);
    let params = match prepared.start.take() {
        Some(file) => {
            bonsai_runtime::checkpoint::check_finite(&file, Path::new(&config.init))?;
            checkpoint::from_model_file(&backend, &file, &config, moments)?
        }
        None => Params::new(&backend, &prepared.model, config.projection()?, moments, |index, spec| {
            params::scratch(&prepared.model, config.seed, index, spec)
        }),
    };
    let order = order(&config)?;
    order.check(&prepared.data.train, config.steps * config.batch_size as u64, config.seq_len)?;
    let trainer = Trainer::new(config, backend, params, State::default(), order);
    train(trainer, &prepared.data, prepared.tokenizer.as_ref(), watch)
}

/// Goes on with the run in `dir`, whose settings `change` may alter (more steps, another interval).
pub fn resume(
    dir: &Path,
    change: impl FnOnce(RunConfig) -> Result<RunConfig>,
    watch: &Watch<'_>,
) -> Result<Outcome> {
    let mut saved = Saved::open(dir)?;
    saved.run = change(saved.run)?;
    saved.run.out = dir.to_path_buf();
    saved.run.check()?;
    let backend = CpuBackend::new(&saved.model.config, saved.run.seq_len);
    let params = saved.params(&backend, true)?;
    let data = open_data(&saved.run)?;
    check_vocabulary(data.meta.vocab, Some(&params.config))?;
    let order = order(&saved.run)?;
    order.check(&data.train, saved.run.steps * saved.run.batch_size as u64, saved.run.seq_len)?;
    let tokenizer = saved.model.tokenizer.take().map(LazyTokenizer::into_tokenizer).transpose()?;
    let trainer = Trainer::new(saved.run, backend, params, saved.state, order);
    train(trainer, &data, tokenizer.as_ref(), watch)
}

/// Where a run keeps the shards that it made itself.
fn own_data(config: &RunConfig) -> PathBuf {
    config.out.join("data")
}

fn open_data(config: &RunConfig) -> Result<Dataset> {
    match config.data.as_slice() {
        [dir] if Dataset::is_prepared(dir) => Dataset::open(dir),
        _ => Dataset::open(&own_data(config)),
    }
}

/// Opens or makes tokenizer, shards and starting weights.
pub fn prepare(config: &RunConfig, watch: &Watch<'_>) -> Result<Prepared> {
    let start = config.converts().then(|| ModelFile::open(Path::new(&config.init))).transpose()?;
    let (data, tokenizer) = match config.data.as_slice() {
        [] => return Err(Error::Config("no training text: give --data FILE or DIRECTORY".into())),
        [dir] if Dataset::is_prepared(dir) => {
            let data = Dataset::open(dir)?;
            let tokenizer = prepared_tokenizer(config, &data, dir, start.as_ref())?;
            (data, tokenizer)
        }
        files => {
            let split = read_split(files, &config.valid, config.valid_fraction, config.seed, watch)?;
            let tokenizer = match given_tokenizer(config, start.as_ref())? {
                Some(tokenizer) => {
                    check_vocabulary(tokenizer.vocab_size(), start.as_ref().map(|file| &file.config))?;
                    tokenizer
                }
                None => learn_tokenizer(&split.train, config.vocab_size, watch)?,
            };
            let data = tokenize(&split, &tokenizer, &own_data(config), watch)?;
            (data, Some(tokenizer))
        }
    };
    if let Some(tokenizer) = &tokenizer {
        tokenizer.save(&config.out)?;
    }
    let mut model = match &start {
        Some(file) => file.config.clone(),
        None => preset(&config.preset, data.meta.vocab, config.seq_len)?,
    };
    if let (None, Some(tokenizer)) = (&start, &tokenizer) {
        model.eos = tokenizer.eos().into_iter().collect();
        model.bos = tokenizer.bos();
    }
    check_vocabulary(data.meta.vocab, Some(&model))?;
    if config.projection()?.is_some() {
        crate::config::check_groups(&model, config.group)?;
    }
    Ok(Prepared { model, start, data, tokenizer })
}

/// Reads documents and divides them into training and validation text.
pub fn read_split(
    files: &[PathBuf],
    valid: &[PathBuf],
    fraction: f64,
    seed: u64,
    watch: &Watch<'_>,
) -> Result<corpus::Split> {
    let documents = corpus::read_documents(files)?;
    let split = match valid {
        [] => corpus::split(documents, fraction, seed)?,
        valid => corpus::separate(documents, corpus::read_documents(valid)?)?,
    };
    if split.dropped > 0 {
        watch.say(&format!("{} training documents are validation documents too: left out", split.dropped));
    }
    Ok(split)
}

/// Learns a byte-level BPE from documents.
pub fn learn_tokenizer(documents: &[String], vocab_size: usize, watch: &Watch<'_>) -> Result<Tokenizer> {
    let bar = watch.spinner(format!("learning a tokenizer of {vocab_size} tokens"));
    let tokenizer =
        bpe::learn(documents.iter(), &bpe::BpeOptions { vocab_size, ..bpe::BpeOptions::default() });
    bar.finish_and_clear();
    tokenizer
}

/// Writes token shards, with a bar.
pub fn tokenize(
    split: &corpus::Split,
    tokenizer: &Tokenizer,
    dir: &Path,
    watch: &Watch<'_>,
) -> Result<Dataset> {
    let bar =
        watch.bar((split.train.len() + split.valid.len()) as u64, "{bar:30} {pos}/{len} documents tokenized");
    let written = data::prepare(split, tokenizer, dir, &|done, _| bar.set_position(done as u64));
    bar.finish_and_clear();
    written?;
    Dataset::open(dir)
}

fn given_tokenizer(config: &RunConfig, start: Option<&ModelFile>) -> Result<Option<Tokenizer>> {
    if !config.tokenizer.as_os_str().is_empty() {
        let path = &config.tokenizer;
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.clone() };
        return Ok(Some(Tokenizer::from_file(&file)?));
    }
    match start {
        None => Ok(None),
        Some(file) if file.tokenizer.is_some() => {
            Ok(Some(Tokenizer::from_file(&Path::new(&config.init).join("tokenizer.json"))?))
        }
        Some(_) => {
            Err(Error::Config(format!("{}: has no tokenizer.json: give --tokenizer FILE", config.init)))
        }
    }
}

/// The tokenizer that prepared data was made with; another one that is asked for is refused.
fn prepared_tokenizer(
    config: &RunConfig,
    data: &Dataset,
    dir: &Path,
    start: Option<&ModelFile>,
) -> Result<Option<Tokenizer>> {
    let beside = dir.join("tokenizer.json");
    let given = given_tokenizer(config, start.filter(|file| file.tokenizer.is_some()))?;
    match given {
        None if beside.exists() => Ok(Some(Tokenizer::from_file(&beside)?)),
        None => Ok(None),
        Some(tokenizer) => {
            data.check_tokenizer(&tokenizer)?;
            Ok(Some(tokenizer))
        }
    }
}

/// A model must have a row for every token; a model that is yet to be made will have.
fn check_vocabulary(tokens: usize, model: Option<&Config>) -> Result<()> {
    match model.map(|model| model.vocab) {
        Some(rows) if tokens > rows => Err(Error::Config(format!(
            "the tokenizer has {tokens} tokens, but the model only {rows}: use the model's own tokenizer"
        ))),
        _ => Ok(()),
    }
}

/// Counts between two lines of metrics.
#[derive(Default)]
struct Window {
    loss: f64,
    steps: u64,
    tokens: u64,
    codes: Codes,
    seconds: f64,
}

/// Takes the remaining steps.
pub fn train<B: Backend>(
    mut trainer: Trainer<B>,
    data: &Dataset,
    tokenizer: Option<&Tokenizer>,
    watch: &Watch<'_>,
) -> Result<Outcome> {
    let config = trainer.config.clone();
    let mut metrics = Metrics::open(&config.out, trainer.state.step)?;
    let fresh = trainer.state.step == 0;
    let mut last_loss = f64::NAN;
    let mut first_loss = None;
    if fresh {
        last_loss = trainer.validate(data);
        first_loss = Some(last_loss);
        metrics.log(&json!({"step": 0, "valid_loss": last_loss}))?;
    }
    let bar = watch.bar(config.steps, "{bar:30} {pos}/{len} steps  {msg}  {elapsed} (about {eta} left)");
    bar.set_position(trainer.state.step);
    bar.reset_eta();
    let (begin, mut window) = (Instant::now(), Window::default());
    let due = |every: u64, step: u64| step == config.steps || (every > 0 && step.is_multiple_of(every));
    let mut validated = fresh.then_some(0);
    while trainer.state.step < config.steps && !watch.cancelled.load(Ordering::Relaxed) {
        let clock = Instant::now();
        let step = trainer.step(&data.train);
        window.add(&step, clock.elapsed().as_secs_f64());
        let at = trainer.state.step;
        if let Some(reason) = step.skipped {
            metrics.log(
                &json!({"step": at, "skipped": reason, "loss": step.loss, "grad_norm": step.grad_norm}),
            )?;
            bar.suspend(|| watch.say(&format!("step {at} skipped: {reason} (loss {:.3})", step.loss)));
            give_up(&trainer, step)?;
        }
        if at.is_multiple_of(10) || at == config.steps {
            log_window(&mut metrics, at, &step, &window)?;
            bar.set_message(format!(
                "loss {:.3}  {:.0} tokens/s",
                trainer.state.mean_loss,
                window.tokens as f64 / window.seconds
            ));
            window = Window { codes: window.codes, ..Window::default() };
        }
        bar.set_position(at);
        if due(config.eval_every, at) {
            last_loss = trainer.validate(data);
            validated = Some(at);
            let codes = std::mem::take(&mut window.codes);
            log_validation(&mut metrics, at, last_loss, codes)?;
            bar.suspend(|| {
                watch.say(&format!(
                    "step {at:>6}  valid loss {last_loss:.4}  perplexity {:.2}{}",
                    last_loss.exp(),
                    shares(codes)
                ))
            });
        }
        if config.sample_every > 0
            && due(config.sample_every, at)
            && let Some(text) = sample(&trainer, tokenizer, &config.sample_prompt)?
        {
            metrics.log(&json!({"step": at, "sample": text}))?;
            bar.suspend(|| watch.say(&format!("        sample: {}", text.replace('\n', " "))));
        }
        // While steps are being skipped the weights are suspect: the checkpoint from before stays.
        if config.save_every > 0 && at < config.steps && due(config.save_every, at) && step.skipped.is_none()
        {
            checkpoint::save(&config.out, &trainer)?;
        }
    }
    bar.finish_and_clear();
    let interrupted = trainer.state.step < config.steps;
    if validated != Some(trainer.state.step) && !interrupted {
        last_loss = trainer.validate(data);
    }
    if !interrupted && !last_loss.is_finite() {
        return Err(Error::Diverged {
            step: trainer.state.step,
            message: "the validation loss is not a number, so these weights are not saved: lower lr".into(),
        });
    }
    if !interrupted || trainer.state.bad_steps == 0 || !checkpoint::exists(&config.out) {
        checkpoint::save(&config.out, &trainer)?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Outcome { step: trainer.state.step, first_loss, last_loss, seconds, interrupted })
}

/// Ends the run when too many steps in a row could not be used. The last checkpoint is from before the trouble.
fn give_up<B: Backend>(trainer: &Trainer<B>, step: Step) -> Result<()> {
    let (state, most) = (&trainer.state, trainer.config.max_bad_steps);
    if state.bad_steps < most {
        return Ok(());
    }
    let out = &trainer.config.out;
    let kept = if checkpoint::exists(out) {
        format!("the checkpoint in {} is from before: lower lr or raise warmup and --resume", out.display())
    } else {
        "nothing was saved yet: start again with a lower lr or a longer warmup".to_owned()
    };
    let (loss, norm) = (step.loss, step.grad_norm);
    let message =
        format!("{most} steps in a row were skipped (loss {loss:.3}, gradient norm {norm:.3}); {kept}");
    Err(Error::Diverged { step: state.step, message })
}

impl Window {
    fn add(&mut self, step: &Step, seconds: f64) {
        self.loss += step.loss;
        self.steps += 1;
        self.tokens += step.tokens;
        self.codes = self.codes + step.codes;
        self.seconds += seconds;
    }
}

impl Watch<'_> {
    fn bar(&self, len: u64, template: &str) -> ProgressBar {
        if self.quiet {
            return ProgressBar::hidden();
        }
        let style =
            ProgressStyle::with_template(template).expect("the templates of this file are well-formed");
        ProgressBar::new(len).with_style(style)
    }

    fn spinner(&self, message: String) -> ProgressBar {
        let bar = if self.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        bar.set_message(message);
        bar.enable_steady_tick(std::time::Duration::from_millis(120));
        bar
    }

    fn say(&self, line: &str) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }
}

fn log_window(metrics: &mut Metrics, at: u64, step: &Step, window: &Window) -> Result<()> {
    metrics.log(&json!({
        "step": at,
        "loss": window.loss / window.steps as f64,
        "lr": step.lr,
        "grad_norm": step.grad_norm,
        "tokens_per_second": (window.tokens as f64 / window.seconds).round(),
    }))
}

/// `codes` are summed over the steps since the last validation: shares are means per step.
fn log_validation(metrics: &mut Metrics, at: u64, loss: f64, codes: Codes) -> Result<()> {
    let mut line = json!({"step": at, "valid_loss": loss, "perplexity": loss.exp()});
    if codes.total > 0 {
        line["zero_fraction"] = (codes.zeros as f64 / codes.total as f64).into();
        line["flip_rate"] = (codes.flips as f64 / codes.total as f64).into();
    }
    metrics.log(&line)
}

fn shares(codes: Codes) -> String {
    if codes.total == 0 {
        return String::new();
    }
    let share = |n: u64| 100.0 * n as f64 / codes.total as f64;
    format!("  zeros {:.1}%  flips {:.3}% a step", share(codes.zeros), share(codes.flips))
}

/// A text sample from the packed weights, by the runtime: what would ship is what talks here.
fn sample<B: Backend>(
    trainer: &Trainer<B>,
    tokenizer: Option<&Tokenizer>,
    prompt: &str,
) -> Result<Option<String>> {
    let Some(tokenizer) = tokenizer else { return Ok(None) };
    let model = export::in_memory(&trainer.backend, &trainer.params, Some(tokenizer))?;
    match eval::sample(&model, prompt, 60, trainer.config.seed) {
        Ok(text) => Ok(Some(text)),
        Err(Error::Runtime(RuntimeError::ContextFull { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}
