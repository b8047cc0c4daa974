//! The training step, which fits on this screen, and what it needs to go on after an interruption.

use serde::{Deserialize, Serialize};

use crate::backend::{Backend, Codes};
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
        let activations = Activations::new(&backend, &params.config, config.micro_batch(), config.seq_len);
        let (optimizer, schedule) = (Optimizer::new(&config), config.lr_schedule());
        Self { config, backend, params, state, optimizer, schedule, activations, order, batches: Vec::new() }
    }

    /// One step: batch in, weights changed, report out.
    pub fn step(&mut self, data: &Tokens) -> Step {
        self.fetch(data);
        let (loss, tokens) = self.accumulate();
        let grad_norm = self.grad_norm();
        let factor = self.schedule.factor(self.state.step);
        let skipped = self.unusable(loss, grad_norm);
        let codes = match skipped {
            Some(_) => self.skip(),
            None => {
                self.state.updates += 1;
                let scale = self.optimizer.grad_scale(grad_norm);
                self.optimizer.update(&mut self.backend, &mut self.params, self.state.updates, factor, scale)
            }
        };
        self.advance(loss, tokens, skipped.is_some());
        Step { loss, grad_norm, lr: self.config.peak_lr() * factor, tokens, codes, skipped }
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
    /// gradient is that of one large batch. Returns the mean loss and the number of targets.
    fn accumulate(&mut self) -> (f64, u64) {
        let tokens: usize = self.batches.iter().map(target_tokens).sum();
        let scale = 1.0 / tokens.max(1) as f32;
        let mut loss = 0.0;
        for batch in &self.batches {
            model::forward(&mut self.backend, &self.params, &mut self.activations, batch);
            loss += model::backward(&mut self.backend, &mut self.params, &mut self.activations, batch, scale);
        }
        (loss / tokens.max(1) as f64, tokens as u64)
    }

    /// Norm of the gradient over all parameters.
    fn grad_norm(&mut self) -> f64 {
        let backend = &mut self.backend;
        self.params.list.iter().map(|param| backend.sum_of_squares(&param.grad)).sum::<f64>().sqrt()
    }

    /// Why a step must not change the weights, if it must not.
    fn unusable(&self, loss: f64, grad_norm: f64) -> Option<&'static str> {
        if !loss.is_finite() || !grad_norm.is_finite() {
            return Some("loss or gradient is not a number");
        }
        // Early on the mean says nothing yet.
        let spike = self.state.updates >= 20 && loss > self.state.mean_loss + self.config.spike;
        spike.then_some("the loss jumped")
    }

    fn skip(&mut self) -> Codes {
        for param in &mut self.params.list {
            self.backend.clear(&mut param.grad);
        }
        Codes::default()
    }

    fn advance(&mut self, loss: f64, tokens: u64, skipped: bool) {
        let state = &mut self.state;
        state.step += 1;
        state.tokens += tokens;
        state.bad_steps = if skipped { state.bad_steps + 1 } else { 0 };
        if !skipped {
            let weight = if state.updates == 1 { 1.0 } else { 0.05 };
            state.mean_loss += weight * (loss - state.mean_loss);
        }
    }

    /// Mean loss over evenly spread validation windows, with the weights that would ship, nats per token.
    pub fn validate(&mut self, data: &Dataset) -> f64 {
        let windows = valid_windows(&data.valid, self.config.seq_len, self.config.eval_sequences);
        self.evaluate(&data.valid, &windows)
    }

    /// Mean loss over the windows of `seq_len` tokens that start at `starts`, nats per token.
    pub fn evaluate(&mut self, tokens: &Tokens, starts: &[usize]) -> f64 {
        let (micro, seq) = (self.config.micro_batch(), self.config.seq_len);
        let (mut total, mut count) = (0.0, 0);
        for starts in starts.chunks(micro) {
            let batch = padded(tokens, starts, micro, seq);
            model::forward(&mut self.backend, &self.params, &mut self.activations, &batch);
            total += model::loss(&mut self.backend, &self.params, &self.activations, &batch);
            count += target_tokens(&batch);
        }
        total / count.max(1) as f64
    }
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
