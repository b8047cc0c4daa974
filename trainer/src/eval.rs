//! How good a model is: perplexity, bits per byte, divergence between two ways of computing it, and a text to read.

use std::path::Path;

use bonsai_runtime::Error as RuntimeError;
use bonsai_runtime::perplexity::{Perplexity, PerplexityOptions, perplexity};
use bonsai_runtime::sampler::{Sampler, SamplerOptions};
use bonsai_runtime::session::{Model, SessionOptions};

use crate::error::Result;

/// What an evaluation on a text finds.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Evaluation {
    /// exp of the mean loss per token.
    pub perplexity: f64,
    /// Mean loss, nats per token.
    pub loss: f64,
    /// Summed loss in bits over the bytes of the scored tokens: comparable between tokenizers.
    pub bits_per_byte: f64,
    /// Tokens scored.
    pub tokens: usize,
    /// Bytes that they spell.
    pub bytes: usize,
}

impl std::fmt::Display for Evaluation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { perplexity, loss, bits_per_byte, tokens, bytes } = self;
        write!(
            f,
            "perplexity {perplexity:.3} per token ({loss:.4} nats), {bits_per_byte:.4} bits per byte, over {tokens} tokens, {bytes} bytes"
        )
    }
}

/// Opens a run directory, a Hugging Face directory or a GGUF file as the runtime sees it.
pub fn open(path: &Path) -> Result<Model> {
    if crate::checkpoint::exists(path) {
        return crate::export::run_as_model(path);
    }
    Ok(Model::open(path)?)
}

/// What of a text an evaluation reads, and how.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Tokens of context; each window starts anew.
    pub window: usize,
    /// Only the first windows of the text; all of it when `None`.
    pub windows: Option<usize>,
    /// f32 activations instead of 8-bit ones.
    pub exact: bool,
}

/// Evaluates a model on text, calling `progress(tokens done)` after each window.
pub fn evaluate(
    model: &Model,
    text: &str,
    reading: Reading,
    progress: impl FnMut(usize),
) -> Result<Evaluation> {
    let Reading { window, windows, exact } = reading;
    let tokenizer = model
        .tokenizer()?
        .ok_or_else(|| RuntimeError::Tokenizer("the model has none, and nothing to read text with".into()))?;
    let mut tokens = tokenizer.encode(text)?;
    let window = window.min(model.config().context);
    tokens.truncate(windows.map_or(usize::MAX, |windows| windows.saturating_mul(window)));
    let options = PerplexityOptions { window, exact, ..PerplexityOptions::default() };
    let Perplexity { nll_sum, tokens: scored, .. } = perplexity(model, &tokens, &options, progress)?;
    let bytes = scored_bytes(tokenizer, &tokens, window);
    let tokens = scored;
    let loss = nll_sum / tokens.max(1) as f64;
    let bits_per_byte = nll_sum / std::f64::consts::LN_2 / bytes.max(1) as f64;
    Ok(Evaluation { perplexity: loss.exp(), loss, bits_per_byte, tokens, bytes })
}

/// Bytes of the tokens that are scored: all but the first of each window.
fn scored_bytes(tokenizer: &bonsai_runtime::Tokenizer, tokens: &[u32], window: usize) -> usize {
    let scored = tokens.chunks(window).flat_map(|window| &window[1..]);
    scored.filter_map(|&id| tokenizer.token_bytes(id)).map(<[u8]>::len).sum()
}

/// Mean KL(p || q) per row of logits, nats, and the share of rows with the same largest logit. Computed in f64.
pub fn divergence(p: &[f32], q: &[f32], vocab: usize) -> (f64, f64) {
    let rows = p.len() / vocab;
    let (mut kl, mut same) = (0.0, 0);
    for (p, q) in p.chunks_exact(vocab).zip(q.chunks_exact(vocab)) {
        let (lp, lq) = (log_softmax(p), log_softmax(q));
        kl += lp.iter().zip(&lq).map(|(a, b)| a.exp() * (a - b)).sum::<f64>();
        same += usize::from(argmax(p) == argmax(q));
    }
    (kl / rows as f64, same as f64 / rows as f64)
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().fold(f32::MIN, |m, &x| m.max(x));
    let total: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    logits.iter().map(|&x| f64::from(x - max) - total.ln()).collect()
}

fn argmax(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

/// `tokens` tokens that continue `prompt`, prompt included.
pub fn sample(model: &Model, prompt: &str, tokens: usize, seed: u64) -> Result<String> {
    let tokenizer = model.tokenizer()?.ok_or_else(|| {
        RuntimeError::Tokenizer("the model has none, and nothing to write text with".into())
    })?;
    let options =
        SamplerOptions { temperature: 0.7, top_k: 40, top_p: 0.95, seed, ..SamplerOptions::default() };
    let prompt = tokenizer.encode(prompt)?;
    let tokens = tokens.min(model.config().context.saturating_sub(prompt.len()));
    let mut session = model.session(SessionOptions::default())?;
    let mut ids = prompt.clone();
    for id in session.generate(&prompt, &mut Sampler::new(options), tokens) {
        ids.push(id?);
    }
    Ok(tokenizer.decode_skipping_specials(&ids)?)
}

/// Perplexity on `valid` of always guessing by the token counts of `train` (each token counted once more).
pub fn unigram_perplexity(train: &crate::data::Tokens, valid: &crate::data::Tokens, vocab: usize) -> f64 {
    let mut counts = vec![1u64; vocab];
    each_token(train, |id| counts[id as usize] += 1);
    let total: u64 = counts.iter().sum();
    let mut nll = 0.0;
    each_token(valid, |id| nll -= (counts[id as usize] as f64 / total as f64).ln());
    (nll / valid.len().max(1) as f64).exp()
}

fn each_token(tokens: &crate::data::Tokens, mut see: impl FnMut(u32)) {
    let mut buffer = vec![0; 1 << 16];
    for start in (0..tokens.len()).step_by(buffer.len()) {
        let n = buffer.len().min(tokens.len() - start);
        tokens.read(start..start + n, &mut buffer[..n]);
        buffer[..n].iter().for_each(|&id| see(id));
    }
}
