//! The training step, which fits on this screen, and what it needs to go on after an interruption.

use std::rc::Rc;

use bonsai_runtime::config::Kind;
use serde::{Deserialize, Serialize};

use crate::backend::{Backend, Codes, Losses, Tally};
use crate::communicator::{Communicator, Single};
use crate::config::RunConfig;
use crate::data::{Batch, Dataset, IGNORE, Order, Tokens, valid_windows};
use crate::diagnostics;
use crate::error::{Error, Result};
use crate::loss::{Objective, Teacher};
use crate::model::{self, Activations};
use crate::optimizer::Optimizer;
use crate::params::{Param, Params};
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
    /// What steps did to each parameter since somebody last took it.
    pub tallies: Vec<diagnostics::Tally>,
    /// The processes that share each batch.
    pub world: Rc<dyn Communicator>,
    teacher: Option<Teacher<B>>,
    optimizer: Optimizer,
    schedule: Schedule,
    activations: Activations<B>,
    order: Order,
    batches: Vec<Batch>,
}

/// Where a run is: everything that a resumed run must know beside weights and moments.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps done, skipped ones included.
    pub step: u64,
    /// Rows of the data read: the place in its order, whatever batch size brought the run there.
    #[serde(default)]
    pub rows: u64,
    /// Updates done: AdamW's bias correction.
    pub updates: u64,
    /// Target tokens seen.
    pub tokens: u64,
    /// Running mean of the loss, nats per token, over about 20 steps.
    pub mean_loss: f64,
    /// Steps in a row that were skipped, whole or in part.
    pub bad_steps: u32,
}

/// The report of one step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Mean cross-entropy over the batch's target tokens, nats; not a number where it has none.
    pub loss: f64,
    /// Mean divergence from the teacher, nats, if there is one.
    pub kl: Option<f64>,
    /// Norm of the whole gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of AdamW.
    pub lr: f64,
    /// Target tokens.
    pub tokens: u64,
    /// What the projection of the updated weights did.
    pub codes: Codes,
    /// Why the step, or with `optimizer_in_backward` a tensor, was skipped, if it was.
    pub skipped: Option<&'static str>,
    /// It counts as an update: every tensor whose gradient is a number was updated.
    pub updated: bool,
}

impl<B: Backend> Trainer<B> {
    /// A run about to take step `state.step`.
    pub fn new(config: RunConfig, backend: B, params: Params<B>, state: State, order: Order) -> Self {
        let (micro, seq, recompute) = (config.micro_batch(), config.seq_len, config.activation_checkpointing);
        let activations = Activations::with_checkpointing(&backend, &params.config, micro, seq, recompute);
        let (optimizer, schedule) = (Optimizer::new(&config), config.lr_schedule());
        let tallies = vec![diagnostics::Tally::default(); params.list.len()];
        Self {
            config,
            backend,
            params,
            state,
            tallies,
            world: Rc::new(Single),
            teacher: None,
            optimizer,
            schedule,
            activations,
            order,
            batches: Vec::new(),
        }
    }

    /// Whether it learns from a teacher.
    pub fn has_teacher(&self) -> bool {
        self.teacher.is_some()
    }

    /// The same run, which learns from a teacher.
    pub fn with_teacher(self, teacher: Option<Teacher<B>>) -> Self {
        Self { teacher, ..self }
    }

    /// The same run by several processes, as many as `config.ranks`.
    pub fn among(self, world: Rc<dyn Communicator>) -> Self {
        assert!(world.size() == self.config.ranks.max(1), "a share of the batch for each process");
        Self { world, ..self }
    }

    /// One step: batch in, weights changed, report out. After an error the weights are not to be relied on.
    pub fn step(&mut self, data: &Tokens) -> Result<Step> {
        self.fetch(data);
        self.set_ramp(self.config.ramp().shares(self.state.step));
        let factor = self.schedule.factor(self.state.step);
        let step = match (self.targets(), self.config.optimizer_in_backward) {
            (0, _) => self.read_only(factor),
            (targets, false) => self.backward_then_update(factor, targets)?,
            (targets, true) => self.update_in_backward(factor, targets)?,
        };
        self.check_together(step.codes)?;
        self.advance(&step);
        Ok(step)
    }

    /// Processes whose weights went apart would add up gradients of several models. They began with the same ones and saw
    /// the same sums, so the same number of codes must have changed everywhere.
    fn check_together(&self, codes: Codes) -> Result<()> {
        let (ours, n) = ([codes.zeros as f64, codes.flips as f64], self.world.size() as f64);
        if self.world.sums(ours) == ours.map(|count| n * count) {
            return Ok(());
        }
        Err(Error::Config(
            "the processes no longer have the same weights: all must run the same program, on one kind of processor"
                .into(),
        ))
    }

    /// A batch without a target, as inside of a long prompt, teaches nothing: weights and moments stay.
    fn read_only(&self, factor: f64) -> Step {
        let lr = self.config.peak_lr() * factor;
        let codes = Codes::default();
        Step { loss: f64::NAN, kl: None, grad_norm: 0.0, lr, tokens: 0, codes, skipped: None, updated: false }
    }

    /// The step as everybody knows it: all gradients, their norm, then the update of all parameters.
    fn backward_then_update(&mut self, factor: f64, tokens: usize) -> Result<Step> {
        let sums = self.accumulate(tokens)?;
        let (losses, grad_norm) = (mean(sums, tokens), sums.squares.sqrt());
        let (loss, kl) = (losses.cross_entropy, self.teacher.as_ref().map(|_| losses.kl));
        let skipped = unusable((&self.state, &self.config), loss, grad_norm);
        let codes = match skipped {
            Some(_) => self.skip(),
            None => self.update(factor, grad_norm)?,
        };
        let (lr, tokens) = (self.config.peak_lr() * factor, tokens as u64);
        Ok(Step { loss, kl, grad_norm, lr, tokens, codes, skipped, updated: skipped.is_none() })
    }

    /// Updates all parameters with gradients of that norm together.
    fn update(&mut self, factor: f64, grad_norm: f64) -> Result<Codes> {
        let (t, clip) = (self.state.updates + 1, self.optimizer.clip(grad_norm));
        for (index, param) in self.params.list.iter_mut().enumerate() {
            self.backend.tally_for(index);
            self.optimizer.update(&mut self.backend, param, t, factor, clip);
        }
        let codes = self.backend.tally()?.codes;
        for (index, own) in self.backend.tallies() {
            self.tallies[index].codes = self.tallies[index].codes + own.codes;
        }
        Ok(codes)
    }

    /// Updates each parameter as soon as its gradient is whole, and drops the gradient: no more than the embedding's and
    /// one other are held (Lv et al., arXiv 2306.09782). Nobody knows the norm over all parameters in time, so each
    /// tensor's gradient is clipped by its own, and one that is no number leaves its tensor alone.
    fn update_in_backward(&mut self, factor: f64, tokens: usize) -> Result<Step> {
        let world = Rc::clone(&self.world);
        let batch = &self.batches[0];
        model::forward(&mut self.backend, &self.params, &mut self.activations, batch);
        let (t, optimizer) = (self.state.updates + 1, self.optimizer);
        let state = (&self.state, &self.config);
        let mut losses = None; // known before the first gradient is whole
        let finished = |b: &mut B, p: &mut Params<B>, index: usize| {
            let known =
                losses.get_or_insert_with(|| b.tally().map(|sums| mean(whole(sums, &*world), tokens)));
            let param = &mut p.list[index];
            match (known, &mut param.grad) {
                (Ok(mean), Some(_)) if unusable(state, mean.cross_entropy, 0.0).is_none() => {
                    if let Err(error) = sum_gradient(b, param, &*world) {
                        losses = Some(Err(error));
                        return;
                    }
                    b.tally_for(index);
                    optimizer.update(b, param, t, factor, optimizer.clip_each());
                }
                (_, Some(grad)) => b.clear(grad),
                (_, None) => return,
            }
            p.release_grad(index);
        };
        let objective = objective(&mut self.teacher, &self.config, batch)?;
        let (b, scale) = (&mut self.backend, 1.0 / tokens as f32);
        let (p, a) = (&mut self.params, &mut self.activations);
        model::backward_with(b, p, a, batch, (&objective, scale), finished);
        let Losses { cross_entropy: loss, kl } =
            losses.unwrap_or(Ok(Losses { cross_entropy: f64::NAN, kl: f64::NAN }))?;
        let Tally { squares, codes, .. } = b.tally()?;
        for (index, own) in b.tallies() {
            self.tallies[index].add(own.codes, own.squares);
        }
        let (grad_norm, lr) = (squares.sqrt(), self.config.peak_lr() * factor);
        let (kl, tokens) = (self.teacher.as_ref().map(|_| kl), tokens as u64);
        let unusable = unusable(state, loss, 0.0);
        let skipped = unusable.or((!squares.is_finite()).then_some(TENSOR_SKIPPED));
        Ok(Step { loss, kl, grad_norm, lr, tokens, codes, skipped, updated: unusable.is_none() })
    }

    /// How much of the projection the forward pass sees of the layers, and of embedding and head.
    fn set_ramp(&mut self, [layers, embedding]: [f32; 2]) {
        for param in &mut self.params.list {
            let share = if param.spec.kind == Kind::Linear { layers } else { embedding };
            self.backend.ramp(&mut param.value, share);
        }
    }

    /// Target tokens of this step, those of the other processes included.
    fn targets(&self) -> usize {
        let ours: usize = self.batches.iter().map(target_tokens).sum();
        self.world.sums([ours as f64, 0.0])[0] as usize
    }

    /// Reads this process's micro-batches of this step.
    fn fetch(&mut self, data: &Tokens) {
        let (share, micro, seq) = (self.config.share(), self.config.micro_batch(), self.config.seq_len);
        let first = self.state.rows + (self.world.rank() * share) as u64;
        self.batches.resize_with(share / micro, Batch::default);
        for (i, batch) in self.batches.iter_mut().enumerate() {
            let row = first + (i * micro) as u64;
            self.order.batch(data, row, micro, seq, batch);
        }
    }

    /// Forward and backward over the micro-batches. Every target token weighs the same, however they are cut: the
    /// gradient is that of one large batch, and at the end every process has it. Returns sums of losses and squares.
    fn accumulate(&mut self, tokens: usize) -> Result<Tally> {
        let scale = 1.0 / tokens as f32;
        for batch in &self.batches {
            let (b, p, a) = (&mut self.backend, &mut self.params, &mut self.activations);
            model::forward(b, p, a, batch);
            let objective = objective(&mut self.teacher, &self.config, batch)?;
            model::backward_with(b, p, a, batch, (&objective, scale), |_, _, _| {});
        }
        for (index, param) in self.params.list.iter_mut().enumerate() {
            sum_gradient(&mut self.backend, param, &*self.world)?;
            let Some(grad) = &param.grad else { continue };
            self.backend.tally_for(index);
            self.backend.sum_of_squares(grad);
        }
        let sums = self.backend.tally()?;
        for (index, own) in self.backend.tallies() {
            self.tallies[index].add(Codes::default(), own.squares);
        }
        Ok(whole(sums, &*self.world))
    }

    fn skip(&mut self) -> Codes {
        for grad in self.params.list.iter_mut().filter_map(|param| param.grad.as_mut()) {
            self.backend.clear(grad);
        }
        Codes::default()
    }

    fn advance(&mut self, step: &Step) {
        let state = &mut self.state;
        state.step += 1;
        state.rows += self.config.batch_size as u64;
        state.tokens += step.tokens;
        if step.tokens == 0 {
            return;
        }
        state.bad_steps = if step.skipped.is_some() { state.bad_steps + 1 } else { 0 };
        if step.updated {
            state.updates += 1;
            let weight = if state.updates == 1 { 1.0 } else { 0.05 };
            state.mean_loss += weight * (step.loss - state.mean_loss);
        }
    }

    /// Mean losses over evenly spread validation windows, with the weights that would ship, nats per token.
    pub fn validate(&mut self, data: &Dataset) -> Result<Losses> {
        let windows = valid_windows(&data.valid, self.config.seq_len, self.config.eval_sequences);
        self.evaluate(&data.valid, &windows)
    }

    /// Mean losses over the windows of `seq_len` tokens that start at `starts`, nats per token.
    pub fn evaluate(&mut self, tokens: &Tokens, starts: &[usize]) -> Result<Losses> {
        self.set_ramp([1.0, 1.0]);
        let (micro, seq) = (self.config.micro_batch(), self.config.seq_len);
        let mut count = 0;
        for starts in starts.chunks(micro) {
            let batch = padded(tokens, starts, micro, seq);
            let (b, p, a) = (&mut self.backend, &self.params, &mut self.activations);
            model::forward(b, p, a, &batch);
            let text = Objective::Text { z_loss: 0.0 };
            let objective = self.teacher.as_mut().map_or(text, |teacher| teacher.read(&batch));
            model::losses(b, p, a, &batch, &objective);
            count += target_tokens(&batch);
        }
        if count == 0 {
            let message = "its validation windows hold no token that the model learns to write: add validation text, or \
                           set a longer --seq-len";
            return Err(Error::Data { path: tokens.path().to_path_buf(), message: message.into() });
        }
        Ok(mean(self.backend.tally()?, count))
    }
}

/// Losses over all processes, whose gradients are summed already.
fn whole(ours: Tally, world: &dyn Communicator) -> Tally {
    let [loss, kl] = world.sums([ours.loss, ours.kl]);
    Tally { loss, kl, ..ours }
}

/// Adds up a gradient over all processes.
fn sum_gradient<B: Backend>(b: &mut B, param: &mut Param<B>, world: &dyn Communicator) -> Result<()> {
    match &mut param.grad {
        Some(grad) if world.size() > 1 => b.all_reduce(grad, world),
        _ => Ok(()),
    }
}

/// What a batch is trained on: the teacher's word, or the text alone.
fn objective<'a, B: Backend>(
    teacher: &'a mut Option<Teacher<B>>,
    config: &RunConfig,
    batch: &Batch,
) -> Result<Objective<'a, B>> {
    match teacher {
        Some(teacher) => teacher.teach(batch),
        None => Ok(Objective::Text { z_loss: config.z_loss }),
    }
}

/// Losses per token.
fn mean(sum: Tally, tokens: usize) -> Losses {
    let tokens = tokens as f64;
    Losses { cross_entropy: sum.loss / tokens, kl: sum.kl / tokens }
}

/// Steps after which the running mean of the loss says what to expect.
const SETTLING: u64 = 20;

/// Says that the other tensors were updated.
const TENSOR_SKIPPED: &str = "a tensor's gradient is not a number, and the tensor stays as it was";

/// Why a step must not change the weights, if it must not.
fn unusable((state, config): (&State, &RunConfig), loss: f64, gradient: f64) -> Option<&'static str> {
    if !loss.is_finite() || !gradient.is_finite() {
        return Some("loss or gradient is not a number");
    }
    // Early on the mean says nothing yet; and while a ramp makes a worse model of it, the loss has reason to rise.
    let settled = state.updates >= SETTLING && state.step >= config.ramp().end() + SETTLING;
    let spike = settled && loss > state.mean_loss + config.spike;
    spike.then_some("the loss jumped")
}

/// Targets that count.
pub fn target_tokens(batch: &Batch) -> usize {
    batch.targets.iter().filter(|&&target| target != IGNORE).count()
}

/// A batch of the windows at `starts`, filled up with rows that do not count; a window may reach beyond the tokens.
fn padded(tokens: &Tokens, starts: &[usize], batch: usize, seq: usize) -> Batch {
    let mut out = Batch { batch, seq, tokens: vec![0; batch * seq], targets: vec![IGNORE; batch * seq] };
    for (row, &start) in starts.iter().enumerate() {
        let (at, n) = (row * seq, seq.min(tokens.len() - start - 1));
        tokens.read(start..start + n, &mut out.tokens[at..at + n]);
        tokens.read_targets(start + 1..start + n + 1, &mut out.targets[at..at + n]);
    }
    out
}

/// The order of a run's data: its own, or another trainer's to replay.
pub fn order(config: &RunConfig) -> Result<Order> {
    if config.offsets.as_os_str().is_empty() {
        return Ok(match config.teacher_cache.as_os_str().is_empty() {
            true => Order::Shuffled { seed: config.seed },
            false => Order::Repeated { seed: config.seed },
        });
    }
    Order::from_file(&config.offsets)
}
