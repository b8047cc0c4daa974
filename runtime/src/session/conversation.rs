//! A session with its sampler: what programs call that embed a model.

use super::Session;
use crate::error::Result;
use crate::sampler::{Sampler, SamplerOptions};

/// A conversation with a model, token by token.
///
/// The sampler remembers what the session has seen, and nothing else: a repeat penalty is the same however the tokens came
/// to be there. Each `..._async` does the same without waiting, for a GPU in a browser.
pub struct Conversation {
    session: Session,
    sampler: Sampler,
    /// Chosen, but not fed yet.
    chosen: Option<u32>,
}

impl Conversation {
    /// Goes on with a session, and begins the sampler's random numbers.
    pub fn new(session: Session, sampling: SamplerOptions) -> Self {
        let mut new = Self { session, sampler: Sampler::new(SamplerOptions::default()), chosen: None };
        new.set_sampling(sampling);
        new
    }

    /// What was fed, and where it computes.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Feeds tokens, behind those that are there. What [`next_token`](Self::next_token) gave last comes before them.
    pub fn prompt(&mut self, ids: &[u32]) -> Result<()> {
        let position = self.session.position();
        let fed = self.session.prompt(&self.behind_chosen(ids)).map(drop);
        self.settle(position);
        fed
    }

    /// [`prompt`](Self::prompt) without waiting.
    pub async fn prompt_async(&mut self, ids: &[u32]) -> Result<()> {
        let position = self.session.position();
        let fed = self.session.prompt_async(&self.behind_chosen(ids)).await.map(drop);
        self.settle(position);
        fed
    }

    /// Feeds tokens as [`prompt`](Self::prompt) does, without working out what follows them: a long prompt in short pieces,
    /// the last of which goes to `prompt`.
    pub async fn read_async(&mut self, ids: &[u32]) -> Result<()> {
        let position = self.session.position();
        let fed = self.session.read_async(&self.behind_chosen(ids)).await;
        self.settle(position);
        fed
    }

    /// [`Session::keep_common`]: what is left to feed of these tokens, once the rest of the conversation is forgotten.
    pub fn keep_common<'a>(&mut self, ids: &'a [u32]) -> Result<&'a [u32]> {
        let left = self.session.keep_common(ids)?;
        self.session.answered = false; // what comes next is an answer to all of these
        self.chosen = None;
        self.sampler.recall(self.session.tokens());
        Ok(left)
    }

    /// Makes these tokens the whole conversation, feeding only what is new; gives their number.
    pub fn set_tokens(&mut self, ids: &[u32]) -> Result<usize> {
        let new = self.keep_common(ids)?;
        self.prompt(new)?;
        Ok(new.len())
    }

    /// Chooses the next token; `None` where the model ends its answer.
    pub fn next_token(&mut self) -> Result<Option<u32>> {
        let position = self.session.position();
        let chosen = self.session.choose(self.chosen.as_slice(), &mut self.sampler);
        self.settle_choice(position, chosen)
    }

    /// [`next_token`](Self::next_token) without waiting.
    pub async fn next_token_async(&mut self) -> Result<Option<u32>> {
        let position = self.session.position();
        let chosen = self.session.choose_async(self.chosen.as_slice(), &mut self.sampler).await;
        self.settle_choice(position, chosen)
    }

    /// Logits (`[vocab]`) of the token behind the last one that was fed; none before a prompt. What
    /// [`next_token`](Self::next_token) gave is fed by the call after.
    pub fn logits(&mut self) -> Result<&[f32]> {
        if self.session.answered { self.session.last_logits() } else { Ok(&[]) }
    }

    /// [`logits`](Self::logits) without waiting.
    pub async fn logits_async(&mut self) -> Result<&[f32]> {
        if self.session.answered { self.session.last_logits_async().await } else { Ok(&[]) }
    }

    /// How tokens are chosen.
    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// Says how tokens are chosen from now on, and begins the random numbers again.
    pub fn set_sampling(&mut self, options: SamplerOptions) {
        self.sampler = Sampler::new(options);
        self.sampler.recall(self.session.tokens());
        self.chosen.into_iter().for_each(|id| self.sampler.accept(id));
    }

    /// Forgets the conversation, and begins the random numbers again.
    pub fn reset(&mut self) {
        self.session.reset();
        self.begin_again();
    }

    /// [`Session::restore`], in place of the present conversation; begins the random numbers again.
    pub fn restore(&mut self, saved: &[u8]) -> Result<()> {
        let before = self.session.tokens().to_vec();
        let restored = self.session.restore(saved).map(drop);
        if restored.is_ok() || self.session.tokens() != before {
            self.begin_again();
        }
        restored
    }

    fn begin_again(&mut self) {
        self.chosen = None;
        self.set_sampling(self.sampler.options().clone());
    }

    /// These tokens, and before them the one that waits.
    fn behind_chosen(&self, ids: &[u32]) -> Vec<u32> {
        self.chosen.iter().chain(ids).copied().collect()
    }

    /// If anything was fed, though not all, then first of all what was waiting.
    fn settle(&mut self, position: usize) {
        if self.session.position() > position {
            self.chosen = None;
            self.sampler.recall(self.session.tokens());
        }
    }

    /// What was waiting may be fed though nothing was chosen behind it.
    fn settle_choice(&mut self, position: usize, chosen: Result<u32>) -> Result<Option<u32>> {
        if self.session.position() > position {
            self.chosen = None;
        }
        let id = chosen?;
        self.chosen = Some(id);
        Ok((!self.session.model.config().eos.contains(&id)).then_some(id))
    }
}
