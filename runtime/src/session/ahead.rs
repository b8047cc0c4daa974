//! Greedy decoding on a machine that goes on by itself: a few tokens at a time, the next few already under way.
//!
//! What it says equals what asking token by token says. Behind an end token it has computed a few passes for nothing;
//! their keys and values lie at positions that the session has not reached, where the next token overwrites them.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use super::Session;
use crate::error::{Error, Result};
use crate::sampler::Sampler;

/// Most tokens at a time.
pub(super) const MOST_AHEAD: usize = 32;
/// Tokens at a time, unless a session asks for another number.
const AHEAD: usize = 4;
/// Starts under way at a time: while one is waited for, the machine has another.
const STARTS: usize = 2;

/// What is known of the tokens to come.
#[derive(Default)]
pub(super) struct Ahead {
    /// Found, and not given out yet; none where logits were not numbers.
    ids: VecDeque<Option<u32>>,
    /// Starts that nobody has waited for.
    starts: usize,
    /// Behind the last pass that was started.
    end: usize,
}

/// Tokens at a time that a session asked for.
pub(super) fn per_submit(asked: Option<usize>) -> Result<usize> {
    match asked.unwrap_or(AHEAD) {
        n @ 1..=MOST_AHEAD => Ok(n),
        n => Err(Error::Argument(format!("{n} tokens per submit: expected 1 to {MOST_AHEAD}"))),
    }
}

impl Session {
    /// Whether the machine can choose as this sampler would.
    pub(super) fn goes_ahead(&mut self, sampler: &Sampler) -> bool {
        sampler.takes_likeliest() && self.engine.greedy().is_some()
    }

    /// Feeds one token and returns the likeliest behind it. So many more will be wanted, if nothing ends them.
    pub(super) fn next_ahead(
        &mut self,
        id: u32,
        sampler: &mut Sampler,
        ahead: &mut Ahead,
        more: usize,
    ) -> Result<u32> {
        self.check(&[id])?;
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        if ahead.ids.is_empty() {
            let end = self.context.min(self.position() + 1 + more);
            self.go_ahead(id, ahead, end)?;
        }
        let next = ahead.ids.pop_front().flatten().ok_or_else(Error::not_numbers)?;
        self.answered = false; // the machine may be further
        self.tokens.push(id);
        sampler.accept(next);
        Ok(next)
    }

    /// Starts passes up to position `end`, as far as there should be any under way, and waits for the oldest.
    fn go_ahead(&mut self, id: u32, ahead: &mut Ahead, end: usize) -> Result<()> {
        let position = self.tokens.len();
        self.engine.reserve(end.min(position + STARTS * self.tokens_per_submit))?;
        let greedy = self.engine.greedy().expect("it was asked before");
        if ahead.starts == 0 {
            ahead.end = position;
        }
        while ahead.starts < STARTS && ahead.end < end {
            let count = self.tokens_per_submit.min(end - ahead.end);
            greedy.start(ahead.end, (ahead.end == position).then_some(id), count)?;
            ahead.starts += 1;
            ahead.end += count;
        }
        ahead.starts -= 1;
        ahead.ids.extend(greedy.found()?);
        Ok(())
    }
}
