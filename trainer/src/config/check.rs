//! Settings that cannot be meant are refused before any work begins.

use bonsai_runtime::ternary::ScaleRule;

use super::RunConfig;
use crate::error::{Error, Result};
use crate::formats::StateFormat;
use crate::import::Import;
use crate::rotation::Rotation;

impl RunConfig {
    /// Says what is wrong with the settings before any work begins.
    pub fn check(&self) -> Result<()> {
        let wrong = |message: String| Err(Error::Config(message));
        if [self.steps, self.log_every].contains(&0)
            || [self.batch_size, self.seq_len, self.eval_sequences].contains(&0)
        {
            return wrong(
                "steps, batch_size, seq_len, eval_sequences and log_every must be at least 1".into(),
            );
        }
        if self.sample_every > 0 && self.sample_prompt.is_empty() {
            return wrong("sample_prompt is empty: set sample_every = 0 for a run without samples".into());
        }
        if !self.batch_size.is_multiple_of(self.ranks.max(1)) {
            return wrong(format!(
                "batch_size {} cannot be shared evenly by {} processes",
                self.batch_size, self.ranks
            ));
        }
        if !self.share().is_multiple_of(self.micro_batch()) {
            return wrong(format!(
                "micro_batch {} does not divide batch_size {}, or a process's share of it ({})",
                self.micro_batch,
                self.batch_size,
                self.share()
            ));
        }
        if self.optimizer_in_backward && self.micro_batch() != self.share() {
            return wrong(
                "optimizer_in_backward needs each gradient whole in one backward pass: set micro_batch to 0"
                    .into(),
            );
        }
        // A slow mean gathers the rounding errors of many steps: at 0.999 the second moment would be off by most of itself.
        if self.optimizer_state == StateFormat::Bits8 && self.beta2 > 0.99 {
            return wrong(format!(
                "beta2 is {}: 8-bit optimizer state needs one of at most 0.99 (or optimizer_state = \"f32\")",
                self.beta2
            ));
        }
        if ![64, 128, 256].contains(&self.group) {
            return wrong(format!("group is {}: choose 64, 128 or 256", self.group));
        }
        if !(0.0..1.0).contains(&self.valid_fraction) || !(0.0..=1.0).contains(&self.decay) {
            return wrong("valid_fraction and decay are shares between 0 and 1".into());
        }
        let rates = [self.lr, self.muon_lr, f64::from(self.weight_decay), self.clip, self.lr_floor];
        if rates.iter().any(|x| !x.is_finite() || *x < 0.0) {
            return wrong("learning rates, weight decay and clip must be zero or positive numbers".into());
        }
        let shares = [self.beta1, self.beta2, self.muon_momentum];
        if shares.iter().any(|x| !(0.0..1.0).contains(x)) || !(self.eps > 0.0 && self.eps.is_finite()) {
            return wrong(
                "beta1, beta2 and muon_momentum must be at least 0 and below 1, and eps positive".into(),
            );
        }
        if self.muon_iterations == 0 || self.max_bad_steps == 0 || self.spike.is_nan() || self.spike <= 0.0 {
            return wrong("muon_iterations and max_bad_steps must be at least 1, and spike positive".into());
        }
        crate::device::check(&self.device)?;
        if self.rotation != Rotation::None && !self.converts() {
            return wrong("rotation is for conversions: weights from scratch have no basis yet".into());
        }
        self.check_loss()?;
        self.rule().map(|_| ())
    }

    fn check_loss(&self) -> Result<()> {
        let wrong = |message: &str| Err(Error::Config(message.into()));
        let weights = [self.kl_weight, self.ce_weight, self.hidden_weight, self.z_loss];
        if weights.iter().any(|x| !x.is_finite() || *x < 0.0) || self.kl_weight + self.ce_weight == 0.0 {
            return wrong(
                "kl_weight, ce_weight, hidden_weight and z_loss must be zero or positive, and one of the first two positive",
            );
        }
        if self.hidden_weight > 0.0 && self.rotation != Rotation::None {
            return wrong(
                "hidden_weight compares with the teacher's residual stream, and rotation turns the student's",
            );
        }
        let distributions_alone = self.hidden_weight == 0.0 && self.ranks <= 1 && self.teacher_top_k > 0;
        if !self.teacher_cache.as_os_str().is_empty() && !distributions_alone {
            return wrong(
                "teacher_cache keeps distributions, of one process: hidden_weight must be 0 and teacher_top_k at least 1",
            );
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return wrong("temperature must be a positive number");
        }
        if self.import != Import::Plain && self.rule()? != ScaleRule::Absmean {
            return wrong("import is for the rule absmean: the others choose codes and scale by themselves");
        }
        Ok(())
    }
}
