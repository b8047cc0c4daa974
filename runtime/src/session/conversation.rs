//! A session with its sampler: what programs call that embed a model.

use super::Session;
use crate::error::Result;
use crate::sampler::{Sampler, SamplerOptions};

/// A conversation with a model, token by token.
///
/// The sampler remembers what the session has seen, and nothing else: a repeat penalty is the same however the tokens came
/// to be there. Each `..._async` does the same without waiting, for a GPU in a browser; dropped halfway, its tokens count as
/// fed.
pub struct Conversation {
    session: Session,
    sampler: Sampler,
    /// The token chosen last, and where it belongs. Once the session is further, it was fed.
    chosen: Option<(usize, u32)>,
}

impl Conversation {
    /// Goes on with a session, and begins the sampler's random numbers.
    pub fn new(session: Session, sampling: SamplerOptions) -> Self {
        Self { session, sampler: Sampler::new(sampling), chosen: None }
    }

    /// What was fed, and where it computes.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Feeds tokens, behind those that are there. What [`next_token`](Self::next_token) gave last comes before them.
    pub fn prompt(&mut self, ids: &[u32]) -> Result<()> {
        self.session.feed_prompt(&self.behind_waiting(ids))?;
        self.session.wait()
    }

    /// [`prompt`](Self::prompt) without waiting.
    pub async fn prompt_async(&mut self, ids: &[u32]) -> Result<()> {
        self.session.feed_prompt(&self.behind_waiting(ids))?;
        self.session.wait_async().await
    }

    /// Feeds tokens as [`prompt`](Self::prompt) does, without working out what follows them: a long prompt in short pieces,
    /// the last of which goes to `prompt`.
    pub async fn read_async(&mut self, ids: &[u32]) -> Result<()> {
        self.session.read_async(&self.behind_waiting(ids)).await
    }

    /// [`Session::keep_common`]: what is left to feed of these tokens, once the rest of the conversation is forgotten.
    pub fn keep_common<'a>(&mut self, ids: &'a [u32]) -> Result<&'a [u32]> {
        let left = self.session.keep_common(ids)?;
        self.session.answered = false; // what comes next is an answer to all of these
        self.chosen = None;
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
        let waiting = self.remember();
        let id = self.session.choose(waiting.as_slice(), &mut self.sampler)?;
        Ok(self.choose(id))
    }

    /// [`next_token`](Self::next_token) without waiting.
    pub async fn next_token_async(&mut self) -> Result<Option<u32>> {
        let waiting = self.remember();
        let id = self.session.choose_async(waiting.as_slice(), &mut self.sampler).await?;
        Ok(self.choose(id))
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

    /// The token that was chosen, but not fed yet.
    fn waiting(&self) -> Option<u32> {
        self.chosen.filter(|&(position, _)| position == self.session.position()).map(|(_, id)| id)
    }

    /// These tokens, and before them the one that waits.
    fn behind_waiting(&self, ids: &[u32]) -> Vec<u32> {
        self.waiting().iter().chain(ids).copied().collect()
    }

    /// Tells the sampler what is there; gives the token that waits.
    fn remember(&mut self) -> Option<u32> {
        let waiting = self.waiting();
        self.sampler.recall(self.session.tokens());
        waiting.into_iter().for_each(|id| self.sampler.accept(id));
        waiting
    }

    /// The token waits; none where it ends the answer.
    fn choose(&mut self, id: u32) -> Option<u32> {
        self.chosen = Some((self.session.position(), id));
        (!self.session.model.config().eos.contains(&id)).then_some(id)
    }
}
