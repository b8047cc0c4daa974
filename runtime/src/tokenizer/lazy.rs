//! A tokenizer that is built when it is first asked for: with 150,000 tokens that takes a quarter of a second,
//! which looking at a file, or feeding ids, need not spend.

use std::fmt;
use std::sync::OnceLock;

use super::Tokenizer;
use crate::error::Result;

/// What a file says about its tokenizer without building it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenizerFacts {
    /// Highest id + 1.
    pub tokens: usize,
    /// Beginning of a text.
    pub bos: Option<u32>,
    /// End of a text.
    pub eos: Option<u32>,
    /// Whether there is a chat template.
    pub chat_template: bool,
}

/// A tokenizer, built on first use and then kept.
pub struct LazyTokenizer {
    /// `None`: only the built tokenizer knows.
    facts: Option<TokenizerFacts>,
    /// See [`Tokenizer::pad_to`].
    rows: usize,
    build: Box<dyn Fn() -> Result<Tokenizer> + Send + Sync>,
    built: OnceLock<Tokenizer>,
}

impl LazyTokenizer {
    /// `build` is called once, unless it fails.
    pub fn new(
        facts: Option<TokenizerFacts>,
        build: impl Fn() -> Result<Tokenizer> + Send + Sync + 'static,
    ) -> Self {
        Self { facts, rows: 0, build: Box::new(build), built: OnceLock::new() }
    }

    /// Makes ids up to `vocab` valid, see [`Tokenizer::pad_to`].
    pub fn pad_to(&mut self, vocab: usize) {
        self.rows = self.rows.max(vocab);
        if let Some(tokenizer) = self.built.get_mut() {
            tokenizer.pad_to(vocab);
        }
    }

    /// The tokenizer.
    pub fn get(&self) -> Result<&Tokenizer> {
        if let Some(tokenizer) = self.built.get() {
            return Ok(tokenizer);
        }
        let mut tokenizer = (self.build)()?;
        tokenizer.pad_to(self.rows);
        Ok(self.built.get_or_init(|| tokenizer)) // two threads may have built it: both did the same
    }

    /// The tokenizer, for keeps.
    pub fn into_tokenizer(self) -> Result<Tokenizer> {
        self.get()?;
        let built = self.built.into_inner();
        Ok(built.expect("the line above has built it"))
    }

    /// Size and special tokens, without building it where the file says them.
    pub fn facts(&self) -> Result<TokenizerFacts> {
        let Some(facts) = self.facts else {
            let t = self.get()?;
            let chat_template = t.chat_template().is_some();
            return Ok(TokenizerFacts { tokens: t.vocab_size(), bos: t.bos(), eos: t.eos(), chat_template });
        };
        Ok(TokenizerFacts { tokens: facts.tokens.max(self.rows), ..facts })
    }
}

impl fmt::Debug for LazyTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyTokenizer").field("facts", &self.facts).field("built", &self.built).finish()
    }
}
