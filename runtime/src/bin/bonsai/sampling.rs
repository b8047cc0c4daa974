//! Arguments that say how tokens are chosen.

use std::time::{SystemTime, UNIX_EPOCH};

use bonsai_runtime::SamplerOptions;

/// How tokens are chosen.
#[derive(clap::Args)]
pub struct SamplingArgs {
    /// 0 always takes the likeliest token, 1 follows the model
    #[arg(long, value_name = "T", visible_alias = "temperature", allow_negative_numbers = true, value_parser = temperature, default_value_t = SamplerOptions::default().temperature)]
    temp: f32,
    /// Choose among the K likeliest tokens; 0: all
    #[arg(long, value_name = "K", default_value_t = SamplerOptions::default().top_k)]
    top_k: usize,
    /// Choose among the likeliest tokens that together have probability P; 1: all
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = share, default_value_t = SamplerOptions::default().top_p)]
    top_p: f32,
    /// Choose among tokens at least P times as likely as the likeliest; 0: all
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = share, default_value_t = SamplerOptions::default().min_p)]
    min_p: f32,
    /// Make recent tokens less likely; 1: don't
    #[arg(long, value_name = "R", allow_negative_numbers = true, value_parser = penalty, default_value_t = SamplerOptions::default().repeat_penalty)]
    repeat_penalty: f32,
    /// How many tokens count as recent
    #[arg(long, value_name = "N", default_value_t = SamplerOptions::default().repeat_last_n)]
    repeat_last_n: usize,
    /// Start of the random numbers: the same seed gives the same text; -1: one from the clock [default: -1]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = seed)]
    seed: Option<u64>,
}

fn temperature(text: &str) -> Result<f32, String> {
    number(text, |t| t >= 0.0, "from 0 on")
}

fn share(text: &str) -> Result<f32, String> {
    number(text, |p| (0.0..=1.0).contains(&p), "from 0 to 1")
}

fn penalty(text: &str) -> Result<f32, String> {
    number(text, |r| r > 0.0, "above 0")
}

fn number(text: &str, fits: impl Fn(f32) -> bool, which: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|x: &f32| x.is_finite() && fits(*x));
    number.ok_or_else(|| format!("expected a number {which}"))
}

fn seed(text: &str) -> Result<u64, String> {
    if text == "-1" {
        return Ok(clock());
    }
    text.parse().map_err(|_| "expected a whole number from 0 on, or -1".into())
}

fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_micros() as u64)
}

impl SamplingArgs {
    /// The options, with a seed from the clock if none was given.
    pub fn options(&self) -> SamplerOptions {
        SamplerOptions {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n,
            seed: self.seed.unwrap_or_else(clock),
        }
    }
}
