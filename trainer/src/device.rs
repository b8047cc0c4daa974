//! Where a run computes: the CPU, or a GPU where the program was built for one (feature `gpu`).

use bonsai_runtime::Config;
use serde::Serialize;

use crate::backend::Backend;
use crate::config::RunConfig;
use crate::cpu::CpuBackend;
use crate::error::{Error, Result};
use crate::formats::{Compute, LatentFormat, StateFormat};
use crate::run::Watch;
use crate::timed::Timed;

#[cfg(feature = "gpu")]
use crate::{gpu::GpuBackend, loss};
#[cfg(not(feature = "gpu"))]
use bonsai_runtime::Error as RuntimeError;
#[cfg(feature = "gpu")]
use bonsai_runtime::ModelFile;
#[cfg(feature = "gpu")]
use bonsai_runtime::gpu::device::{Adapter, Gpu, GpuOptions};

/// Spellings of the setting `device`.
pub const NAMES: [&str; 3] = ["auto", "cpu", "gpu"];

/// Where a run computes.
pub enum Device {
    /// All cores.
    Cpu,
    /// A GPU, opened.
    #[cfg(feature = "gpu")]
    Gpu(Gpu),
}

/// What is done on a backend of any kind.
pub trait Work {
    /// What comes of it.
    type Output;

    /// Does it; `open` makes a backend for models of a shape, such as the run's or its teacher's.
    fn on<B: Backend>(self, open: impl Fn(&Config) -> Result<B>) -> Result<Self::Output>;
}

impl Device {
    /// Does a run's work on this device, on backends that measure their time.
    pub fn run<W: Work>(self, run: &RunConfig, work: W) -> Result<W::Output> {
        let (seq, compute) = (run.seq_len, run.compute);
        match self {
            Self::Cpu => work.on(|model| Ok(Timed::new(CpuBackend::new(model, seq).computing_in(compute)))),
            #[cfg(feature = "gpu")]
            Self::Gpu(gpu) => work.on(|model| GpuBackend::new(gpu.clone(), model, seq).map(Timed::new)),
        }
    }

    /// The same device once the student's shape is known, or under `auto` the CPU where the GPU's kernels do not know it or
    /// its teacher's.
    pub fn for_models(self, run: &RunConfig, student: &Config, watch: &Watch<'_>) -> Result<Self> {
        match self.check_models(run, student) {
            Err(error) if run.device == "auto" => {
                watch.say(&format!("training on the CPU after all ({error})"));
                Ok(Self::Cpu)
            }
            checked => checked.map(|()| self),
        }
    }

    #[cfg(feature = "gpu")]
    fn check_models(&self, run: &RunConfig, student: &Config) -> Result<()> {
        let Self::Gpu(gpu) = self else { return Ok(()) };
        GpuBackend::check_shape(gpu, student, run.seq_len)?;
        let Some(path) = loss::teacher_path(run)? else { return Ok(()) };
        GpuBackend::check_shape(gpu, &ModelFile::open(&path)?.config, run.seq_len)
    }

    #[cfg(not(feature = "gpu"))]
    fn check_models(&self, _: &RunConfig, _: &Config) -> Result<()> {
        Ok(())
    }

    /// The device that a run's setting means, one of [`NAMES`]. `gpu` is strict, and takes a program that does as a GPU
    /// where there is nothing else; `auto` takes only a real one that can do all that the run asks for, and says what it
    /// did.
    #[cfg(feature = "gpu")]
    pub fn choose(run: &RunConfig, watch: &Watch<'_>) -> Result<Self> {
        let wanted = run.device.as_str();
        let software = wanted == "gpu";
        if wanted == "cpu" {
            return Ok(Self::Cpu);
        }
        match check_gpu(run) {
            Err(error) if wanted == "gpu" => return Err(error),
            Err(error) => {
                watch.say(&format!("training on the CPU ({error})"));
                return Ok(Self::Cpu);
            }
            Ok(()) => (),
        }
        match Gpu::open(&GpuOptions { software, ..GpuOptions::default() }) {
            Ok(gpu) => {
                watch.say(&format!("training on the GPU: {}", gpu.adapter()));
                Ok(Self::Gpu(gpu))
            }
            Err(error) if wanted == "gpu" => Err(error.into()),
            Err(error) => {
                watch.say(&format!("training on the CPU ({error})"));
                Ok(Self::Cpu)
            }
        }
    }

    /// The device that a setting means: here the CPU, since this program was built without the feature `gpu`.
    #[cfg(not(feature = "gpu"))]
    pub fn choose(run: &RunConfig, _: &Watch<'_>) -> Result<Self> {
        match run.device.as_str() {
            "gpu" => Err(RuntimeError::Gpu(
                "this program was built without (cargo build --features gpu): use --device cpu".into(),
            )
            .into()),
            _ => Ok(Self::Cpu),
        }
    }
}

/// Refuses a run that asks for what a GPU cannot do.
pub fn check_gpu(run: &RunConfig) -> Result<()> {
    let asked = [
        (run.optimizer_state != StateFormat::F32, "8-bit optimizer state"),
        (run.latents != LatentFormat::F32, "latents in bf16"),
        (run.compute != Compute::F32, "products in bf16"),
        (run.hidden_weight > 0.0, "hidden_weight"),
        (!run.teacher_cache.as_os_str().is_empty(), "teacher_cache"),
    ];
    if let Some((_, missing)) = asked.into_iter().find(|(asked, _)| *asked) {
        return Err(Error::Config(format!("not there on a GPU yet: {missing}; use --device cpu")));
    }
    const TOKENS: usize = 1 << 19; // two losses of each have room in the tally
    let tokens = run.micro_batch() * run.seq_len;
    if tokens <= TOKENS {
        return Ok(());
    }
    Err(Error::Config(format!(
        "{tokens} tokens at a time, and a GPU takes {TOKENS}: set micro_batch, or use --device cpu"
    )))
}

/// Refuses a setting that means nothing.
pub fn check(wanted: &str) -> Result<()> {
    if NAMES.contains(&wanted) {
        return Ok(());
    }
    Err(Error::Config(format!("unknown device '{wanted}': expected {}", NAMES.join(", "))))
}

/// A device as `bonsai-trainer devices` lists it.
#[derive(Debug, Serialize)]
pub struct Listed {
    /// The setting that takes it.
    pub device: &'static str,
    /// Its name, kind and driver.
    pub name: String,
    /// Bytes of the largest buffer; 0 where that is no limit.
    pub largest_buffer: u64,
    /// Why it cannot be used, if it cannot.
    pub refused: Option<String>,
    /// What `auto` takes.
    pub auto: bool,
}

impl std::fmt::Display for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mark = if self.auto { "  <- auto" } else { "" };
        write!(f, "{:<4} {}{mark}", self.device, self.name)?;
        match (&self.refused, self.largest_buffer) {
            (Some(why), _) => write!(f, "\n     cannot be used: {why}"),
            (None, 0) => Ok(()),
            (None, bytes) => write!(f, "\n     buffers of up to {} MiB", bytes >> 20),
        }
    }
}

/// Every device of this machine, GPUs first.
pub fn list() -> Vec<Listed> {
    let mut all = gpus();
    let threads = rayon::current_num_threads();
    let name = format!("{threads} threads, {}", bonsai_runtime::cpu::isa::Isa::detect().name());
    let auto = !all.iter().any(|gpu| gpu.auto);
    all.push(Listed { device: "cpu", name, largest_buffer: 0, refused: None, auto });
    all
}

#[cfg(feature = "gpu")]
fn gpus() -> Vec<Listed> {
    let listed = |adapter: Adapter| Listed {
        device: "gpu",
        name: adapter.to_string(),
        largest_buffer: adapter.limits.buffer,
        auto: false,
        refused: adapter.refused,
    };
    let adapters = Gpu::adapters();
    let best = adapters.iter().position(|adapter| adapter.refused.is_none() && !adapter.software());
    let mut all: Vec<Listed> = adapters.into_iter().map(listed).collect();
    if let Some(best) = best {
        all[best].auto = true;
    }
    all
}

#[cfg(not(feature = "gpu"))]
fn gpus() -> Vec<Listed> {
    Vec::new()
}
