//! A conversation on a GPU.

use std::ops::Range;
use std::sync::{Arc, PoisonError};

use super::{Engine, Later, test_tokens};
use crate::backend::Backend;
use crate::cpu::{Cache, KvFormat};
use crate::error::{Error, Result};
use crate::gpu::device::{Gpu, GpuOptions};
use crate::gpu::{GpuBackend, keeps_subnormal_halves};
use crate::model::{State, Weights, forward};
use crate::session::{Device, Model, SessionOptions, chunk};

/// Starts on a GPU; `software` also takes a program that plays one.
pub(super) fn start(
    model: &Model,
    options: &SessionOptions,
    context: usize,
    software: bool,
) -> Result<Box<dyn Engine>> {
    if options.kv.is_some_and(|kv| kv != KvFormat::F16) {
        return Err(Error::Unsupported("keys and values other than f16 on a GPU".into()));
    }
    let on_gpu = OnGpu::of(model, software)?;
    Ok(Box::new(GpuEngine::new(on_gpu, model, context)?))
}

/// A model on a GPU: sessions share the weights.
pub(in crate::session) struct OnGpu {
    gpu: Gpu,
    /// See [`keeps_subnormal_halves`].
    halves: bool,
    weights: Weights<GpuBackend>,
}

/// The largest normalised mean square error of a GPU's logits against f32 on the CPU: f16 keys and values cost about 1e-7,
/// a wrong kernel more than 1e-2.
const BOUND: f64 = 1e-4;

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

    /// What was opened before.
    fn there(model: &Model) -> Option<Arc<Self>> {
        model.0.on_gpu.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Uploads a model and tests it. From then on it is there.
    async fn new(gpu: Gpu, model: &Model, expected: &[f32]) -> Result<Arc<Self>> {
        let halves = keeps_subnormal_halves(&gpu).await?;
        let backend = &mut GpuBackend::with(&gpu, 1, 1, halves)?;
        let on_gpu = Arc::new(Self { weights: Weights::new(backend, &model.0.file)?, gpu, halves });
        Self::test(&on_gpu, model, expected).await?;
        *model.0.on_gpu.lock().unwrap_or_else(PoisonError::into_inner) = Some(on_gpu.clone());
        Ok(on_gpu)
    }

    /// Compares a few tokens, one by one and together, with what the CPU found.
    async fn test(on_gpu: &Arc<Self>, model: &Model, expected: &[f32]) -> Result<()> {
        let tokens = test_tokens(model);
        let (count, vocab) = (tokens.len(), model.config().vocab);
        if expected.len() != vocab {
            return Err(Error::Argument(format!("{} logits to compare with, not {vocab}", expected.len())));
        }
        let mut gpu = GpuEngine::new(on_gpu.clone(), model, count)?;
        let (together, single) = (&mut vec![0.0; vocab], &mut vec![0.0; vocab]);
        gpu.feed(0, &tokens, count - 1..count);
        gpu.await_logits(together).await?;
        for (position, token) in tokens.iter().enumerate() {
            gpu.feed(position, std::slice::from_ref(token), 0..1);
        }
        gpu.await_logits(single).await?;
        let error = [together, single].map(|got| nmse(got, expected)).into_iter().fold(0.0, f64::max);
        if error.is_nan() || error > BOUND {
            let name = &on_gpu.gpu.adapter().name;
            return Err(Error::Gpu(format!(
                "{name} computes something else than the CPU (normalised mean square error {error:.1e}, at most {BOUND:.0e} is right)"
            )));
        }
        Ok(())
    }
}

/// Mean square of the differences over that of what is right.
fn nmse(got: &[f32], exact: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = got.iter().zip(exact).map(|(got, exact)| square(got - exact)).sum();
    error / exact.iter().map(|&x| square(x)).sum::<f64>().max(f64::MIN_POSITIVE)
}

struct GpuEngine {
    on_gpu: Arc<OnGpu>,
    backend: GpuBackend,
    state: State<GpuBackend>,
}

impl GpuEngine {
    fn new(on_gpu: Arc<OnGpu>, model: &Model, context: usize) -> Result<Self> {
        let (config, tokens) = (model.config(), chunk(context));
        let backend = GpuBackend::with(&on_gpu.gpu, tokens, config.hidden, on_gpu.halves)?;
        Ok(Self { state: State::new(&backend, config, context, tokens)?, backend, on_gpu })
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
        forward(&mut self.backend, &self.on_gpu.weights, &mut self.state, tokens, wanted);
    }

    fn read_logits(&mut self, out: &mut [f32]) -> Result<()> {
        self.backend.read(&self.state.logits, out)
    }

    fn await_logits<'a>(&'a mut self, out: &'a mut [f32]) -> Later<'a, Result<()>> {
        Box::pin(self.backend.read_async(&self.state.logits, out))
    }

    fn device(&self) -> Device {
        Device::Gpu
    }

    fn status(&self) -> String {
        format!("GPU, {}", self.on_gpu.gpu.status())
    }

    fn kv_format(&self) -> KvFormat {
        KvFormat::F16
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
