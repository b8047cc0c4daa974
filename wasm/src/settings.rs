//! The JSON that says how a session computes and samples. Unknown names are refused, so that a misspelt one shows.

use bonsai_runtime::{ChatOptions, SamplerOptions, SessionOptions, Tool};
use serde::Deserialize;

use crate::error::{Result, argument};

/// How a session computes. What is left out is as the runtime has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Settings {
    /// Most tokens of prompt and answer together.
    context: Option<usize>,
    /// f32 activations.
    exact: bool,
    /// `f16`, `int8` or `f32`.
    kv: Option<String>,
    pub(crate) sampling: Sampling,
}

/// How tokens are chosen. What is left out stays as it is.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Sampling {
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repeat_penalty: Option<f32>,
    repeat_last_n: Option<usize>,
    seed: Option<u64>,
}

/// How a conversation becomes text. What is left out is as the runtime has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Chat {
    add_generation_prompt: Option<bool>,
    thinking: Option<bool>,
    tools: Vec<Tool>,
    pub(crate) plain: bool,
}

impl Chat {
    pub(crate) fn options(self) -> ChatOptions {
        ChatOptions {
            add_generation_prompt: self.add_generation_prompt.unwrap_or(true),
            thinking: self.thinking,
            tools: self.tools,
        }
    }
}

/// Settings out of JSON; nothing at all is the defaults.
pub(crate) fn parse<'a, T: Deserialize<'a> + Default>(json: Option<&'a str>) -> Result<T> {
    let parsed = json.map(serde_json::from_str).transpose();
    Ok(parsed.map_err(|e| argument(format!("settings: {e}")))?.unwrap_or_default())
}

impl Settings {
    pub(crate) fn options(&self) -> Result<SessionOptions> {
        let kv = self.kv.as_deref().map(str::parse).transpose()?;
        Ok(SessionOptions { context: self.context, exact: self.exact, kv, ..SessionOptions::default() })
    }
}

impl Sampling {
    /// These settings instead of `before`, where there are any.
    pub(crate) fn over(self, before: &SamplerOptions) -> SamplerOptions {
        SamplerOptions {
            temperature: self.temperature.unwrap_or(before.temperature),
            top_k: self.top_k.unwrap_or(before.top_k),
            top_p: self.top_p.unwrap_or(before.top_p),
            min_p: self.min_p.unwrap_or(before.min_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(before.repeat_penalty),
            repeat_last_n: self.repeat_last_n.unwrap_or(before.repeat_last_n),
            seed: self.seed.unwrap_or(before.seed),
        }
    }
}
