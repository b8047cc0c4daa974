//! How well a model predicts a text: the exponential of its mean negative log-likelihood per token.

use crate::cpu::threads::{self, Threads};
use crate::cpu::{KvFormat, ops};
use crate::error::{Error, Result};
use crate::session::{Device, Model, Session, SessionOptions};

/// How to measure.
#[derive(Debug, Clone)]
pub struct PerplexityOptions {
    /// Tokens that are fed together. Each window starts with an empty context, and all its tokens but the first
    /// are scored.
    pub window: usize,
    /// f32 activations ([`SessionOptions::exact`]).
    pub exact: bool,
    /// How keys and values are kept ([`SessionOptions::kv`]).
    pub kv: Option<KvFormat>,
    /// Where to compute ([`SessionOptions::device`]).
    pub device: Device,
    /// Threads ([`SessionOptions::threads`]).
    pub threads: Option<usize>,
}

impl Default for PerplexityOptions {
    fn default() -> Self {
        Self { window: 512, exact: false, kv: None, device: Device::Cpu, threads: None }
    }
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// Sum of the negative log-likelihoods of the scored tokens, in nats.
    pub nll_sum: f64,
    /// Scored tokens.
    pub tokens: usize,
    /// Windows.
    pub windows: usize,
}

impl Perplexity {
    /// exp(mean negative log-likelihood).
    pub fn value(&self) -> f64 {
        libm::exp(self.nll_sum / self.tokens as f64)
    }

    /// Bits per byte of a text whose scored tokens have `bytes` bytes: comparable between tokenizers.
    pub fn bits_per_byte(&self, bytes: usize) -> f64 {
        self.nll_sum / std::f64::consts::LN_2 / bytes as f64
    }
}

/// Measures `tokens`, calling `progress(tokens done)` after each window. A last window of one token is left out.
pub fn perplexity(
    model: &Model,
    tokens: &[u32],
    options: &PerplexityOptions,
    mut progress: impl FnMut(usize),
) -> Result<Perplexity> {
    let window = options.window.min(model.config().context);
    if window < 2 || tokens.len() < 2 {
        return Err(Error::Argument(
            "perplexity needs at least two tokens and a window of at least two".into(),
        ));
    }
    let PerplexityOptions { exact, kv, device, threads, .. } = *options;
    let context = Some(window);
    let mut session =
        model.session(SessionOptions { context, exact, kv, device, threads, ..Default::default() })?;
    let pool = Threads::new(threads)?;
    let mut total = Perplexity { nll_sum: 0.0, tokens: 0, windows: 0 };
    for (n, window_tokens) in tokens.chunks(window).enumerate().filter(|(_, tokens)| tokens.len() > 1) {
        session.reset();
        total.nll_sum += window_nll(&mut session, &pool, window_tokens)?;
        total.tokens += window_tokens.len() - 1;
        total.windows += 1;
        progress(n * window + window_tokens.len());
    }
    Ok(total)
}

/// Sum of the negative log-likelihoods of all tokens but the first; an error if a logit is no number.
fn window_nll(session: &mut Session, pool: &Threads, tokens: &[u32]) -> Result<f64> {
    let vocab = session.vocab();
    let mut sum = 0.0;
    session.each_logits(&tokens[..tokens.len() - 1], |first, rows| {
        let targets = &tokens[first + 1..];
        let mut scores = vec![0.0; rows.len() / vocab];
        let tasks = scores.iter_mut().zip(rows.chunks_exact(vocab)).zip(targets).collect();
        pool.run(|| threads::for_each(tasks, |((score, logits), &target)| *score = nll(logits, target)));
        sum += scores.iter().sum::<f64>(); // token after token, whatever the threads
    })?;
    if sum.is_nan() { Err(Error::not_numbers()) } else { Ok(sum) }
}

/// `-log softmax(logits)[target]`, in f64.
pub fn nll(logits: &[f32], target: u32) -> f64 {
    let max = f64::from(ops::max(logits));
    let sum: f64 = logits.iter().map(|&x| libm::exp(f64::from(x) - max)).sum();
    libm::log(sum) + max - f64::from(logits[target as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nll_by_hand() {
        let logits = [0.0f32, std::f32::consts::LN_2, f32::NEG_INFINITY];
        assert!((nll(&logits, 0) - 3f64.ln()).abs() < 1e-7);
        assert!((nll(&logits, 1) - 1.5f64.ln()).abs() < 1e-7);
        assert_eq!(nll(&logits, 2), f64::INFINITY);
        assert!((nll(&[1e30, -1e30], 0)).abs() < 1e-12);
    }

    #[test]
    fn units() {
        let eight_bits = Perplexity { nll_sum: 8.0 * std::f64::consts::LN_2, tokens: 4, windows: 1 };
        assert!((eight_bits.value() - 4.0).abs() < 1e-12);
        assert!((eight_bits.bits_per_byte(2) - 4.0).abs() < 1e-12);
    }
}
