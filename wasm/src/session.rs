//! A conversation: prompt in, tokens out one by one.

use bonsai_runtime::session::sample;
use bonsai_runtime::{Sampler, SamplerOptions};
use wasm_bindgen::prelude::wasm_bindgen;

use crate::error::{Result, argument};
use crate::settings::{self, Settings};

/// One conversation with a model.
#[wasm_bindgen]
pub struct Session {
    inner: bonsai_runtime::Session,
    sampler: Sampler,
    eos: Vec<u32>,
    /// After the last token that was fed; empty before the first.
    logits: Vec<f32>,
    /// Sampled, but not fed yet.
    sampled: Option<u32>,
}

impl Session {
    pub(crate) fn new(model: &bonsai_runtime::Model, settings: Settings) -> Result<Self> {
        let inner = model.session(settings.options()?)?;
        let sampler = Sampler::new(settings.sampling.over(&SamplerOptions::default()));
        Ok(Self { inner, sampler, eos: model.config().eos.clone(), logits: Vec::new(), sampled: None })
    }

    fn feed(&mut self, ids: &[u32]) -> Result<()> {
        let logits = self.inner.prompt(ids)?;
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        Ok(())
    }
}

#[wasm_bindgen]
impl Session {
    /// Feeds tokens, behind those that are there. What [`Session::next_token`] gave last comes before them.
    pub fn prompt(&mut self, ids: &[u32]) -> Result<()> {
        match self.sampled {
            Some(id) => self.feed(&[&[id], ids].concat())?,
            None => self.feed(ids)?,
        }
        self.sampled = None;
        ids.iter().for_each(|&id| self.sampler.accept(id));
        Ok(())
    }

    /// Chooses the next token; nothing where the model ends its answer.
    #[wasm_bindgen(js_name = next)]
    pub fn next_token(&mut self) -> Result<Option<u32>> {
        if let Some(id) = self.sampled {
            self.feed(&[id])?;
            self.sampled = None;
        }
        if self.logits.is_empty() {
            return Err(argument("nothing to go on from: call prompt() first"));
        }
        let id = sample(&self.logits, &mut self.sampler)?;
        self.sampled = Some(id);
        Ok((!self.eos.contains(&id)).then_some(id))
    }

    /// Logits of the token behind the last one that was fed: `vocab` numbers, or none before a prompt. Tokens that
    /// [`Session::next_token`] gave are fed by the call after.
    pub fn logits(&self) -> Vec<f32> {
        self.logits.clone()
    }

    /// Changes how tokens are chosen, and begins its random numbers again. JSON: `temperature` (0 takes the likeliest),
    /// `topK`, `topP`, `minP`, `repeatPenalty`, `repeatLastN`, `seed`. Returns the chain in words.
    pub fn sampling(&mut self, settings: &str) -> Result<String> {
        let sampling: settings::Sampling = settings::parse(Some(settings))?;
        self.sampler = Sampler::new(sampling.over(self.sampler.options()));
        Ok(self.sampler.chain())
    }

    /// Forgets the conversation, and begins the random numbers again.
    pub fn reset(&mut self) {
        self.inner.reset();
        self.sampler = Sampler::new(self.sampler.options().clone());
        self.logits.clear();
        self.sampled = None;
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
