//! A machine with the memory of one conversation: what a session computes with.

use std::ops::Range;
use std::pin::Pin;

use super::{Device, Model, SessionOptions, chunk};
use crate::backend::Backend;
use crate::cpu::isa::Isa;
use crate::cpu::threads::Threads;
use crate::cpu::{Cache, CpuBackend, KvFormat};
use crate::error::{Error, Result};
use crate::model::{State, feed};
use crate::sampler::Candidate;

#[cfg(feature = "gpu")]
mod on_gpu;
#[cfg(feature = "gpu")]
pub(super) use on_gpu::OnGpu;
#[cfg(all(feature = "gpu", not(target_family = "wasm")))]
pub(crate) use on_gpu::nmse;

/// What will be there later.
pub(super) type Later<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A machine in the middle of a conversation.
pub(super) trait Engine: Send {
    /// Makes room for positions `0..positions`.
    fn reserve(&mut self, positions: usize) -> Result<()>;
    /// Makes room for so many rows of logits.
    fn hold_logits(&mut self, rows: usize) -> Result<()>;
    /// One forward pass for `tokens` from `position` on; `wanted` of them get logits.
    fn feed(&mut self, position: usize, tokens: &[u32], wanted: Range<usize>);
    /// Waits for the logits of the last pass.
    fn read_logits(&mut self, out: &mut [f32]) -> Result<()>;
    /// The same, of one token: where they lie, or in `room`.
    fn logits<'a>(&'a mut self, room: &'a mut [f32]) -> Result<&'a [f32]> {
        self.read_logits(room)?;
        Ok(room)
    }
    /// The same without waiting: for a GPU in a browser, where nothing may.
    fn await_logits<'a>(&'a mut self, out: &'a mut [f32]) -> Later<'a, Result<()>> {
        Box::pin(std::future::ready(self.read_logits(out)))
    }
    /// Machines that find the likeliest tokens faster than they send all logits.
    fn likeliest(&mut self) -> Option<&mut dyn Likeliest> {
        None
    }
    /// Machines that choose the likeliest token by themselves.
    fn greedy(&mut self) -> Option<&mut dyn Greedy> {
        None
    }
    /// Where it computes: never [`Device::Auto`].
    fn device(&self) -> Device;
    /// One line for people.
    fn status(&self) -> String;
    fn kv_format(&self) -> KvFormat;
    fn exact(&self) -> bool;
    /// Keys and values, where they can be saved.
    fn caches(&self) -> Option<&[Cache]>;
    fn caches_mut(&mut self) -> Option<&mut [Cache]>;
}

/// A machine that sends the likeliest tokens behind the last pass, likeliest first, instead of all logits.
pub(super) trait Likeliest {
    /// How many it sends, if there are so many.
    fn most(&self) -> usize;
    /// Waits for them. Logits that are not numbers are an error.
    fn read(&mut self) -> Result<Vec<Candidate>>;
    /// The same without waiting.
    fn read_async(&mut self) -> Later<'_, Result<Vec<Candidate>>>;
}

/// A machine that feeds itself the likeliest token, again and again, and tells later which they were.
pub(super) trait Greedy {
    /// Starts passes for `count` tokens from `position` on, of which the first is `token` (`None`: the last that was
    /// found), and each other one the likeliest behind the one before. There is room for them.
    fn start(&mut self, position: usize, token: Option<u32>, count: usize) -> Result<()>;
    /// Waits for what the passes of the oldest start found: `count` ids, each the likeliest behind the token of its pass,
    /// or none where logits were not numbers.
    fn found(&mut self) -> Result<Vec<Option<u32>>>;
}

/// Starts what the options ask for.
pub(super) fn start(model: &Model, options: &SessionOptions, context: usize) -> Result<Box<dyn Engine>> {
    match options.device {
        Device::Cpu => OnCpu::start(model, options, context, ""),
        Device::Gpu => on_gpu::start(model, options, context, true),
        Device::Auto => on_gpu::start(model, options, context, false).or_else(|why| {
            OnCpu::start(model, options, context, &format!("; not on a GPU: {}", reason(why)))
        }),
    }
}

/// What an error says, but for the "GPU: " that those of a GPU begin with.
fn reason(why: Error) -> String {
    match why {
        Error::Gpu(message) => message,
        other => other.to_string(),
    }
}

/// Tokens that a GPU is tested with.
fn test_tokens(model: &Model) -> Vec<u32> {
    const MOST: usize = 5;
    let count = MOST.min(model.config().context).min(model.config().vocab);
    (0..count as u32).collect()
}

/// See [`Model::test_logits`].
pub(super) fn test_logits(model: &Model) -> Result<Vec<f32>> {
    let tokens = test_tokens(model);
    let options = SessionOptions { exact: true, context: Some(tokens.len()), ..Default::default() };
    let mut cpu = OnCpu::start(model, &options, tokens.len(), "")?;
    cpu.reserve(tokens.len())?;
    cpu.feed(0, &tokens, tokens.len() - 1..tokens.len());
    let mut logits = vec![0.0; model.config().vocab];
    cpu.read_logits(&mut logits)?;
    Ok(logits)
}

struct OnCpu {
    model: Model,
    backend: CpuBackend,
    state: State<CpuBackend>,
    threads: Threads,
    isa: Isa,
    remark: String,
}

impl OnCpu {
    fn start(
        model: &Model,
        options: &SessionOptions,
        context: usize,
        remark: &str,
    ) -> Result<Box<dyn Engine>> {
        let isa = options.isa.unwrap_or_else(Isa::detect);
        let backend = CpuBackend::new(isa, options.exact, options.kv_format());
        Ok(Box::new(Self {
            state: State::new(&backend, model.config(), context, chunk(context))?,
            backend,
            threads: Threads::new(options.threads)?,
            isa,
            remark: remark.into(),
            model: model.clone(),
        }))
    }
}

impl Engine for OnCpu {
    fn reserve(&mut self, positions: usize) -> Result<()> {
        self.state.reserve(&self.backend, positions)
    }

    fn hold_logits(&mut self, rows: usize) -> Result<()> {
        self.state.logits = self.backend.tensor(rows, self.model.config().vocab)?;
        Ok(())
    }

    fn feed(&mut self, position: usize, tokens: &[u32], wanted: Range<usize>) {
        let Self { model, backend, state, threads, .. } = self;
        state.position = position;
        threads.run(|| feed(backend, &model.0.weights, state, tokens, wanted));
    }

    fn read_logits(&mut self, out: &mut [f32]) -> Result<()> {
        self.backend.read(&self.state.logits, out)
    }

    fn logits<'a>(&'a mut self, room: &'a mut [f32]) -> Result<&'a [f32]> {
        Ok(self.state.logits.first(room.len()))
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn status(&self) -> String {
        format!("CPU, {}{}", self.isa.name(), self.remark)
    }

    fn kv_format(&self) -> KvFormat {
        self.backend.kv_format()
    }

    fn exact(&self) -> bool {
        self.backend.exact()
    }

    fn caches(&self) -> Option<&[Cache]> {
        Some(self.state.caches())
    }

    fn caches_mut(&mut self) -> Option<&mut [Cache]> {
        Some(self.state.caches_mut())
    }
}

/// A GPU that is not there.
#[cfg(not(feature = "gpu"))]
mod on_gpu {
    use super::*;

    pub(super) fn start(_: &Model, _: &SessionOptions, _: usize, _: bool) -> Result<Box<dyn Engine>> {
        Err(Error::Gpu("this program was built without (cargo build --features gpu)".into()))
    }
}
