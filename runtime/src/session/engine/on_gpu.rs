//! A conversation on a GPU.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use super::{Engine, Greedy, Later, Likeliest, test_tokens};
use crate::backend::Backend;
use crate::cpu::{Cache, KvFormat};
use crate::error::{Error, Result};
use crate::gpu::device::{Buffer, Gpu, GpuOptions, ReadBack};
use crate::gpu::ways::Ways;
use crate::gpu::{GpuBackend, LIKELIEST, NO_TOKEN, choices, keeps_subnormal_halves, likeliest};
use crate::model::{State, Weights, feed, forward};
use crate::sampler::Candidate;
use crate::session::ahead::MOST_AHEAD;
use crate::session::{Device, Model, SessionOptions, chunk};

/// Starts on a GPU; `software` also takes a program that plays one.
pub(super) fn start(
    model: &Model,
    options: &SessionOptions,
    context: usize,
    software: bool,
) -> Result<Box<dyn Engine>> {
    let kv = options.kv.unwrap_or(KvFormat::F16);
    let on_gpu = OnGpu::of(model, software)?;
    #[cfg(not(target_family = "wasm"))]
    if kv == KvFormat::Int8 {
        on_gpu.test_int8(model)?;
    }
    Ok(Box::new(GpuEngine::new(on_gpu, model, context, kv)?))
}

/// A model on a GPU: sessions share the weights.
pub(in crate::session) struct OnGpu {
    gpu: Gpu,
    ways: Ways,
    /// Whether its kernels for int8 keys and values have passed the test.
    #[cfg(not(target_family = "wasm"))]
    int8: std::sync::atomic::AtomicBool,
    weights: Weights<GpuBackend>,
}

/// The largest normalised mean square error of a GPU's logits against f32 on the CPU: f16 keys and values cost about 1e-7,
/// rounded ones up to 1e-3 where heads are narrow, a wrong kernel more than 1e-1.
fn bound(kv: KvFormat) -> f64 {
    if kv == KvFormat::Int8 { 1e-2 } else { 1e-4 }
}

impl OnGpu {
    /// The model on the best GPU: uploaded and tested the first time.
    #[cfg(not(target_family = "wasm"))]
    fn of(model: &Model, software: bool) -> Result<Arc<Self>> {
        if let Some(there) = Self::there(model).filter(|on_gpu| on_gpu.gpu.flush().is_ok()) {
            return Ok(there);
        }
        let gpu = Gpu::open(&GpuOptions { software, ..Default::default() })?;
        gpu.block_on(Self::new(gpu.clone(), model, &super::test_logits(model)?))
    }

    /// The model on the GPU that [`Model::open_gpu`] opened.
    #[cfg(target_family = "wasm")]
    fn of(model: &Model, _: bool) -> Result<Arc<Self>> {
        let closed = || Error::Argument("a GPU in a browser: open it first".into());
        let there = Self::there(model).ok_or_else(closed)?;
        there.gpu.flush().map(|()| there) // unless it was lost
    }

    /// See [`Model::open_gpu`].
    pub async fn open_async(model: &Model, software: bool, expected: &[f32]) -> Result<()> {
        let gpu = Gpu::open_async(&GpuOptions { software, ..Default::default() }).await?;
        Self::new(gpu, model, expected).await.map(drop)
    }

    /// See [`Model::gpu`].
    pub fn gpu(model: &Model) -> Option<Gpu> {
        Self::there(model).map(|on_gpu| on_gpu.gpu.clone())
    }

    /// What was opened before.
    fn there(model: &Model) -> Option<Arc<Self>> {
        model.0.on_gpu.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Uploads a model and tests it. From then on it is there.
    async fn new(gpu: Gpu, model: &Model, expected: &[f32]) -> Result<Arc<Self>> {
        let ways = choices::ways(&gpu, keeps_subnormal_halves(&gpu).await?);
        let backend = &mut GpuBackend::with(&gpu, 1, 1, ways.clone(), KvFormat::F16)?;
        let weights = Weights::new(backend, &model.0.file)?;
        let on_gpu = Arc::new(Self {
            weights,
            gpu,
            ways,
            #[cfg(not(target_family = "wasm"))]
            int8: false.into(),
        });
        Self::test(&on_gpu, model, KvFormat::F16, expected).await?;
        *model.0.on_gpu.lock().unwrap_or_else(PoisonError::into_inner) = Some(on_gpu.clone());
        Ok(on_gpu)
    }

    /// Tests the kernels for int8 keys and values, once. Not in a browser, where nothing may wait.
    #[cfg(not(target_family = "wasm"))]
    fn test_int8(self: &Arc<Self>, model: &Model) -> Result<()> {
        use std::sync::atomic::Ordering;
        if !self.int8.load(Ordering::Relaxed) {
            let expected = super::test_logits(model)?;
            self.gpu.block_on(Self::test(self, model, KvFormat::Int8, &expected))?;
            self.int8.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Compares a few tokens, one by one and together, with what the CPU found.
    async fn test(on_gpu: &Arc<Self>, model: &Model, kv: KvFormat, expected: &[f32]) -> Result<()> {
        let tokens = test_tokens(model);
        let (count, vocab) = (tokens.len(), model.config().vocab);
        if expected.len() != vocab {
            return Err(Error::Argument(format!("{} logits to compare with, not {vocab}", expected.len())));
        }
        let mut gpu = GpuEngine::new(on_gpu.clone(), model, count, kv)?;
        let (together, single) = (&mut vec![0.0; vocab], &mut vec![0.0; vocab]);
        gpu.feed(0, &tokens, count - 1..count);
        gpu.await_logits(together).await?;
        for (position, token) in tokens.iter().enumerate() {
            gpu.feed(position, std::slice::from_ref(token), 0..1);
        }
        gpu.await_logits(single).await?;
        if expected.iter().any(|x| x.is_nan()) {
            return Err(Error::not_numbers());
        }
        let (error, bound) = (nmse(together, expected).max(nmse(single, expected)), bound(kv));
        if error > bound {
            let name = &on_gpu.gpu.adapter().name;
            return Err(Error::Gpu(format!(
                "{name} computes something else than the CPU (normalised mean square error {error:.1e}, at most {bound:.0e} is right)"
            )));
        }
        Ok(())
    }
}

/// Mean square of the differences over that of what is right; infinite if something is not a number.
pub(crate) fn nmse(got: &[f32], exact: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = got.iter().zip(exact).map(|(got, exact)| square(got - exact)).sum();
    let nmse = error / exact.iter().map(|&x| square(x)).sum::<f64>().max(f64::MIN_POSITIVE);
    if nmse.is_nan() { f64::INFINITY } else { nmse }
}

struct GpuEngine {
    on_gpu: Arc<OnGpu>,
    backend: GpuBackend,
    state: State<GpuBackend>,
    /// Ids that the passes of a start of [`Greedy`] found, one behind the other.
    found: Buffer,
    /// The same on their way back, and how many.
    under_way: VecDeque<(ReadBack, usize)>,
}

impl GpuEngine {
    fn new(on_gpu: Arc<OnGpu>, model: &Model, context: usize, kv: KvFormat) -> Result<Self> {
        let (config, tokens) = (model.config(), chunk(context));
        let backend = GpuBackend::with(&on_gpu.gpu, tokens, config.hidden, on_gpu.ways.clone(), kv)?;
        let state = State::new(&backend, config, context, tokens)?;
        let found = on_gpu.gpu.buffer(4 * MOST_AHEAD)?;
        Ok(Self { state, backend, on_gpu, found, under_way: VecDeque::new() })
    }
}

impl Engine for GpuEngine {
    fn reserve(&mut self, positions: usize) -> Result<()> {
        self.state.reserve(&self.backend, positions)
    }

    fn hold_logits(&mut self, rows: usize) -> Result<()> {
        self.state.logits = self.backend.tensor(rows, self.on_gpu.weights.config.vocab)?;
        Ok(())
    }

    fn feed(&mut self, position: usize, tokens: &[u32], wanted: Range<usize>) {
        self.state.position = position;
        feed(&mut self.backend, &self.on_gpu.weights, &mut self.state, tokens, wanted);
    }

    fn read_logits(&mut self, out: &mut [f32]) -> Result<()> {
        self.backend.read(&self.state.logits, out)
    }

    fn await_logits<'a>(&'a mut self, out: &'a mut [f32]) -> Later<'a, Result<()>> {
        Box::pin(self.backend.read_async(&self.state.logits, out))
    }

    fn likeliest(&mut self) -> Option<&mut dyn Likeliest> {
        Some(self)
    }

    fn greedy(&mut self) -> Option<&mut dyn Greedy> {
        Some(self)
    }

    fn device(&self) -> Device {
        Device::Gpu
    }

    fn status(&self) -> String {
        let chosen =
            if self.on_gpu.ways.chosen.is_empty() { "portable kernels" } else { "kernels tuned for it" };
        format!("GPU, {}; {chosen}, KV cache {}", self.on_gpu.gpu.status(), self.kv_format().name())
    }

    fn kv_format(&self) -> KvFormat {
        self.backend.kv_format()
    }

    fn exact(&self) -> bool {
        false
    }

    fn caches(&self) -> Option<&[Cache]> {
        None
    }

    fn caches_mut(&mut self) -> Option<&mut [Cache]> {
        None
    }
}

impl Likeliest for GpuEngine {
    fn most(&self) -> usize {
        LIKELIEST
    }

    fn read(&mut self) -> Result<Vec<Candidate>> {
        let mut pairs = vec![0; 8 * LIKELIEST.min(self.on_gpu.weights.config.vocab)];
        self.backend.begin_likeliest(&self.state.logits)?.wait(&mut pairs)?;
        likeliest(&pairs)
    }

    fn read_async(&mut self) -> Later<'_, Result<Vec<Candidate>>> {
        let read = self.backend.begin_likeliest(&self.state.logits);
        Box::pin(async { likeliest(&read?.await?) })
    }
}

impl Greedy for GpuEngine {
    fn start(&mut self, position: usize, token: Option<u32>, count: usize) -> Result<()> {
        let Self { on_gpu, backend, state, found, under_way } = self;
        if let Some(id) = token {
            under_way.clear();
            backend.write_tokens(&mut state.tokens, &[id]);
        }
        state.position = position;
        for place in 0..count {
            forward(backend, &on_gpu.weights, state, 1, 0..1);
            backend.argmax(&mut state.tokens, found, place, &state.logits);
        }
        let read = on_gpu.gpu.begin_read(found.slice(0..4 * count as u64))?;
        under_way.push_back((read, count));
        Ok(())
    }

    fn found(&mut self) -> Result<Vec<Option<u32>>> {
        let (read, count) = self.under_way.pop_front().expect("passes were started");
        let mut ids = vec![0u32; count];
        read.wait(bytemuck::cast_slice_mut(&mut ids))?;
        Ok(ids.into_iter().map(|id| (id != NO_TOKEN).then_some(id)).collect())
    }
}
