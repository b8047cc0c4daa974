//! Prompt in, tokens out: the loop round [`forward`](crate::model::forward).

mod ahead;
mod conversation;
mod engine;
mod saved;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::Config;
use crate::cpu::isa::Isa;
use crate::cpu::{CpuBackend, KvFormat};
use crate::error::{Error, Result};
use crate::model::Weights;
use crate::model_file::ModelFile;
use crate::sampler::Sampler;
use crate::tensor::StoredTensor;
use crate::tokenizer::Tokenizer;
use ahead::Ahead;
pub use conversation::Conversation;
use engine::Engine;
#[cfg(all(feature = "gpu", not(target_family = "wasm")))]
pub(crate) use engine::nmse;

/// Most tokens of one forward pass. A prompt is fed in chunks of this size.
const CHUNK: usize = 128;
/// Most logits of one forward pass, when those of every position are asked for: 16 MiB.
const CHUNK_LOGITS: usize = 4 << 20;
/// Context of a session that does not ask for one, unless the model's is shorter.
const DEFAULT_CONTEXT: usize = 4096;

/// A loaded model. Cloning shares the weights; sessions keep them alive.
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    file: ModelFile,
    weights: Weights<CpuBackend>,
    /// The same on a GPU, once a session wanted it there.
    #[cfg(feature = "gpu")]
    on_gpu: std::sync::Mutex<Option<Arc<engine::OnGpu>>>,
}

/// Where a session computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// On the processor. The same bits everywhere.
    #[default]
    Cpu,
    /// On a graphics card, or an error.
    Gpu,
    /// On a graphics card if there is one that passes a test with this model, otherwise on the processor;
    /// [`Session::status`] says which, and why.
    Auto,
}

impl std::str::FromStr for Device {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "cpu" => Ok(Self::Cpu),
            "gpu" => Ok(Self::Gpu),
            "auto" => Ok(Self::Auto),
            _ => Err(Error::Argument(format!("a device '{name}': expected auto, cpu or gpu"))),
        }
    }
}

/// How a session computes. The default suits most.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// Most tokens of prompt and answer together; `None`: the model's own context, at most 4096. Memory grows
    /// with the tokens really seen.
    pub context: Option<usize>,
    /// Keep activations in f32 instead of rounding them to i8 before ternary matrices. Several times slower.
    pub exact: bool,
    /// How keys and values are kept: the memory of a long context, and the time that reading it takes. `None`: int16,
    /// f16 on a GPU, or f32 if `exact`. See [`KvFormat::bytes_per_token`].
    pub kv: Option<KvFormat>,
    /// Threads of its own, the caller's included; `None`: one per fast core. In WebAssembly all sessions share those that the
    /// host has started. Never changes a result.
    pub threads: Option<usize>,
    /// Instructions to use; `None`: the best there are. Never changes a result.
    pub isa: Option<Isa>,
    /// Where to compute. A GPU keeps keys and values as f16 or int8 and computes with f32 activations; `exact`,
    /// `threads` and `isa` are of the CPU.
    pub device: Device,
    /// Tokens of greedy decoding that a GPU gets at a time, at most 32: it goes on by itself and tells later which they
    /// were. `None`: 4. Never changes a result.
    pub tokens_per_submit: Option<usize>,
    /// Set it to stop the session at the next chunk or token with [`Error::Cancelled`].
    pub cancel: Option<Arc<AtomicBool>>,
}

/// Tokens of one forward pass of a session with this context.
pub(crate) fn chunk(context: usize) -> usize {
    CHUNK.min(context)
}

impl SessionOptions {
    /// Context of a session that asks for none.
    pub fn default_context(config: &Config) -> usize {
        config.context.min(DEFAULT_CONTEXT)
    }

    /// How keys and values are kept, the default worked out; for [`Device::Auto`], that of the CPU.
    pub fn kv_format(&self) -> KvFormat {
        self.kv.unwrap_or(match self.device {
            Device::Gpu => KvFormat::F16,
            _ if self.exact => KvFormat::F32,
            _ => KvFormat::default(),
        })
    }
}

/// One conversation with a model.
pub struct Session {
    model: Model,
    engine: Box<dyn Engine>,
    cancel: Arc<AtomicBool>,
    context: usize,
    tokens_per_submit: usize,
    /// What was fed: a token for each position.
    tokens: Vec<u32>,
    /// The machine holds the logits behind the last token.
    answered: bool,
    /// The last that were read from a GPU.
    logits: Vec<f32>,
}

impl Model {
    /// Opens a GGUF file or a Hugging Face directory.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_file(ModelFile::open(path.as_ref())?)
    }

    /// Opens a GGUF file that is in memory already.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::from_file(ModelFile::from_bytes(&bytes.into(), Path::new("model.gguf"))?)
    }

    /// Takes an opened file over.
    pub fn from_file(mut file: ModelFile) -> Result<Self> {
        let weights = Weights::new(&mut CpuBackend::new(Isa::detect(), false, KvFormat::default()), &file)?;
        if let Some(tokenizer) = &mut file.tokenizer {
            tokenizer.pad_to(weights.config.vocab); // an embedding often has more rows than there are tokens
        }
        Ok(Self(Arc::new(Inner {
            file,
            weights,
            #[cfg(feature = "gpu")]
            on_gpu: Default::default(),
        })))
    }

    /// The shape.
    pub fn config(&self) -> &Config {
        &self.0.weights.config
    }

    /// The tokenizer, if the model came with one. The first call builds it.
    pub fn tokenizer(&self) -> Result<Option<&Tokenizer>> {
        self.0.file.tokenizer()
    }

    /// Every matrix that a token passes through, in the order in which it does, as it lies in memory.
    pub fn matrices(&self) -> impl Iterator<Item = &StoredTensor> {
        self.0.weights.matrices().flatten()
    }

    /// One sentence for people about the file.
    pub fn description(&self) -> &str {
        &self.0.file.description
    }

    /// Logits (`[vocab]`) that a GPU must find: those behind a few tokens, on the CPU with f32 activations.
    pub fn test_logits(&self) -> Result<Vec<f32>> {
        engine::test_logits(self)
    }

    #[cfg(all(feature = "gpu", not(target_family = "wasm")))]
    pub(crate) fn file(&self) -> &ModelFile {
        &self.0.file
    }

    /// The GPU that sessions with [`Device::Gpu`] share, once there was one.
    #[cfg(feature = "gpu")]
    pub fn gpu(&self) -> Option<crate::gpu::device::Gpu> {
        engine::OnGpu::gpu(self)
    }

    /// Opens the best GPU, uploads the model and tests what it computes, for sessions on [`Device::Gpu`] to come;
    /// `software` also takes a program that plays one, `expected` is what [`Model::test_logits`] says of the same model.
    /// Sessions do this themselves where they may wait; in a browser it comes first.
    #[cfg(feature = "gpu")]
    pub async fn open_gpu(&self, software: bool, expected: &[f32]) -> Result<()> {
        engine::OnGpu::open_async(self, software, expected).await
    }

    /// Starts a conversation.
    pub fn session(&self, options: SessionOptions) -> Result<Session> {
        let config = self.config();
        let context = options.context.unwrap_or(SessionOptions::default_context(config));
        if context == 0 || context > config.context {
            let longest = config.context;
            return Err(Error::Argument(format!("a context of {context} tokens: expected 1 to {longest}")));
        }
        Ok(Session {
            engine: engine::start(self, &options, context)?,
            cancel: options.cancel.unwrap_or_default(),
            context,
            tokens_per_submit: ahead::per_submit(options.tokens_per_submit)?,
            tokens: Vec::new(),
            answered: false,
            logits: vec![0.0; config.vocab],
            model: self.clone(),
        })
    }
}

impl Session {
    /// Feeds tokens and returns the logits (`[vocab]`) that follow the last one.
    pub fn prompt(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        self.feed_prompt(tokens)?;
        self.last_logits()
    }

    /// Logits (`[vocab]`) that follow the last token: of [`Session::prompt`] or [`Session::choose`], and an error behind
    /// anything else.
    pub fn last_logits(&mut self) -> Result<&[f32]> {
        self.check_answered()?;
        self.engine.logits(&mut self.logits)
    }

    /// [`Session::prompt`] without waiting, for a GPU in a browser. Dropped halfway, the tokens count as fed.
    pub async fn prompt_async(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        self.feed_prompt(tokens)?;
        self.last_logits_async().await
    }

    /// Feeds tokens and chooses the one that follows, by the logits of [`Session::prompt`]; without tokens, the one that
    /// follows the last. A GPU sends the likeliest tokens only, where they decide.
    pub fn choose(&mut self, tokens: &[u32], sampler: &mut Sampler) -> Result<u32> {
        self.feed_choice(tokens)?;
        if let Some(machine) = self.engine.likeliest().filter(|machine| sampler.decided_by(machine.most())) {
            return Ok(sampler.sample_among(&machine.read()?));
        }
        sample(self.last_logits()?, sampler)
    }

    /// [`Session::choose`] without waiting, for a GPU in a browser. Dropped halfway, the tokens count as fed.
    pub async fn choose_async(&mut self, tokens: &[u32], sampler: &mut Sampler) -> Result<u32> {
        self.feed_choice(tokens)?;
        if let Some(machine) = self.engine.likeliest().filter(|machine| sampler.decided_by(machine.most())) {
            return Ok(sampler.sample_among(&machine.read_async().await?));
        }
        sample(self.last_logits_async().await?, sampler)
    }

    /// [`Session::last_logits`] without waiting.
    pub async fn last_logits_async(&mut self) -> Result<&[f32]> {
        if self.device() == Device::Cpu {
            return self.last_logits();
        }
        self.check_answered()?;
        self.engine.await_logits(&mut self.logits).await?;
        Ok(&self.logits)
    }

    /// Feeds tokens without working out what follows them, which for a large vocabulary is much of the work.
    pub fn read(&mut self, tokens: &[u32]) -> Result<()> {
        self.check(tokens)?;
        tokens.chunks(CHUNK).try_for_each(|chunk| self.feed(chunk, 0..0))
    }

    /// [`Session::read`] that is over when the tokens have been fed, and not when they are recorded for a GPU.
    pub async fn read_async(&mut self, tokens: &[u32]) -> Result<()> {
        self.read(tokens)?;
        self.wait_async().await
    }

    /// Waits until the tokens have been fed.
    fn wait(&mut self) -> Result<()> {
        self.engine.read_logits(&mut self.logits[..1]) // whatever they are: they come behind the tokens
    }

    async fn wait_async(&mut self) -> Result<()> {
        self.engine.await_logits(&mut self.logits[..1]).await
    }

    /// Feeds one token and returns the logits (`[vocab]`) that follow it.
    pub fn next(&mut self, id: u32) -> Result<&[f32]> {
        self.prompt(&[id])
    }

    fn check_answered(&self) -> Result<()> {
        let nothing = || Error::Argument("nothing to go on from: feed a prompt first".into());
        self.answered.then_some(()).ok_or_else(nothing)
    }

    /// Feeds tokens and returns the logits that follow each of them, `[tokens, vocab]`.
    pub fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        let values = tokens.len().saturating_mul(self.vocab());
        let too_large = |_| Error::Memory(format!("{} MiB of logits", values >> 18));
        all.try_reserve_exact(values).map_err(too_large)?;
        self.each_logits(tokens, |_, rows| all.extend_from_slice(rows))?;
        Ok(all)
    }

    /// Feeds tokens and calls `f(first, rows)` with the logits (`[n, vocab]`) that follow tokens `first..first + n`,
    /// piece by piece: any number of tokens in bounded memory.
    pub fn each_logits(&mut self, tokens: &[u32], mut f: impl FnMut(usize, &[f32])) -> Result<()> {
        self.check(tokens)?;
        let vocab = self.vocab();
        let chunk = (CHUNK_LOGITS / vocab).clamp(1, CHUNK).min(self.context);
        let mut rows = vec![0.0; chunk.min(tokens.len()) * vocab];
        self.engine.hold_logits(chunk)?;
        let mut pieces = tokens.chunks(chunk).enumerate();
        let fed = pieces.try_for_each(|(n, tokens)| {
            self.feed(tokens, 0..tokens.len())?;
            let rows = &mut rows[..tokens.len() * vocab];
            self.engine.read_logits(rows)?;
            f(n * chunk, rows);
            Ok(())
        });
        self.answered = false; // also after an error in the middle: whose logits are left nobody knows
        self.engine.hold_logits(1)?; // gives the memory back
        fed
    }

    /// Whom it talks with.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Where it computes: [`Device::Cpu`] or [`Device::Gpu`].
    pub fn device(&self) -> Device {
        self.engine.device()
    }

    /// One line for people: where this session computes, and why there.
    pub fn status(&self) -> String {
        self.engine.status()
    }

    /// Width of a row of logits.
    pub fn vocab(&self) -> usize {
        self.model.config().vocab
    }

    /// Tokens seen so far.
    pub fn position(&self) -> usize {
        self.tokens.len()
    }

    /// The tokens seen so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens that fit.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Forgets everything but the first `position` tokens, so that another continuation can be tried.
    pub fn rewind(&mut self, position: usize) {
        self.answered &= position >= self.position();
        self.tokens.truncate(position);
    }

    /// Keeps what the tokens seen so far and these have in common, forgets the rest, and returns what is left to
    /// feed: at least the last token, whose logits will be wanted. Tokens that cannot be fed change nothing.
    pub fn keep_common<'a>(&mut self, tokens: &'a [u32]) -> Result<&'a [u32]> {
        self.check_from(0, tokens)?;
        let common = self.tokens.iter().zip(tokens).take_while(|(old, new)| old == new).count();
        self.rewind(common.min(tokens.len() - 1));
        Ok(&tokens[self.position()..])
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.rewind(0);
    }

    /// The flag that stops this session.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        self.cancel.clone()
    }

    /// Feeds the prompt and samples up to `max_tokens` ids, stopping before one of the model's end tokens.
    pub fn generate<'a>(
        &'a mut self,
        prompt: &'a [u32],
        sampler: &'a mut Sampler,
        max_tokens: usize,
    ) -> impl Iterator<Item = Result<u32>> + 'a {
        let mut left = max_tokens;
        let mut last: Option<u32> = None;
        let mut ahead = Ahead::default();
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let id = match last {
                None => self.first(prompt, sampler),
                Some(id) if self.goes_ahead(sampler) => self.next_ahead(id, sampler, &mut ahead, left),
                Some(id) => self.choose(&[id], sampler),
            };
            if id.is_err() {
                left = 0;
            }
            last = id.as_ref().ok().copied();
            let ended = last.is_some_and(|id| self.model.config().eos.contains(&id));
            if ended {
                left = 0;
            }
            (!ended).then_some(id)
        })
    }

    fn first(&mut self, prompt: &[u32], sampler: &mut Sampler) -> Result<u32> {
        prompt.iter().for_each(|&id| sampler.accept(id));
        self.choose(prompt, sampler)
    }

    /// Whether these tokens can be fed; makes room for them.
    fn check(&mut self, tokens: &[u32]) -> Result<()> {
        self.check_from(self.position(), tokens)?;
        self.engine.reserve(self.position() + tokens.len())
    }

    /// Whether these tokens can be fed behind `position` others.
    fn check_from(&self, position: usize, tokens: &[u32]) -> Result<()> {
        let vocab = self.vocab();
        if tokens.is_empty() {
            return Err(Error::Argument("no tokens to feed: the prompt is empty".into()));
        }
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::Token { id, vocab });
        }
        if tokens.len() > self.context - position {
            return Err(Error::ContextFull { capacity: self.context });
        }
        Ok(())
    }

    /// Makes sure that there are logits to choose by.
    fn feed_choice(&mut self, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() { self.check_answered() } else { self.feed_prompt(tokens) }
    }

    /// Forward passes for tokens, of which the last gets logits.
    fn feed_prompt(&mut self, tokens: &[u32]) -> Result<()> {
        self.check(tokens)?;
        let (first, last) = tokens.split_at((tokens.len() - 1) / CHUNK * CHUNK);
        first.chunks(CHUNK).try_for_each(|chunk| self.feed(chunk, 0..0))?;
        self.feed(last, last.len() - 1..last.len())
    }

    /// One forward pass.
    fn feed(&mut self, tokens: &[u32], wanted: std::ops::Range<usize>) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        self.answered = !wanted.is_empty();
        self.engine.feed(self.tokens.len(), tokens, wanted);
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }
}

/// Samples, unless the logits are not numbers, as those of damaged weights are.
fn sample(logits: &[f32], sampler: &mut Sampler) -> Result<u32> {
    if logits.iter().any(|x| x.is_nan()) { Err(Error::not_numbers()) } else { Ok(sampler.sample(logits)) }
}
