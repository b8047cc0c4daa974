//! The training step, which fits on this screen, and what it needs to go on after an interruption.

use serde::{Deserialize, Serialize};

use crate::backend::{Backend, Codes, Tally};
use crate::config::RunConfig;
use crate::data::{Batch, Dataset, IGNORE, Order, Tokens, valid_windows};
use crate::error::Result;
use crate::model::{self, Activations};
use crate::optimizer::Optimizer;
use crate::params::Params;
use crate::schedule::Schedule;

/// A run in progress.
pub struct Trainer<B: Backend> {
    /// Settings.
    pub config: RunConfig,
    /// The device.
    pub backend: B,
    /// Weights, gradients, moments.
    pub params: Params<B>,
    /// Where the run is.
    pub state: State,
    optimizer: Optimizer,
    schedule: Schedule,
    activations: Activations<B>,
    order: Order,
    batches: Vec<Batch>,
}

/// Where a run is: everything that a resumed run must know beside weights and moments.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps done, skipped ones included: also the place in the data.
    pub step: u64,
    /// Updates done: AdamW's bias correction.
    pub updates: u64,
    /// Target tokens seen.
    pub tokens: u64,
    /// Running mean of the loss, nats per token, over about 20 steps.
    pub mean_loss: f64,
    /// Steps skipped in a row.
    pub bad_steps: u32,
}

/// The report of one step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Mean loss over the batch's target tokens, nats.
    pub loss: f64,
    /// Norm of the whole gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of AdamW.
    pub lr: f64,
    /// Target tokens.
    pub tokens: u64,
    /// What the projection of the updated weights did.
    pub codes: Codes,
    /// The step was skipped, and why.
    pub skipped: Option<&'static str>,
}

impl<B: Backend> Trainer<B> {
    /// A run about to take step `state.step`.
    pub fn new(config: RunConfig, backend: B, params: Params<B>, state: State, order: Order) -> Self {
        let (micro, seq, recompute) = (config.micro_batch(), config.seq_len, config.activation_checkpointing);
        let activations = Activations::with_checkpointing(&backend, &params.config, micro, seq, recompute);
        let (optimizer, schedule) = (Optimizer::new(&config), config.lr_schedule());
        Self { config, backend, params, state, optimizer, schedule, activations, order, batches: Vec::new() }
    }

    /// One step: batch in, weights changed, report out. After an error the weights are not to be relied on.
    pub fn step(&mut self, data: &Tokens) -> Result<Step> {
        self.fetch(data);
        let factor = self.schedule.factor(self.state.step);
        let step = match self.config.optimizer_in_backward {
            false => self.backward_then_update(factor)?,
            true => self.update_in_backward(factor)?,
        };
        self.advance(&step);
        Ok(step)
    }

    /// The step as everybody knows it: all gradients, their norm, then the update of all parameters.
    fn backward_then_update(&mut self, factor: f64) -> Result<Step> {
        let tokens = self.accumulate();
        let sums = self.backend.tally()?;
        let (loss, grad_norm) = (sums.loss / tokens.max(1) as f64, sums.squares.sqrt());
        let skipped = unusable((&self.state, &self.config), loss, grad_norm);
        match skipped {
            Some(_) => self.skip(),
            None => {
                let (t, clip) = (self.state.updates + 1, self.optimizer.clip(grad_norm));
                for param in &mut self.params.list {
                    self.optimizer.update(&mut self.backend, param, t, factor, clip);
                }
            }
        }
        let codes = self.backend.tally()?.codes;
        Ok(Step { loss, grad_norm, lr: self.config.peak_lr() * factor, tokens, codes, skipped })
    }

    /// Updates each parameter as soon as its gradient is whole, and drops the gradient: no more than the embedding's and
    /// one other are held (Lv et al., arXiv 2306.09782). Nobody knows the norm over all parameters in time, so each
    /// tensor's gradient is clipped by its own, and one that is no number leaves its tensor alone.
    fn update_in_backward(&mut self, factor: f64) -> Result<Step> {
        let batch = &self.batches[0];
        let tokens = target_tokens(batch).max(1);
        model::forward(&mut self.backend, &self.params, &mut self.activations, batch);
        let (t, optimizer) = (self.state.updates + 1, self.optimizer);
        let state = (&self.state, &self.config);
        let mut loss = None; // known before the first gradient is whole
        let finished = |b: &mut B, p: &mut Params<B>, index: usize| {
            let loss = loss.get_or_insert_with(|| b.tally().map(|sums| sums.loss / tokens as f64));
            let param = &mut p.list[index];
            match (loss, &mut param.grad) {
                (Ok(loss), Some(_)) if unusable(state, *loss, 0.0).is_none() => {
                    optimizer.update(b, param, t, factor, optimizer.clip_each());
                }
                (_, Some(grad)) => b.clear(grad),
                (_, None) => return,
            }
            p.release_grad(index);
        };
        let (b, scale) = (&mut self.backend, 1.0 / tokens as f32);
        model::backward_with(b, &mut self.params, &mut self.activations, batch, scale, finished);
        let loss = loss.unwrap_or(Ok(f64::NAN))?;
        let Tally { squares, codes, .. } = b.tally()?;
        let (grad_norm, lr) = (squares.sqrt(), self.config.peak_lr() * factor);
        let skipped = unusable(state, loss, squares);
        Ok(Step { loss, grad_norm, lr, tokens: tokens as u64, codes, skipped })
    }

    /// Reads the micro-batches of this step.
    fn fetch(&mut self, data: &Tokens) {
        let (size, micro, seq) = (self.config.batch_size, self.config.micro_batch(), self.config.seq_len);
        self.batches.resize_with(size / micro, Batch::default);
        for (i, batch) in self.batches.iter_mut().enumerate() {
            let row = self.state.step * size as u64 + (i * micro) as u64;
            self.order.batch(data, row, micro, seq, batch);
        }
    }

    /// Forward and backward over the micro-batches. Every target token weighs the same, however they are cut: the
    /// gradient is that of one large batch. Tallies loss and squares, and returns the number of targets.
    fn accumulate(&mut self) -> u64 {
        let tokens: usize = self.batches.iter().map(target_tokens).sum();
        let scale = 1.0 / tokens.max(1) as f32;
        for batch in &self.batches {
            model::forward(&mut self.backend, &self.params, &mut self.activations, batch);
            model::backward(&mut self.backend, &mut self.params, &mut self.activations, batch, scale);
        }
        for grad in self.params.list.iter().filter_map(|param| param.grad.as_ref()) {
            self.backend.sum_of_squares(grad);
        }
        tokens as u64
    }

    fn skip(&mut self) {
        for grad in self.params.list.iter_mut().filter_map(|param| param.grad.as_mut()) {
            self.backend.clear(grad);
        }
    }

    fn advance(&mut self, step: &Step) {
        let state = &mut self.state;
        state.step += 1;
        state.tokens += step.tokens;
        if step.skipped.is_some() {
            state.bad_steps += 1;
            return;
        }
        state.bad_steps = 0;
        state.updates += 1;
        let weight = if state.updates == 1 { 1.0 } else { 0.05 };
        state.mean_loss += weight * (step.loss - state.mean_loss);
    }

    /// Mean loss over evenly spread validation windows, with the weights that would ship, nats per token.
    pub fn validate(&mut self, data: &Dataset) -> Result<f64> {
        let windows = valid_windows(&data.valid, self.config.seq_len, self.config.eval_sequences);
        self.evaluate(&data.valid, &windows)
    }

    /// Mean loss over the windows of `seq_len` tokens that start at `starts`, nats per token.
    pub fn evaluate(&mut self, tokens: &Tokens, starts: &[usize]) -> Result<f64> {
        let (micro, seq) = (self.config.micro_batch(), self.config.seq_len);
        let mut count = 0;
        for starts in starts.chunks(micro) {
            let batch = padded(tokens, starts, micro, seq);
            model::forward(&mut self.backend, &self.params, &mut self.activations, &batch);
            model::loss(&mut self.backend, &self.params, &self.activations, &batch);
            count += target_tokens(&batch);
        }
        Ok(self.backend.tally()?.loss / count.max(1) as f64)
    }
}

/// Why a step must not change the weights, if it must not.
fn unusable((state, config): (&State, &RunConfig), loss: f64, gradient: f64) -> Option<&'static str> {
    if !loss.is_finite() || !gradient.is_finite() {
        return Some("loss or gradient is not a number");
    }
    // Early on the mean says nothing yet.
    let spike = state.updates >= 20 && loss > state.mean_loss + config.spike;
    spike.then_some("the loss jumped")
}

/// Targets that count.
pub fn target_tokens(batch: &Batch) -> usize {
    batch.targets.iter().filter(|&&target| target != IGNORE).count()
}

/// A batch of the windows at `starts`, filled up with rows that do not count; a window may reach beyond the tokens.
fn padded(tokens: &Tokens, starts: &[usize], batch: usize, seq: usize) -> Batch {
    let mut out = Batch { batch, seq, tokens: vec![0; batch * seq], targets: vec![IGNORE; batch * seq] };
    let mut window = vec![0; seq + 1];
    for (row, &start) in starts.iter().enumerate() {
        let (at, n) = (row * seq, seq.min(tokens.len() - start - 1));
        tokens.read(start..start + n + 1, &mut window[..=n]);
        out.tokens[at..at + n].copy_from_slice(&window[..n]);
        out.targets[at..at + n].copy_from_slice(&window[1..=n]);
    }
    out
}

/// The order of a run's data: its own, or another trainer's to replay.
pub fn order(config: &RunConfig) -> Result<Order> {
    if config.offsets.as_os_str().is_empty() {
        return Ok(Order::Shuffled { seed: config.seed });
    }
    Order::from_file(&config.offsets)
}
