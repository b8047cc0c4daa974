//! A session with its sampler: what the functions for C do, in safe Rust.

use bonsai_runtime::session::sample;
use bonsai_runtime::{Error, Model, Sampler, SamplerOptions, Session};

use crate::status::Result;

/// One conversation with a model.
pub(crate) struct Conversation {
    pub(crate) model: Model,
    pub(crate) session: Session,
    sampler: Sampler,
    /// A token was fed, and its logits are those of `logits`, or still where they were computed if it is empty.
    answered: bool,
    logits: Vec<f32>,
    /// Sampled, but not fed yet.
    sampled: Option<u32>,
}

impl Conversation {
    pub(crate) fn new(model: &Model, options: bonsai_runtime::SessionOptions) -> Result<Self> {
        let session = model.session(options)?;
        let sampler = Sampler::new(SamplerOptions::default());
        Ok(Self {
            model: model.clone(),
            session,
            sampler,
            answered: false,
            logits: Vec::new(),
            sampled: None,
        })
    }

    /// Feeds tokens, behind those that are there. What [`next`](Self::next) gave last comes before them.
    pub(crate) fn prompt(&mut self, ids: &[u32]) -> Result<()> {
        match self.sampled {
            Some(id) => self.feed(&[&[id], ids].concat())?,
            None => self.feed(ids)?,
        }
        ids.iter().for_each(|&id| self.sampler.accept(id));
        Ok(())
    }

    /// Makes these tokens the whole conversation, feeding only what is new; gives their number.
    pub(crate) fn set_tokens(&mut self, ids: &[u32]) -> Result<usize> {
        let new = self.session.keep_common(ids)?;
        self.forget_answer();
        self.feed(new)?;
        new.iter().for_each(|&id| self.sampler.accept(id));
        Ok(new.len())
    }

    /// The next token; `None` where the model ends its answer.
    pub(crate) fn next(&mut self) -> Result<Option<u32>> {
        let id = match self.sampled {
            Some(id) => self.choose_behind(id)?,
            None if !self.answered => {
                return Err(Error::Argument("nothing to go on from: feed a prompt first".into()).into());
            }
            None => {
                self.logits()?;
                sample(&self.logits, &mut self.sampler)?
            }
        };
        self.sampled = Some(id);
        Ok((!self.model.config().eos.contains(&id)).then_some(id))
    }

    /// Feeds a token, after which it is no longer waiting whatever comes of the choice.
    fn choose_behind(&mut self, id: u32) -> Result<u32> {
        let position = self.session.position();
        let chosen = self.session.choose(&[id], &mut self.sampler);
        if self.session.position() > position {
            self.forget_answer();
            self.answered = true;
        }
        Ok(chosen?)
    }

    /// Feeds tokens. If it fails halfway, what was waiting is fed, and nothing is known of what follows.
    fn feed(&mut self, ids: &[u32]) -> Result<()> {
        let position = self.session.position();
        let fed = self.session.prompt(ids).map(<[f32]>::to_vec);
        if self.session.position() > position {
            self.forget_answer();
        }
        self.logits = fed?;
        self.answered = true;
        Ok(())
    }

    fn forget_answer(&mut self) {
        self.answered = false;
        self.logits.clear();
        self.sampled = None;
    }

    /// Of the token behind the last one that was fed; empty before a prompt.
    pub(crate) fn logits(&mut self) -> Result<&[f32]> {
        if self.answered && self.logits.is_empty() {
            self.logits.extend_from_slice(self.session.last_logits()?);
        }
        Ok(&self.logits)
    }

    /// Begins the random numbers again.
    pub(crate) fn set_sampling(&mut self, options: SamplerOptions) {
        self.sampler = Sampler::new(options);
        self.session.tokens().iter().for_each(|&id| self.sampler.accept(id));
    }

    pub(crate) fn chain(&self) -> String {
        self.sampler.chain()
    }

    pub(crate) fn reset(&mut self) {
        self.session.reset();
        self.set_sampling(self.sampler.options().clone());
        self.forget_answer();
    }

    /// Goes on with a saved conversation.
    pub(crate) fn restore(&mut self, saved: &[u8]) -> Result<()> {
        let before = self.session.tokens().to_vec();
        let restored = self.session.restore(saved).map(<[f32]>::to_vec);
        if restored.is_ok() || self.session.tokens() != before {
            self.set_sampling(self.sampler.options().clone());
            self.forget_answer();
        }
        let logits = restored?;
        self.answered = !logits.is_empty();
        self.logits = logits;
        Ok(())
    }
}
