//! Which adapter, and what it must be able to do.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::recorder::Recorder;
use super::{Gpu, Inner, Limits};
use crate::error::{Error, Result};

/// How to open a [`Gpu`]. The default suits most.
#[derive(Debug, Clone)]
pub struct GpuOptions {
    /// A part of the adapter's name, in any case. `None`: the environment variable `BONSAI_GPU_ADAPTER`, or the best.
    pub adapter: Option<String>,
    /// Whether an adapter will do that is a program on the CPU: right, but slower than the CPU itself.
    pub software: bool,
    /// Let the driver check every index of every kernel, as browsers do. Slower.
    pub checked: bool,
    /// A device that does not answer for so long is given up.
    pub timeout: Duration,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self { adapter: None, software: true, checked: false, timeout: Duration::from_secs(300) }
    }
}

/// An adapter: a GPU with a driver, or a program that does as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// Its name, as the driver says it.
    pub name: String,
    /// Vulkan, Metal, Dx12 or BrowserWebGpu.
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
    /// discrete, integrated, virtual, software or unknown.
    pub kind: &'static str,
    /// What it offers.
    pub limits: Limits,
    /// The smallest and the largest number of threads that it lets compute together, if it does.
    pub subgroups: Option<[u32; 2]>,
    /// Why it cannot be used, if it cannot.
    pub refused: Option<String>,
}

impl Adapter {
    /// Whether it is a program on the CPU.
    pub fn software(&self) -> bool {
        self.kind == KINDS[4].1
    }

    fn new(adapter: &wgpu::Adapter) -> Self {
        let (info, limits) = (adapter.get_info(), adapter.limits());
        let limits = Limits {
            buffer: limits.max_buffer_size,
            binding: limits.max_storage_buffer_binding_size,
            alignment: u64::from(limits.min_storage_buffer_offset_alignment),
            bindings: limits.max_storage_buffers_per_shader_stage,
            threads: limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x),
            shared: limits.max_compute_workgroup_storage_size,
            groups: limits.max_compute_workgroups_per_dimension,
        };
        Self {
            subgroups: subgroups(adapter, &info),
            name: if info.name.is_empty() { "a GPU without a name".into() } else { info.name }, // browsers hide it
            backend: format!("{:?}", info.backend),
            driver: [info.driver, info.driver_info].join(" ").trim().to_string(),
            kind: KINDS[rank(info.device_type)].1,
            limits,
            refused: refused(&limits),
        }
    }
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} ({}, {}, {})", self.name, self.kind, self.backend, self.driver)
    }
}

/// See [`Adapter::subgroups`]. Browsers are not asked: wgpu cannot switch subgroups on there.
fn subgroups(adapter: &wgpu::Adapter, info: &wgpu::AdapterInfo) -> Option<[u32; 2]> {
    let has = adapter.features().contains(wgpu::Features::SUBGROUP) && !cfg!(target_family = "wasm");
    has.then_some([info.subgroup_min_size, info.subgroup_max_size])
}

/// Best first.
const KINDS: [(wgpu::DeviceType, &str); 5] = [
    (wgpu::DeviceType::DiscreteGpu, "discrete"),
    (wgpu::DeviceType::IntegratedGpu, "integrated"),
    (wgpu::DeviceType::VirtualGpu, "virtual"),
    (wgpu::DeviceType::Other, "unknown"),
    (wgpu::DeviceType::Cpu, "software"),
];

fn rank(kind: wgpu::DeviceType) -> usize {
    KINDS.iter().position(|(known, _)| *known == kind).unwrap_or(3)
}

/// What every kernel counts on: the least that WebGPU promises.
fn refused(limits: &Limits) -> Option<String> {
    let too_few =
        |what, has: u32, needs: u32| (has < needs).then(|| format!("{what}: {has}, needed {needs}"));
    too_few("storage buffers", limits.bindings, 8)
        .or_else(|| too_few("threads of a workgroup", limits.threads, 256))
        .or_else(|| too_few("bytes of workgroup memory", limits.shared, 16 << 10))
        .or_else(|| too_few("MiB of a binding", (limits.binding >> 20).min(128) as u32, 128))
}

fn instance() -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::PRIMARY,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    })
}

/// Every adapter, the best first. A browser has one, and says little about it.
pub(super) async fn adapters() -> Vec<(Adapter, wgpu::Adapter)> {
    let instance = instance();
    let mut found = if cfg!(target_family = "wasm") {
        let options = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        };
        instance.request_adapter(&options).await.into_iter().collect()
    } else {
        instance.enumerate_adapters(wgpu::Backends::PRIMARY).await
    };
    found.sort_by_key(|adapter| rank(adapter.get_info().device_type));
    found.into_iter().map(|raw| (Adapter::new(&raw), raw)).collect()
}

/// See [`Gpu::open`].
pub(super) async fn open(options: &GpuOptions) -> Result<Gpu> {
    let wanted = options.adapter.clone().or_else(|| std::env::var("BONSAI_GPU_ADAPTER").ok());
    let (adapter, raw) = choose(adapters().await, wanted.as_deref(), options.software)?;
    let (device, queue) = raw
        .request_device(&wgpu::DeviceDescriptor {
            label: Some("bonsai"),
            required_features: raw.features() & wgpu::Features::SUBGROUP,
            required_limits: raw.limits(),
            ..Default::default()
        })
        .await
        .map_err(|error| Error::Gpu(format!("{}: {error}", adapter.name)))?;
    let fault = Arc::new(OnceLock::new());
    watch(&device, &fault);
    Ok(Gpu(Arc::new(Inner {
        recorder: Mutex::new(Recorder::new(&device)),
        device,
        queue,
        adapter,
        checked: options.checked || cfg!(target_family = "wasm"),
        timeout: options.timeout,
        kernels: Mutex::default(),
        staging: Mutex::default(),
        fault,
        counters: Default::default(),
    })))
}

/// The first adapter that can be used and has `wanted` in its name.
fn choose(
    adapters: Vec<(Adapter, wgpu::Adapter)>,
    wanted: Option<&str>,
    software: bool,
) -> Result<(Adapter, wgpu::Adapter)> {
    let mut passed_over = Vec::new();
    for (adapter, raw) in adapters {
        let named = wanted.map(|part| adapter.name.to_lowercase().contains(&part.to_lowercase()));
        let why = match (&adapter.refused, named) {
            (Some(why), _) => why.clone(),
            (None, Some(false)) => format!("is not called '{}'", wanted.unwrap_or_default()),
            (None, None) if adapter.software() && !software => "is a program on the CPU".into(),
            _ => return Ok((adapter, raw)),
        };
        passed_over.push(format!("{}: {why}", adapter.name));
    }
    if passed_over.is_empty() {
        passed_over.push("no adapter found: is a driver for Vulkan, Metal or Direct3D 12 installed?".into());
    }
    Err(Error::Gpu(format!("no GPU that can be used ({})", passed_over.join("; "))))
}

/// Keeps the first thing that goes wrong with a device.
fn watch(device: &wgpu::Device, fault: &Arc<OnceLock<String>>) {
    let first = fault.clone();
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        let _ = first.set(error.to_string());
    }));
    let first = fault.clone();
    device.set_device_lost_callback(move |reason, message| {
        let _ = first.set(format!("the device was lost ({reason:?}) {message}").trim().to_string());
    });
}
