//! The loop round the training step: progress, validation, samples, checkpoints. What comes before is in `prepare`,
//! what people and programs are told meanwhile in `report`.

mod prepare;
mod report;

use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use bonsai_runtime::config::TensorSpec;
use bonsai_runtime::ternary::ScaleRule;
use bonsai_runtime::tokenizer::LazyTokenizer;
use bonsai_runtime::{Config, Error as RuntimeError, Tokenizer};

use crate::backend::Backend;
use crate::checkpoint::{self, Saved};
use crate::communicator::{Communicator, Single};
use crate::config::{OptimizerKind, Precision, RunConfig};
use crate::data::Dataset;
use crate::device::{Device, Work};
use crate::error::{Error, Result};
use crate::formats::Latents;
use crate::import::Import;
use crate::loss::{self, Teacher};
use crate::optimizer::Optimizer;
use crate::params::{self, Params};
use crate::schedule::RampSteps;
use crate::teacher_cache::TeacherCache;
use crate::train::{State, Step, Trainer, order};
use crate::{diagnostics, eval, export, output, summary};

pub use prepare::{
    Prepared, Text, learn_tokenizer, open_tokenizer, prepare, scan, shards, tokenize, vocabulary,
};
pub use report::Watch;

use prepare::{check_vocabulary, prepared};
use report::Report;

/// Largest learning rate that is chosen, in scales.
const LARGEST_STEP: f64 = 0.01;
/// How far a conversion should move its weights, in scales: some 9% of the codes change.
const WAY: f64 = 0.2;

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

/// Begins a run in `config.out`.
pub fn start(config: RunConfig, watch: &Watch<'_>) -> Result<Outcome> {
    start_among(&one(), config, watch)
}

/// A run's only process.
fn one() -> Rc<dyn Communicator> {
    Rc::new(Single)
}

/// The same by several processes. The first prepares the run, which the others then open.
pub fn start_among(
    world: &Rc<dyn Communicator>,
    mut config: RunConfig,
    watch: &Watch<'_>,
) -> Result<Outcome> {
    config.ranks = world.size();
    config.check()?;
    inherit_rounding(&mut config, watch)?;
    let device = Device::choose(&config, watch)?;
    let mut ready = None;
    if world.rank() == 0 {
        checkpoint::claim(&config.out)?;
        ready = Some(prepare(&config, watch)?);
    }
    world.barrier();
    let prepared = ready.map_or_else(|| prepared(&config), Ok)?;
    let device = device.for_models(&config, &prepared.model, watch)?;
    device.run(&config.clone(), Start { world, config, prepared, watch })
}

/// A ternary run to start from goes on being rounded as it was: another rule would change every scale of it at once.
fn inherit_rounding(config: &mut RunConfig, watch: &Watch<'_>) -> Result<()> {
    let Some(before) = checkpoint::ternary_run(Path::new(&config.init))? else {
        return keep_ternary(config, watch);
    };
    if config.scale_rule.is_empty() {
        config.scale_rule = before.rule()?.name().into();
    }
    if config.precision != Precision::Fp && config.group != before.group {
        warn_of_groups(config, before.group, watch);
    }
    Ok(())
}

/// A ternary file to start from keeps its codes and scales, in groups that are not larger: under a rule whose scale is the
/// mean of all weights, zeros included, each group is first made larger by as much as they make that mean smaller
/// (`import = "gain"`).
fn keep_ternary(config: &mut RunConfig, watch: &Watch<'_>) -> Result<()> {
    if !config.converts() || config.precision == Precision::Fp {
        return Ok(());
    }
    let Some(group) = checkpoint::ternary_group(Path::new(&config.init))? else { return Ok(()) };
    if config.rule()? == ScaleRule::Absmean && config.import == Import::Plain {
        config.import = Import::Gain;
    }
    if config.teacher.is_empty() {
        watch.say(&format!(
            "{} is ternary already: it has no teacher and learns from the text (--set teacher=FILE names one)",
            config.init
        ));
    }
    if config.group > group {
        warn_of_groups(config, group, watch);
    }
    Ok(())
}

/// Says that weights in groups of `group` will be rounded in others.
fn warn_of_groups(config: &RunConfig, group: usize, watch: &Watch<'_>) {
    let (init, new) = (&config.init, config.group);
    watch.say(&format!(
        "{init} is in groups of {group} and will be rounded in groups of {new} (--set group={group} keeps them)"
    ));
}

/// A run about to begin.
struct Start<'a> {
    world: &'a Rc<dyn Communicator>,
    config: RunConfig,
    prepared: Prepared,
    watch: &'a Watch<'a>,
}

impl Work for Start<'_> {
    type Output = Outcome;

    /// Begins on a backend, with a teacher on the same device.
    fn on<B: Backend>(self, open: impl Fn(&Config) -> Result<B>) -> Result<Outcome> {
        let Self { world, config, mut prepared, watch } = self;
        let teacher = teacher(&config, &prepared.model, watch, &open)?;
        let backend = open(&prepared.model)?;
        let params = first_weights(&backend, &config, &mut prepared)?;
        let order = order(&config)?;
        order.check(&prepared.data.train, config.steps * config.batch_size as u64, config.seq_len)?;
        let config = with_learning_rate(config, &backend, &params, watch)?;
        let trainer = Trainer::new(config, backend, params, State::default(), order);
        let trainer = trainer.with_teacher(teacher).among(Rc::clone(world));
        train(trainer, &prepared.data, prepared.tokenizer.as_ref(), watch)
    }
}

/// The checkpoint's weights, or random ones.
fn first_weights<B: Backend>(backend: &B, config: &RunConfig, prepared: &mut Prepared) -> Result<Params<B>> {
    let optimizer = Optimizer::new(config);
    let moments = |spec: &_| optimizer.moments(spec);
    match prepared.start.take() {
        Some(file) => {
            bonsai_runtime::checkpoint::check_finite(&file, Path::new(&config.init))?;
            checkpoint::imported(backend, &file, config, (config.rotation, config.import), moments)
        }
        None => Ok(Params::new(backend, &prepared.model, config.projection_of()?, moments, |index, spec| {
            config.latents.hold(spec, params::scratch(&prepared.model, config.seed, index, spec))
        })),
    }
}

/// A conversion that was given no learning rate gets one in units of the scale, which differs tenfold between models: a
/// hundredth of it (2e-4 for Qwen3's 0.02), or what takes weights [`WAY`] scales far in a longer run.
fn with_learning_rate<B: Backend>(
    mut config: RunConfig,
    backend: &B,
    params: &Params<B>,
    watch: &Watch<'_>,
) -> Result<RunConfig> {
    if !config.converts() || config.lr != 0.0 || config.optimizer != OptimizerKind::Adamw {
        return Ok(config);
    }
    let scale = diagnostics::mean_scale(backend, params)?;
    let Some(scale) = scale.filter(|&scale| scale > 0.0) else { return Ok(config) };
    config.lr = scale * LARGEST_STEP.min(WAY / config.lr_schedule().way(0));
    watch.say(&format!(
        "learning rate {:.1e}, by the weights' mean scale of {scale:.3} (--lr sets another)",
        config.lr
    ));
    Ok(config)
}

/// Says how far AdamW will move the weights of a conversion, which decides whether it learns anything at all.
fn forecast_change<B: Backend>(trainer: &Trainer<B>, watch: &Watch<'_>) -> Result<()> {
    let config = &trainer.config;
    if !config.converts() || config.optimizer != OptimizerKind::Adamw {
        return Ok(());
    }
    let scale = diagnostics::mean_scale(&trainer.backend, &trainer.params)?;
    let Some(scale) = scale.filter(|&scale| scale > 0.0) else { return Ok(()) };
    let way = config.lr_schedule().way(trainer.state.step) * config.peak_lr() / scale;
    watch.say(&format!(
        "weights will go about {way:.2} scales far, which changes about {:.0}% of their codes (a random walk; 7 to 14% is usual)",
        100.0 * diagnostics::expected_change(way)
    ));
    Ok(())
}

/// Settles `ramp = auto`, and says so where that gives one.
fn decide_ramp<B: Backend>(trainer: &mut Trainer<B>, loss: f64, vocab: usize, watch: &Watch<'_>) {
    let steps = decided_ramp(&trainer.config, trainer.has_teacher(), loss, vocab);
    if trainer.config.ramp == RampSteps::Auto && steps > 0 {
        watch.say(&format!(
            "rounded at once, the model says noise (loss {loss:.1}, guessing {:.1}): its weights are rounded little by little, \
             over {} (--set ramp=0 for at once)",
            (vocab as f64).ln(),
            output::count(steps, "step")
        ));
    }
    trainer.config.ramp = RampSteps::Steps(steps);
}

/// The ramp of a run that leaves it to us, by the loss of the weights rounded at once. Where rounding left nothing of a
/// model, which then predicts worse than one that guesses among all tokens, a ramp keeps the student near enough to its
/// teacher to be told something: SmolLM2 came as far in a quarter of the tokens. Where a model was left it gained nothing,
/// and without a teacher it did harm (docs/training.md).
fn decided_ramp(config: &RunConfig, teacher: bool, loss: f64, vocab: usize) -> u64 {
    let guessing = (vocab as f64).ln();
    let rounds = config.converts() && config.precision != Precision::Fp;
    match config.ramp {
        RampSteps::Steps(steps) => steps,
        RampSteps::Auto if rounds && teacher && loss > guessing => config.steps.div_ceil(3),
        RampSteps::Auto => 0,
    }
}

/// The teacher of a run, if it has one: the weights as they lie in its checkpoint, or, of a ternary run, rounded as it was
/// trained. `open` makes a backend for its shape on the run's device.
fn teacher<B: Backend>(
    config: &RunConfig,
    student: &Config,
    watch: &Watch<'_>,
    open: impl Fn(&Config) -> Result<B>,
) -> Result<Option<Teacher<B>>> {
    let Some((file, rounded)) = loss::open_teacher(config, student)? else { return Ok(None) };
    let (kl, ce) = (config.kl_weight, config.ce_weight);
    let kind = if rounded.is_some() { "ternary" } else { "dense" };
    watch.say(&format!("distilling: {kl} x divergence from the {kind} teacher, {ce} x cross-entropy (teacher = \"none\" turns it off)"));
    let backend = open(&file.config)?;
    let latent = |_: usize, spec: &TensorSpec| Latents::stored(spec, &file.tensors[&spec.name]);
    let projection = rounded.map(|run| run.projection_of()).transpose()?;
    let projection = |spec: &TensorSpec| projection.as_ref().and_then(|of| of(spec));
    let params = Params::new(&backend, &file.config, projection, |_| &[], latent);
    let cache = TeacherCache::open(config, &file)?;
    if let Some(cache) = &cache {
        let (k, windows, path) = (cache.top_k(), cache.windows(), config.teacher_cache.display());
        watch.say(&format!("teacher cache {path}: {k} tokens of each distribution, {windows} windows known"));
    }
    Ok(Some(Teacher::new(backend, params, config).with_cache(cache)))
}

/// Goes on with the run in `dir`, whose settings `change` may alter (more steps, other text).
pub fn resume(
    dir: &Path,
    change: impl FnOnce(RunConfig) -> Result<RunConfig>,
    watch: &Watch<'_>,
) -> Result<Outcome> {
    resume_among(&one(), dir, change, watch)
}

/// The same by several processes.
pub fn resume_among(
    world: &Rc<dyn Communicator>,
    dir: &Path,
    change: impl FnOnce(RunConfig) -> Result<RunConfig>,
    watch: &Watch<'_>,
) -> Result<Outcome> {
    let mut saved = Saved::open(dir)?;
    let old = saved.run.clone();
    saved.run = change(saved.run)?;
    saved.run.check_changes(&old)?;
    let other_text = saved.run.data != old.data;
    (saved.run.out, saved.run.ranks) = (dir.to_path_buf(), world.size());
    let (step, steps) = (saved.state.step, saved.run.steps);
    if steps < step {
        return Err(Error::Config(format!(
            "steps is {steps}, but the run is at step {step} already: set more"
        )));
    }
    if steps == step {
        watch.say(&format!("step {step} of {steps}: nothing is left to do (--steps sets more)"));
    }
    saved.run.check()?;
    let device = Device::choose(&saved.run, watch)?.for_models(&saved.run, &saved.model.config, watch)?;
    device.run(&saved.run.clone(), Resume { world, saved, other_text, watch })
}

/// A saved run about to go on.
struct Resume<'a> {
    world: &'a Rc<dyn Communicator>,
    saved: Saved,
    /// Its data is not what it was saved with.
    other_text: bool,
    watch: &'a Watch<'a>,
}

impl Work for Resume<'_> {
    type Output = Outcome;

    fn on<B: Backend>(self, open: impl Fn(&Config) -> Result<B>) -> Result<Outcome> {
        let Self { world, mut saved, other_text, watch } = self;
        let teacher = teacher(&saved.run, &saved.model.config, watch, &open)?;
        let backend = open(&saved.model.config)?;
        let params = saved.params(&backend, true)?;
        let data = Dataset::open(&shards(&saved.run))?;
        check_vocabulary(data.meta.vocab, Some(&params.config))?;
        let order = order(&saved.run)?;
        let left = saved.run.steps.saturating_sub(saved.state.step) * saved.run.batch_size as u64;
        order.check(&data.train, saved.state.rows + left, saved.run.seq_len)?;
        let tokenizer = saved.model.tokenizer.take().map(LazyTokenizer::into_tokenizer).transpose()?;
        if let Some(tokenizer) = &tokenizer {
            data.check_tokenizer(tokenizer)?;
        }
        let trainer = Trainer::new(saved.run, backend, params, saved.state, order);
        let mut trainer = trainer.with_teacher(teacher).among(Rc::clone(world));
        if other_text {
            expect_other_text(&mut trainer, &data, watch)?;
        }
        train(trainer, &data, tokenizer.as_ref(), watch)
    }
}

/// What the loss was on the old text says nothing of the new one, whose every step might pass for a spike.
fn expect_other_text<B: Backend>(trainer: &mut Trainer<B>, data: &Dataset, watch: &Watch<'_>) -> Result<()> {
    let loss = trainer.validate(data)?.cross_entropy;
    trainer.state.mean_loss = loss;
    watch.say(&format!("other text: the weights so far have a validation loss of {loss:.4} on it"));
    Ok(())
}

/// Takes the remaining steps.
pub fn train<B: Backend>(
    mut trainer: Trainer<B>,
    data: &Dataset,
    tokenizer: Option<&Tokenizer>,
    watch: &Watch<'_>,
) -> Result<Outcome> {
    let first = if trainer.state.step == 0 { Some(trainer.validate(data)?) } else { None };
    let first_loss = first.map(|losses| losses.cross_entropy);
    if let Some(loss) = first_loss {
        decide_ramp(&mut trainer, loss, data.meta.vocab, watch);
    }
    let config = trainer.config.clone();
    let mut validated = first_loss.map(|loss| (0, loss));
    let mut report = Report::open(&mut trainer, first, watch)?;
    forecast_change(&trainer, watch)?;
    let begin = Instant::now();
    let writes = trainer.world.rank() == 0;
    while trainer.state.step < config.steps && !cancelled(&*trainer.world, watch) {
        let clock = Instant::now();
        let step = trainer.step(&data.train).map_err(|error| failed(&trainer.state, &config, error))?;
        let (at, seconds) = (trainer.state.step, clock.elapsed().as_secs_f64());
        let last = at == config.steps;
        let due = |every: u64| every > 0 && (last || at.is_multiple_of(every));
        if let Some(reason) = step.skipped {
            report.skipped(at, &step, reason)?;
            give_up(&trainer, step)?;
        }
        report.step(&trainer.state, &step, seconds, last)?;
        if last || due(config.eval_every) {
            let time = trainer.backend.seconds();
            let losses = trainer.validate(data)?;
            trainer.backend.seconds();
            validated = Some((at, losses.cross_entropy));
            report.validation(at, losses, time, &mut trainer)?;
        }
        let sound = validated.is_none_or(|(_, loss)| loss.is_finite());
        if writes
            && sound
            && due(config.sample_every)
            && let Some(text) = sample(&trainer, tokenizer, &config.sample_prompt)?
        {
            report.sample(at, &text)?;
        }
        // While steps are being skipped the weights are suspect: the checkpoint from before stays.
        if writes && due(config.save_every) && !last && step.skipped.is_none() {
            checkpoint::save(&config.out, &trainer)?;
        }
    }
    report.close();
    let interrupted = trainer.state.step < config.steps;
    let last_loss = finish(&mut trainer, data, validated, interrupted)?;
    let seconds = begin.elapsed().as_secs_f64();
    let step = trainer.state.step;
    drop(trainer); // the summary reads the run that was saved
    if writes && !interrupted {
        summary::write(&config.out)?;
    }
    Ok(Outcome { step, first_loss, last_loss, seconds, interrupted })
}

/// Whether somebody wants to stop: all processes stop together.
fn cancelled(world: &dyn Communicator, watch: &Watch<'_>) -> bool {
    let wish = if watch.is_cancelled() { 1.0 } else { 0.0 };
    world.sums([wish, 0.0])[0] > 0.0
}

/// Saves what the loop leaves, if it is worth it, and returns its validation loss. `validated` is the step and the
/// loss of the last validation.
fn finish<B: Backend>(
    trainer: &mut Trainer<B>,
    data: &Dataset,
    validated: Option<(u64, f64)>,
    interrupted: bool,
) -> Result<f64> {
    let last_loss = match validated {
        Some((at, loss)) if interrupted || at == trainer.state.step => loss,
        _ if interrupted => f64::NAN,
        _ => trainer.validate(data)?.cross_entropy, // a resumed run that has no step left
    };
    if !interrupted && !last_loss.is_finite() {
        return Err(Error::Diverged {
            step: trainer.state.step,
            message: "the validation loss is not a number, so these weights are not saved: lower lr".into(),
        });
    }
    let out = &trainer.config.out;
    if trainer.world.rank() > 0 {
        return Ok(last_loss);
    }
    if !interrupted || trainer.state.bad_steps == 0 || !checkpoint::exists(out) {
        checkpoint::save(out, trainer)?;
    }
    Ok(last_loss)
}

/// A device that failed in the middle of a run takes its weights with it: says what is left.
fn failed(state: &State, config: &RunConfig, error: Error) -> Error {
    let Error::Runtime(cause) = error else { return error };
    let kept = match checkpoint::exists(&config.out) {
        true => format!("the checkpoint in {} is from before: --resume it", config.out.display()),
        false => "nothing was saved yet".to_owned(),
    };
    Error::Device { step: state.step + 1, cause, kept }
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
    let (loss, norm, skipped) = (step.loss, step.grad_norm, output::count(u64::from(most), "step"));
    let message = format!("skipped {skipped} in a row (loss {loss:.3}, gradient norm {norm:.3}); {kept}");
    Err(Error::Diverged { step: state.step, message })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversion_that_begins_as_noise_gets_a_ramp() {
        let config = RunConfig { init: "teacher".into(), steps: 100, ..RunConfig::default() };
        let ramp = |config: &RunConfig| decided_ramp(config, true, 16.7, 49_152); // guessing loses 10.8
        assert_eq!(ramp(&config), 34);
        assert_eq!(ramp(&RunConfig { ramp: RampSteps::Steps(0), ..config.clone() }), 0);
        assert_eq!(ramp(&RunConfig { ramp: RampSteps::Steps(9), ..config.clone() }), 9);
        assert_eq!(ramp(&RunConfig { precision: Precision::Fp, ..config.clone() }), 0);
        assert_eq!(ramp(&RunConfig { init: "scratch".into(), ..config.clone() }), 0);
        assert_eq!(decided_ramp(&config, true, 5.9, 49_152), 0);
        assert_eq!(decided_ramp(&config, false, 16.7, 49_152), 0);
    }
}
