//! A conversation: prompt in, tokens out one by one.

use bonsai_runtime::session::sample;
use bonsai_runtime::{Device, Sampler, SamplerOptions, SessionOptions};
use serde::Deserialize;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::error::{Result, argument};
use crate::settings;

/// How a session computes. What is left out is as the runtime has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Settings {
    /// Most tokens of prompt and answer together.
    context: Option<usize>,
    /// f32 activations.
    exact: bool,
    /// `f32`, `f16`, `int8` or `int4`.
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
pub struct Session {
    inner: bonsai_runtime::Session,
    sampler: Sampler,
    eos: Vec<u32>,
    /// A token was fed, and its logits are those of `logits`, or still where they were computed if it is empty.
    answered: bool,
    logits: Vec<f32>,
    /// Sampled, but not fed yet.
    sampled: Option<u32>,
}

impl Session {
    pub(crate) fn new(model: &bonsai_runtime::Model, settings: Settings) -> Result<Self> {
        Self::on(Device::Cpu, model, settings)
    }

    #[cfg(feature = "gpu")]
    pub(crate) fn on_gpu(model: &bonsai_runtime::Model, settings: Settings) -> Result<Self> {
        Self::on(Device::Gpu, model, settings)
    }

    fn on(device: Device, model: &bonsai_runtime::Model, settings: Settings) -> Result<Self> {
        let inner = model.session(settings.options(device)?)?;
        let sampler = Sampler::new(settings.sampling.over(&SamplerOptions::default()));
        let eos = model.config().eos.clone();
        Ok(Self { inner, sampler, eos, answered: false, logits: Vec::new(), sampled: None })
    }

    /// Feeds tokens. If it fails halfway, what was waiting is fed, and nothing is known of what follows.
    async fn feed(&mut self, ids: &[u32]) -> Result<()> {
        let position = self.inner.position();
        let fed = self.inner.prompt_async(ids).await.map(<[f32]>::to_vec);
        if self.inner.position() > position {
            self.forget_answer();
        }
        self.logits = fed?;
        self.answered = true;
        Ok(())
    }

    /// Feeds a token, after which it is no longer waiting whatever comes of the choice.
    async fn choose_behind(&mut self, id: u32) -> Result<u32> {
        let position = self.inner.position();
        let chosen = self.inner.choose_async(&[id], &mut self.sampler).await;
        if self.inner.position() > position {
            self.forget_answer();
            self.answered = true;
        }
        Ok(chosen?)
    }

    /// Makes sure that the logits behind the last token are here.
    async fn read_logits(&mut self) -> Result<()> {
        if self.answered && self.logits.is_empty() {
            self.logits.extend_from_slice(self.inner.last_logits_async().await?);
        }
        Ok(())
    }

    fn forget_answer(&mut self) {
        self.answered = false;
        self.logits.clear();
        self.sampled = None;
    }
}

#[wasm_bindgen]
impl Session {
    /// Feeds tokens, behind those that are there. What [`Session::next_token`] gave last comes before them.
    pub async fn prompt(&mut self, ids: &[u32]) -> Result<()> {
        match self.sampled {
            Some(id) => self.feed(&[&[id], ids].concat()).await?,
            None => self.feed(ids).await?,
        }
        self.sampled = None;
        ids.iter().for_each(|&id| self.sampler.accept(id));
        Ok(())
    }

    /// Feeds tokens as [`Session::prompt`] does, without working out what follows them: a long prompt in short pieces,
    /// the last of which goes to `prompt`.
    pub async fn read(&mut self, ids: &[u32]) -> Result<()> {
        match self.sampled {
            Some(id) => self.inner.read_async(&[&[id], ids].concat()).await?,
            None => self.inner.read_async(ids).await?,
        }
        self.forget_answer();
        ids.iter().for_each(|&id| self.sampler.accept(id));
        Ok(())
    }

    /// Keeps what the conversation so far and these tokens have in common, forgets the rest, and returns how many of
    /// these are left to feed: at least the last one.
    #[wasm_bindgen(js_name = keepCommon)]
    pub fn keep_common(&mut self, ids: &[u32]) -> Result<usize> {
        let left = self.inner.keep_common(ids)?.len();
        self.forget_answer();
        Ok(left)
    }

    /// Chooses the next token; nothing where the model ends its answer.
    #[wasm_bindgen(js_name = next)]
    pub async fn next_token(&mut self) -> Result<Option<u32>> {
        let id = match self.sampled {
            Some(id) => self.choose_behind(id).await?,
            None if !self.answered => return Err(argument("nothing to go on from: call prompt() first")),
            None => {
                self.read_logits().await?;
                sample(&self.logits, &mut self.sampler)?
            }
        };
        self.sampled = Some(id);
        Ok((!self.eos.contains(&id)).then_some(id))
    }

    /// Logits of the token behind the last one that was fed: `vocab` numbers, or none before a prompt. Tokens that
    /// [`Session::next_token`] gave are fed by the call after.
    pub async fn logits(&mut self) -> Result<Vec<f32>> {
        self.read_logits().await?;
        Ok(self.logits.clone())
    }

    /// Changes how tokens are chosen, and begins its random numbers again. JSON: `temperature` (0 takes the likeliest),
    /// `topK`, `topP`, `minP`, `repeatPenalty`, `repeatLastN`, `seed`. Returns the chain in words.
    pub fn sampling(&mut self, settings: &str) -> Result<String> {
        let sampling: Sampling = settings::parse(Some(settings))?;
        self.sampler = Sampler::new(sampling.over(self.sampler.options()));
        self.inner.tokens().iter().for_each(|&id| self.sampler.accept(id)); // a repeat penalty knows them still
        Ok(self.sampler.chain())
    }

    /// Forgets the conversation, and begins the random numbers again.
    pub fn reset(&mut self) {
        self.inner.reset();
        self.sampler = Sampler::new(self.sampler.options().clone());
        self.forget_answer();
    }

    /// Tokens fed so far.
    #[wasm_bindgen(getter)]
    pub fn position(&self) -> usize {
        self.inner.position()
    }

    /// Tokens that fit.
    #[wasm_bindgen(getter)]
    pub fn context(&self) -> usize {
        self.inner.context()
    }
}
