//! What a run tells while it goes: lines in `metrics.jsonl` for programs, a bar and lines on stderr for people.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::backend::{Backend, Codes, Losses};
use crate::diagnostics::{Diagnostics, Tally};
use crate::error::Result;
use crate::metrics::Metrics;
use crate::tensorboard::Events;
use crate::train::{State, Step, Trainer};

/// Who watches a run: the bar, and the flag that Ctrl-C sets.
pub struct Watch<'a> {
    /// Set when the user wants to stop: the loop saves and ends.
    pub cancelled: &'a AtomicBool,
    /// No bar and no lines on stderr.
    pub quiet: bool,
}

impl Watch<'_> {
    /// Whether the user wants to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// A remark on stderr.
    pub fn say(&self, line: &str) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }

    pub(super) fn bar(&self, len: u64, template: &str) -> ProgressBar {
        if self.quiet {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template(template).expect("the templates of a run are well-formed");
        ProgressBar::new(len).with_style(style)
    }

    pub(super) fn spinner(&self, message: String) -> ProgressBar {
        let bar = if self.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        bar.set_message(message);
        bar.enable_steady_tick(std::time::Duration::from_millis(120));
        bar
    }
}

/// The metrics and the bar of one run.
pub(super) struct Report<'a> {
    metrics: Metrics,
    events: Option<Events>,
    diagnostics: Diagnostics,
    bar: ProgressBar,
    watch: &'a Watch<'a>,
    window: Window,
    /// Steps between lines of metrics.
    every: u64,
}

/// Counts between two lines of metrics; `codes` counts from one validation to the next.
#[derive(Default)]
struct Window {
    loss: f64,
    kl: Option<f64>,
    /// Steps whose batch had a target.
    steps: u64,
    tokens: u64,
    codes: Codes,
    seconds: f64,
}

impl<'a> Report<'a> {
    /// Opens the metrics of a run that stands at `state`; a fresh one begins with the loss of untrained weights.
    pub fn open<B: Backend>(
        trainer: &mut Trainer<B>,
        first: Option<Losses>,
        watch: &'a Watch<'a>,
    ) -> Result<Self> {
        let (config, state) = (&trainer.config, &trainer.state);
        let writes = trainer.world.rank() == 0;
        let metrics = if writes { Metrics::open(&config.out, state.step)? } else { Metrics::silent() };
        let events = (writes && config.tensorboard).then(|| Events::create(&config.out)).transpose()?;
        let diagnostics = Diagnostics::new(&trainer.backend, &trainer.params, state.step == 0)?;
        trainer.backend.seconds(); // that of validating belongs to nobody
        let bar = watch.bar(config.steps, "{bar:30} {pos}/{len} steps  {msg}  {elapsed} (about {eta} left)");
        bar.set_position(state.step);
        bar.reset_eta();
        let every = config.log_every;
        let mut report = Self { metrics, events, diagnostics, bar, watch, window: Window::default(), every };
        if let Some(losses) = first {
            let mut line = validation_line(0, losses);
            report.layers(trainer, &mut line)?;
            report.log(&line)?;
        }
        Ok(report)
    }

    fn log(&mut self, line: &Value) -> Result<()> {
        if let Some(events) = &mut self.events {
            events.log(line)?;
        }
        self.metrics.log(line)
    }

    /// What happened to the weights since the last line of this kind, by kind of layer.
    fn layers<B: Backend>(&mut self, trainer: &mut Trainer<B>, line: &mut Value) -> Result<()> {
        let layers = self.diagnostics.report(&trainer.backend, &trainer.params, &trainer.tallies)?;
        line["layers"] = json!(layers);
        trainer.tallies.fill(Tally::default());
        Ok(())
    }

    /// A step was taken in `seconds`: every `log_every`th, and the `last`, is a line of metrics.
    pub fn step(&mut self, state: &State, step: &Step, seconds: f64, last: bool) -> Result<()> {
        let window = &mut self.window;
        window.add(step, seconds);
        if state.step.is_multiple_of(self.every) || last {
            let speed = window.tokens as f64 / window.seconds;
            let mut line = json!({
                "step": state.step,
                "loss": window.loss / window.steps as f64,
                "lr": step.lr,
                "grad_norm": step.grad_norm,
                "tokens_per_second": speed.round(),
            });
            if let Some(kl) = window.kl {
                line["kl"] = (kl / window.steps as f64).into();
            }
            self.log(&line)?;
            self.bar.set_message(format!("loss {:.3}  {speed:.0} tokens/s", state.mean_loss));
            self.window = Window { codes: self.window.codes, ..Window::default() };
        }
        self.bar.set_position(state.step);
        Ok(())
    }

    /// Step `at`, or a tensor in it, was skipped, for `reason`.
    pub fn skipped(&mut self, at: u64, step: &Step, reason: &str) -> Result<()> {
        let Step { loss, grad_norm, updated, .. } = step;
        self.log(
            &json!({"step": at, "skipped": reason, "updated": updated, "loss": loss, "grad_norm": grad_norm}),
        )?;
        let what = if *updated { "" } else { " skipped" };
        self.say(&format!("step {at}{what}: {reason} (loss {loss:.3})"));
        Ok(())
    }

    /// A validation. Codes are summed over the steps since the last one: shares are means per step.
    pub fn validation<B: Backend>(
        &mut self,
        at: u64,
        losses: Losses,
        time: BTreeMap<&str, f64>,
        trainer: &mut Trainer<B>,
    ) -> Result<()> {
        let codes = std::mem::take(&mut self.window.codes);
        let (mut line, loss) = (validation_line(at, losses), losses.cross_entropy);
        let mut remark = format!("step {at:>6}  valid loss {loss:.4}  perplexity {:.2}", loss.exp());
        if codes.total > 0 {
            let share = |n: u64| n as f64 / codes.total as f64;
            let (zeros, flips) = (share(codes.zeros), share(codes.flips));
            line["zero_fraction"] = zeros.into();
            line["flip_rate"] = flips.into();
            remark += &format!("  zeros {:.1}%  flips {:.3}% a step", 100.0 * zeros, 100.0 * flips);
        }
        self.layers(trainer, &mut line)?;
        let total: f64 = time.values().sum();
        let share = |(op, seconds): (&str, f64)| (op.to_owned(), (1e4 * seconds / total).round() / 1e4);
        let time: BTreeMap<String, f64> = time.into_iter().map(share).collect();
        line["time"] = json!(time);
        self.log(&line)?;
        self.say(&remark);
        Ok(())
    }

    /// A text that the model wrote.
    pub fn sample(&mut self, at: u64, text: &str) -> Result<()> {
        self.log(&json!({"step": at, "sample": text}))?;
        self.say(&format!("        sample: {}", text.replace('\n', " ")));
        Ok(())
    }

    /// Takes the bar off the screen.
    pub fn close(self) {
        self.bar.finish_and_clear();
    }

    /// A remark above the bar.
    fn say(&self, line: &str) {
        self.bar.suspend(|| self.watch.say(line));
    }
}

/// What every validation says.
fn validation_line(at: u64, Losses { cross_entropy: loss, kl }: Losses) -> Value {
    let mut line = json!({"step": at, "valid_loss": loss, "perplexity": loss.exp()});
    if kl > 0.0 {
        line["valid_kl"] = kl.into();
    }
    line
}

impl Window {
    fn add(&mut self, step: &Step, seconds: f64) {
        if step.tokens > 0 {
            self.loss += step.loss;
            self.kl = step.kl.map(|kl| self.kl.unwrap_or(0.0) + kl);
            self.steps += 1;
        }
        self.tokens += step.tokens;
        self.codes = self.codes + step.codes;
        self.seconds += seconds;
    }
}
