//! The ops of a training step, forward and backward side by side, as any device must offer them.
//!
//! Shapes: `t` tokens in flight = batch * seq; activations are row-major `[t, features]`; a matrix is
//! `[out, in]` as in checkpoints. A backward op *adds* to gradients of parameters and *writes* gradients of
//! activations, unless it says otherwise.
//!
//! No op fails and none answers: a device that works on its own may still be at it. Sums that the host wants add up in a
//! [`Tally`]; reading it, or a buffer, waits, and is where a device that ran out of memory or was lost is found out.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bonsai_runtime::ternary::{ScaleRule, TernaryMatrix};
use half::f16;

use crate::communicator::Communicator;
use crate::error::Result;
use crate::formats::{Latents, Moment, MomentFormat};

/// How a matrix is rounded in the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Projection {
    /// Weights along the input dimension that share a scale.
    pub group: usize,
    /// How the scale follows from the weights.
    pub rule: ScaleRule,
}

/// Sizes of an attention call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Independent sequences.
    pub batch: usize,
    /// Tokens in each.
    pub seq: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

/// Constants of one AdamW update (Loshchilov and Hutter, arXiv 1711.05101), as `torch.optim.AdamW` applies them.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the denominator.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Updates including this one, from 1: the bias correction.
    pub t: u64,
    /// Factor on the gradient.
    pub clip: Clip,
    /// Key of the random bits that round what is kept in fewer bits than it is computed in.
    pub noise: u64,
}

impl AdamW {
    /// What every weight is multiplied by, the rate with the first moment's bias correction, and the root of the second's.
    pub(crate) fn factors(&self) -> [f32; 3] {
        // In f64: at beta2 = 0.999 and t = 1 an f32 power would lose a third of its digits.
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(self.t as f64);
        let rate = (f64::from(self.lr) / correction(self.beta1)) as f32;
        [1.0 - self.lr * self.weight_decay, rate, correction(self.beta2).sqrt() as f32]
    }
}

/// Constants of one Muon update (Jordan et al. 2024, kellerjordan.github.io/posts/muon).
#[derive(Debug, Clone, Copy)]
pub struct Muon {
    /// Learning rate of this step.
    pub lr: f32,
    /// Nesterov momentum.
    pub momentum: f32,
    /// Newton-Schulz iterations.
    pub iterations: usize,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Factor on the gradient.
    pub clip: Clip,
    /// Key of the random bits that round what is kept in fewer bits than it is computed in.
    pub noise: u64,
}

impl Muon {
    /// What every weight is multiplied by, and the rate: with sqrt(max(1, out / in)) an update changes the output's rms
    /// by the same amount for any shape.
    pub(crate) fn factors(&self, rows: usize, cols: usize) -> [f32; 2] {
        [1.0 - self.lr * self.weight_decay, self.lr * (rows as f32 / cols as f32).max(1.0).sqrt()]
    }

    /// The quintic of Jordan et al.: steep at zero, all singular values end in 0.7..1.2.
    pub(crate) const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];
}

/// How a gradient is shortened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Clip {
    /// By this factor: the norm of all gradients is known.
    Factor(f32),
    /// To at most this norm (0: not at all) by its own, which joins the tally's squares. A gradient that is no number
    /// leaves its tensor alone.
    Own(f64),
}

/// Factor on a gradient of norm `norm`, so that it ends at most at `limit`, if that is not 0 (`torch.nn.utils.clip_grad_norm_`).
pub fn clip_factor(limit: f64, norm: f64) -> f32 {
    if limit > 0.0 { (limit / (norm + 1e-6)).min(1.0) as f32 } else { 1.0 }
}

/// Sums since the last [`Backend::tally`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    /// Cross-entropies, nats.
    pub loss: f64,
    /// KL(teacher, student) at the temperature, nats; without the factor T^2.
    pub kl: f64,
    /// Squares of gradients.
    pub squares: f64,
    /// Projections of updates.
    pub codes: Codes,
}

impl std::ops::Add for Tally {
    type Output = Self;

    fn add(self, o: Self) -> Self {
        Self {
            loss: self.loss + o.loss,
            kl: self.kl + o.kl,
            squares: self.squares + o.squares,
            codes: self.codes + o.codes,
        }
    }
}

/// What a projection did: counts over the whole matrix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Codes {
    /// Weights.
    pub total: u64,
    /// Of them zero.
    pub zeros: u64,
    /// Of them with another code than before the update.
    pub flips: u64,
}

impl std::ops::Add for Codes {
    type Output = Self;

    fn add(self, o: Self) -> Self {
        Self { total: self.total + o.total, zeros: self.zeros + o.zeros, flips: self.flips + o.flips }
    }
}

impl std::iter::Sum for Codes {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::default(), std::ops::Add::add)
    }
}

/// What distillation minimises (Hinton et al., arXiv 1503.02531): `cross_entropy * CE + kl * T^2 KL(teacher, student)`, where
/// KL is that of the next-token distributions `softmax(logits / T)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distillation {
    /// T. The factor T^2 keeps the size of the gradient.
    pub temperature: f32,
    /// Weight of the divergence from the teacher.
    pub kl: f32,
    /// Weight of the cross-entropy against the targets.
    pub cross_entropy: f32,
}

/// Where a teacher's distributions come from.
pub enum Teaching<'a, Buffer, Matrix> {
    /// Its normed final residual stream, `[t, its hidden]`, and its dense head.
    Head(&'a Buffer, &'a Matrix),
    /// Its likeliest tokens, which were written down before.
    Likeliest(&'a Likeliest),
}

impl<Buffer, Matrix> Clone for Teaching<'_, Buffer, Matrix> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Buffer, Matrix> Copy for Teaching<'_, Buffer, Matrix> {}

/// The `k` likeliest next tokens of each of some tokens, likeliest first, with the logarithms of their probabilities at a
/// temperature.
///
/// Learning from them takes all other tokens for one, whose probability is what is left: with p and q of the teacher and the
/// student, and r of all others, `KL = sum_k p (ln p - ln q) + p_r (ln p_r - ln q_r)`, which is at most that of the whole
/// distributions. The gradient of the logit of one of the others at temperature 1 is `q - p_r q / q_r`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Likeliest {
    /// Tokens that are kept of each distribution.
    pub k: usize,
    /// `[t, k]`
    pub ids: Vec<u32>,
    /// `[t, k]`, as f16 has them.
    pub log_p: Vec<f16>,
}

impl Likeliest {
    /// Those of `n` tokens from number `first` on.
    pub fn rows(&self, first: usize, n: usize) -> (&[u32], &[f16]) {
        let some = first * self.k..(first + n) * self.k;
        (&self.ids[some.clone()], &self.log_p[some])
    }
}

/// Losses, in nats, without weights or the factor T^2: sums over tokens or means, as who gives them says.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Losses {
    /// Cross-entropy against the targets.
    pub cross_entropy: f64,
    /// KL(teacher, student) at the temperature; 0 without a teacher.
    pub kl: f64,
}

impl std::ops::Add for Losses {
    type Output = Self;

    fn add(self, o: Self) -> Self {
        Self { cross_entropy: self.cross_entropy + o.cross_entropy, kl: self.kl + o.kl }
    }
}

/// A device that can train.
pub trait Backend {
    /// f32 numbers on the device.
    type Buffer;
    /// A parameter: latent weights, and their projection when the matrix is ternary. A norm's gain is `[1, n]`.
    type Matrix;
    /// One moment of one parameter.
    type Moment;

    /// `len` zeros.
    fn buffer(&self, len: usize) -> Self::Buffer;
    /// A parameter from its latent weights, `[rows, cols]`, rounded when `projection` is given.
    fn matrix(
        &self,
        rows: usize,
        cols: usize,
        latent: impl Into<Latents>,
        projection: Option<Projection>,
    ) -> Self::Matrix;
    /// A moment of `len` zeros. Formats other than f32 are for devices that take them: a run that asks others is refused.
    fn moment(&self, len: usize, format: MomentFormat) -> Self::Moment;
    /// The numbers of a buffer.
    fn read<'a>(&self, buffer: &'a Self::Buffer) -> Result<Cow<'a, [f32]>>;
    /// Overwrites a buffer.
    fn write(&self, buffer: &mut Self::Buffer, values: &[f32]);
    /// A moment as checkpoints keep it.
    fn read_moment<'a>(&self, moment: &'a Self::Moment) -> Result<Moment<'a>>;
    /// Overwrites a moment by one of its length and format.
    fn write_moment(&self, moment: &mut Self::Moment, values: &Moment<'_>);
    /// Replaces the numbers of a buffer by their sums over the processes of a run.
    fn all_reduce(&mut self, buffer: &mut Self::Buffer, world: &dyn Communicator) -> Result<()> {
        let mut values = self.read(buffer)?.into_owned();
        world.all_reduce_sum(&mut values);
        self.write(buffer, &values);
        Ok(())
    }
    /// The latent weights of a parameter, as they are held.
    fn latents<'a>(&self, matrix: &'a Self::Matrix) -> Result<Cow<'a, Latents>>;
    /// The latent weights of a parameter as f32.
    fn latent<'a>(&self, matrix: &'a Self::Matrix) -> Result<Cow<'a, [f32]>> {
        Ok(match self.latents(matrix)? {
            Cow::Borrowed(latents) => latents.to_f32(),
            Cow::Owned(latents) => latents.into_f32().into(),
        })
    }
    /// The codes and scales that the forward pass uses; `None` for a dense parameter.
    fn ternary<'a>(&self, matrix: &'a Self::Matrix) -> Result<Option<Cow<'a, TernaryMatrix>>>;
    /// What ops have added up since the last call, and whether they could do their work.
    fn tally(&mut self) -> Result<Tally>;
    /// From now on, until the tally is read, ops add up on behalf of this parameter.
    fn tally_for(&mut self, parameter: usize);
    /// Each parameter's part of the tally that was read last.
    fn tallies(&mut self) -> BTreeMap<usize, Tally>;
    /// Reading the tally waits for nothing: a clock need not tell.
    fn immediate(&self) -> bool;

    /// From now on `embed`, `linear` and the losses see `(1 - share) latent + share s t` of a ternary matrix, forward and
    /// backward. 1, where every matrix begins, is the projection alone; `ternary` and `adamw` do not change. Without
    /// effect on a dense parameter.
    fn ramp(&self, matrix: &mut Self::Matrix, share: f32);

    /// Seconds that each operation took since the last call, where the backend has a clock ([`crate::timed::Timed`]).
    fn seconds(&mut self) -> BTreeMap<&'static str, f64> {
        BTreeMap::new()
    }

    /// `out[i] = table[tokens[i]]`.
    fn embed(&mut self, out: &mut Self::Buffer, table: &Self::Matrix, tokens: &[u32]);
    /// `d_table[tokens[i]] += d_out[i]`, in token order.
    fn embed_backward(&mut self, d_table: &mut Self::Buffer, d_out: &Self::Buffer, tokens: &[u32]);

    /// `out = x / sqrt(mean(x^2) + eps) * gain` for each run of `gain` many numbers (Zhang and Sennrich, arXiv 1910.07467).
    fn rms_norm(&mut self, out: &mut Self::Buffer, x: &Self::Buffer, gain: &Self::Matrix, eps: f32);
    /// Writes the gradient of `x` to `dx` (adds it when `accumulate`), and adds that of the gain to `d_gain`.
    fn rms_norm_backward(
        &mut self,
        dx: &mut Self::Buffer,
        accumulate: bool,
        d_gain: &mut Self::Buffer,
        dy_and_x: [&Self::Buffer; 2],
        gain: &Self::Matrix,
        eps: f32,
    );

    /// `y = x w^T`: `[t, in] -> [t, out]`, with the projected `w`.
    fn linear(&mut self, y: &mut Self::Buffer, x: &Self::Buffer, w: &Self::Matrix);
    /// `dx = dy w` (added to what `dx` holds when `accumulate`), `dw += dy^T x`. The gradient of the projection is
    /// the identity (straight-through), so `dw` belongs to the latent weights.
    fn linear_backward(
        &mut self,
        dx: &mut Self::Buffer,
        accumulate: bool,
        dw: &mut Self::Buffer,
        dy: &Self::Buffer,
        x: &Self::Buffer,
        w: &Self::Matrix,
    );

    /// Rotates each head of `x` (`[t, heads * head_dim]`) by its position, in place (Su et al., arXiv 2104.09864).
    fn rope(&mut self, x: &mut Self::Buffer, shape: AttentionShape);
    /// Rotates back, in place.
    fn rope_backward(&mut self, dx: &mut Self::Buffer, shape: AttentionShape);

    /// Causal attention; `lse` (`[batch, heads, seq]`) keeps the log-sum-exp of each row of scores for the backward
    /// pass, so that the scores themselves are never held (Dao et al., arXiv 2205.14135).
    fn attention(
        &mut self,
        out: &mut Self::Buffer,
        lse: &mut Self::Buffer,
        qkv: [&Self::Buffer; 3],
        shape: AttentionShape,
    );
    /// Gradients of q, k and v from that of the output.
    fn attention_backward(
        &mut self,
        d_qkv: [&mut Self::Buffer; 3],
        d_out: &Self::Buffer,
        out: &Self::Buffer,
        lse: &Self::Buffer,
        qkv: [&Self::Buffer; 3],
        shape: AttentionShape,
    );

    /// `out = silu(gate) * up` (Shazeer, arXiv 2002.05202).
    fn swiglu(&mut self, out: &mut Self::Buffer, gate: &Self::Buffer, up: &Self::Buffer);
    /// Turns `gate` and `up` into their gradients.
    fn swiglu_backward(&mut self, gate: &mut Self::Buffer, up: &mut Self::Buffer, d_out: &Self::Buffer);

    /// `out = x`.
    fn copy(&mut self, out: &mut Self::Buffer, x: &Self::Buffer);
    /// `x += y`. Its backward is the identity on both.
    fn add(&mut self, x: &mut Self::Buffer, y: &Self::Buffer);

    /// Tallies the summed cross-entropy of `h w^T` against `targets`, in nats; ignored targets do not count. Logits are
    /// made and dropped in chunks of rows.
    fn cross_entropy(&mut self, h: &Self::Buffer, w: &Self::Matrix, targets: &[u32]);
    /// The same, and the gradients of `scale * sum(loss + z_loss lse^2)`, `lse` the log-sum-exp of a token's logits
    /// (Chowdhery et al., arXiv 2204.02311): writes `dh`, adds to `dw`. What it tallies is without the last term.
    #[expect(clippy::too_many_arguments, reason = "an op and its constants")]
    fn cross_entropy_backward(
        &mut self,
        dh: &mut Self::Buffer,
        dw: &mut Self::Buffer,
        h: &Self::Buffer,
        w: &Self::Matrix,
        targets: &[u32],
        scale: f32,
        z_loss: f32,
    );

    /// The `k` likeliest tokens of a teacher's distributions at a temperature.
    fn likeliest(&mut self, teacher: (&Self::Buffer, &Self::Matrix), k: usize, temperature: f32)
    -> Likeliest;
    /// Tallies the summed losses of the student's `h w^T` against a dense teacher's word on the same tokens (its hidden
    /// size may be another) and against `targets`; tokens whose target is ignored do not count at all. Logits of both are
    /// made and dropped in chunks of rows.
    fn distillation(
        &mut self,
        student: (&Self::Buffer, &Self::Matrix),
        teacher: Teaching<'_, Self::Buffer, Self::Matrix>,
        targets: &[u32],
        terms: Distillation,
    );
    /// The same, and the gradients of `scale * (cross_entropy CE + kl T^2 KL)` with respect to the student: writes the
    /// first of `d_student` (`dh`), adds to the second (`dw`). The gradient of a token's logits z is
    /// `scale * (cross_entropy (softmax(z) - one hot) + kl T (softmax(z / T) - softmax(teacher / T)))`.
    fn distillation_backward(
        &mut self,
        d_student: (&mut Self::Buffer, &mut Self::Buffer),
        student: (&Self::Buffer, &Self::Matrix),
        teacher: Teaching<'_, Self::Buffer, Self::Matrix>,
        targets: &[u32],
        terms: Distillation,
        scale: f32,
    );

    /// Adds to `dx` the gradient, with respect to the student's residual stream `x`, of `scale` times the sum over target
    /// tokens of `|x - teacher|^2 / |teacher|^2`. All are `[t, hidden]`.
    fn stream_distance_backward(
        &mut self,
        dx: &mut Self::Buffer,
        streams: [&Self::Buffer; 2],
        targets: &[u32],
        scale: f32,
    );

    /// Tallies the sum of squares, in a fixed order and to more digits than f32 has.
    fn sum_of_squares(&mut self, buffer: &Self::Buffer);
    /// One AdamW update of `w`; projects the result in the same pass, tallies its codes and leaves `grad` zero.
    fn adamw(
        &mut self,
        w: &mut Self::Matrix,
        grad: &mut Self::Buffer,
        moments: &mut [Self::Moment],
        step: AdamW,
    );
    /// One Muon update of `w`; projects the result, tallies its codes and leaves `grad` zero.
    fn muon(
        &mut self,
        w: &mut Self::Matrix,
        grad: &mut Self::Buffer,
        momentum: &mut [Self::Moment],
        step: Muon,
    );
    /// Sets a gradient to zero: a skipped step.
    fn clear(&mut self, buffer: &mut Self::Buffer);
}
