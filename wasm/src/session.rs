//! A conversation: prompt in, tokens out one by one.

use bonsai_runtime::{Conversation, Device, SamplerOptions, SessionOptions};
use serde::Deserialize;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::error::Result;
use crate::settings;

/// How a session computes. What is left out is as the runtime has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Settings {
    /// Most tokens of prompt and answer together.
    context: Option<usize>,
    /// f32 activations.
    exact: bool,
    /// `f32`, `f16`, `int16`, `int8` or `int4`.
    kv: Option<String>,
    sampling: Sampling,
}

/// How tokens are chosen. What is left out stays as it is.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Sampling {
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repeat_penalty: Option<f32>,
    repeat_last_n: Option<usize>,
    seed: Option<u64>,
}

impl Settings {
    fn options(&self, device: Device) -> Result<SessionOptions> {
        let kv = self.kv.as_deref().map(str::parse).transpose()?;
        let Self { context, exact, .. } = *self;
        Ok(SessionOptions { context, exact, kv, device, ..SessionOptions::default() })
    }
}

impl Sampling {
    /// These settings instead of `before`, where there are any.
    fn over(self, before: &SamplerOptions) -> SamplerOptions {
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

/// One conversation with a model.
#[wasm_bindgen]
pub struct Session(Conversation);

impl Session {
    pub(crate) fn new(model: &bonsai_runtime::Model, settings: Settings) -> Result<Self> {
        Self::on(Device::Cpu, model, settings)
    }

    #[cfg(feature = "gpu")]
    pub(crate) fn on_gpu(model: &bonsai_runtime::Model, settings: Settings) -> Result<Self> {
        Self::on(Device::Gpu, model, settings)
    }

    fn on(device: Device, model: &bonsai_runtime::Model, settings: Settings) -> Result<Self> {
        let session = model.session(settings.options(device)?)?;
        Ok(Self(Conversation::new(session, settings.sampling.over(&SamplerOptions::default()))))
    }
}

#[wasm_bindgen]
impl Session {
    /// Feeds tokens, behind those that are there. What [`Session::next_token`] gave last comes before them.
    pub async fn prompt(&mut self, ids: &[u32]) -> Result<()> {
        Ok(self.0.prompt_async(ids).await?)
    }

    /// Feeds tokens as [`Session::prompt`] does, without working out what follows them: a long prompt in short pieces,
    /// the last of which goes to `prompt`.
    pub async fn read(&mut self, ids: &[u32]) -> Result<()> {
        Ok(self.0.read_async(ids).await?)
    }

    /// Keeps what the conversation so far and these tokens have in common, forgets the rest, and returns how many of
    /// these are left to feed: at least the last one.
    #[wasm_bindgen(js_name = keepCommon)]
    pub fn keep_common(&mut self, ids: &[u32]) -> Result<usize> {
        Ok(self.0.keep_common(ids)?.len())
    }

    /// Chooses the next token; nothing where the model ends its answer.
    #[wasm_bindgen(js_name = next)]
    pub async fn next_token(&mut self) -> Result<Option<u32>> {
        Ok(self.0.next_token_async().await?)
    }

    /// Logits of the token behind the last one that was fed: `vocab` numbers, or none before a prompt. Tokens that
    /// [`Session::next_token`] gave are fed by the call after.
    pub async fn logits(&mut self) -> Result<Vec<f32>> {
        Ok(self.0.logits_async().await?.to_vec())
    }

    /// Changes how tokens are chosen, and begins its random numbers again. JSON: `temperature` (0 takes the likeliest),
    /// `topK`, `topP`, `minP`, `repeatPenalty`, `repeatLastN`, `seed`. Returns the chain in words.
    pub fn sampling(&mut self, settings: &str) -> Result<String> {
        let sampling: Sampling = settings::parse(Some(settings))?;
        self.0.set_sampling(sampling.over(self.0.sampler().options()));
        Ok(self.0.sampler().chain())
    }

    /// Forgets the conversation, and begins the random numbers again.
    pub fn reset(&mut self) {
        self.0.reset();
    }

    /// Tokens fed so far.
    #[wasm_bindgen(getter)]
    pub fn position(&self) -> usize {
        self.0.session().position()
    }

    /// Tokens that fit.
    #[wasm_bindgen(getter)]
    pub fn context(&self) -> usize {
        self.0.session().context()
    }
}
