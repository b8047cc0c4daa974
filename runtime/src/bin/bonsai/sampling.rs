//! Arguments that say how tokens are chosen.

use std::time::{SystemTime, UNIX_EPOCH};

use bonsai_runtime::SamplerOptions;

/// How tokens are chosen.
#[derive(clap::Args)]
pub struct SamplingArgs {
    /// 0 always takes the likeliest token, 1 follows the model
    #[arg(long, value_name = "T", visible_alias = "temperature", default_value_t = SamplerOptions::default().temperature)]
    temp: f32,
    /// Choose among the K likeliest tokens; 0: all
    #[arg(long, value_name = "K", default_value_t = SamplerOptions::default().top_k)]
    top_k: usize,
    /// Choose among the likeliest tokens that together have probability P; 1: all
    #[arg(long, value_name = "P", default_value_t = SamplerOptions::default().top_p)]
    top_p: f32,
    /// Choose among tokens at least P times as likely as the likeliest; 0: all
    #[arg(long, value_name = "P", default_value_t = SamplerOptions::default().min_p)]
    min_p: f32,
    /// Make recent tokens less likely; 1: don't
    #[arg(long, value_name = "R", default_value_t = SamplerOptions::default().repeat_penalty)]
    repeat_penalty: f32,
    /// How many tokens count as recent
    #[arg(long, value_name = "N", default_value_t = SamplerOptions::default().repeat_last_n)]
    repeat_last_n: usize,
    /// Start of the random numbers: the same seed gives the same text [default: from the clock]
    #[arg(short, long)]
    seed: Option<u64>,
}

impl SamplingArgs {
    /// The options, with a seed from the clock if none was given.
    pub fn options(&self) -> SamplerOptions {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_micros() as u64);
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
