//! The one door to the GPU: no type of wgpu is seen outside this file and its folder.
//!
//! A [`Gpu`] records dispatches and hands them over when something is read back, when more than two kilobytes are written
//! to a buffer, or on [`Gpu::flush`]: a token is one submission, or part of one. Order of calls is order of effects.
//! Nothing here fails halfway: buffers and kernels are made with errors caught, and whatever goes wrong later, a lost
//! device included, spoils the [`Gpu`] for good. Dispatches then do nothing, and the next read or flush says why.

mod open;
mod read_back;
mod recorder;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytemuck::Pod;

use crate::error::{Error, Result};
use crate::gpu::shader::{Access, Shader};
use recorder::Recorder;

pub use open::{Adapter, GpuOptions};
pub use read_back::ReadBack;

/// Most bytes of the parameters of a dispatch.
pub const PARAMS_BYTES: usize = 256;
/// Buffers are this many bytes, or a multiple: kernels read vectors of four.
const GRAIN: u64 = 16;
/// Bytes on their way to the device at a time: what is uploaded is held twice meanwhile.
const UPLOAD: usize = 32 << 20;

/// A device with its queue. Cloning shares it; kernels and buffers belong to it.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    adapter: Adapter,
    /// Let the driver check every index, as browsers do.
    checked: bool,
    /// How long an answer may take.
    timeout: Duration,
    recorder: Mutex<Recorder>,
    kernels: Mutex<HashMap<String, Kernel>>,
    staging: Mutex<Vec<wgpu::Buffer>>,
    /// What went wrong first.
    fault: Arc<OnceLock<String>>,
    counters: Counters,
}

/// What kernels may count on. Every size that is not a number of bytes is a number of threads or groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a buffer.
    pub buffer: u64,
    /// Bytes of a binding: larger buffers are bound piece by piece.
    pub binding: u64,
    /// Bindings begin at multiples of this.
    pub alignment: u64,
    /// Storage buffers of a kernel.
    pub bindings: u32,
    /// Threads of a workgroup.
    pub threads: u32,
    /// Bytes that a workgroup shares.
    pub shared: u32,
    /// Workgroups along one dimension.
    pub groups: u32,
}

/// What a [`Gpu`] has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Kernels run.
    pub dispatches: u64,
    /// Batches of them handed over.
    pub submits: u64,
    /// Times that somebody asked for bytes.
    pub read_backs: u64,
    /// Bytes written to the device, parameters included.
    pub bytes_up: u64,
    /// Bytes read from it.
    pub bytes_down: u64,
    /// Bytes that kernels were bound to, each binding once and twice where it is written: what a dispatch moves if it
    /// touches all of its bindings and finds in a cache what it reads again. Not counted: copies, and what is cleared.
    pub bytes_bound: u64,
    /// Bytes of the buffers that there are.
    pub allocated: u64,
}

#[derive(Default)]
struct Counters {
    dispatches: AtomicU64,
    submits: AtomicU64,
    read_backs: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    bytes_bound: AtomicU64,
    allocated: AtomicU64,
    /// The last number that a buffer or kernel got.
    ids: AtomicU64,
}

/// Memory on the device, zeros at first. Cloning shares it.
#[derive(Clone)]
pub struct Buffer(Arc<BufferInner>);

struct BufferInner {
    raw: wgpu::Buffer,
    id: u64,
    gpu: Gpu,
}

/// A piece of a buffer.
#[derive(Clone)]
pub struct Binding<'a> {
    buffer: &'a Buffer,
    range: Range<u64>,
}

/// A compiled shader with its constants. Cloning shares it.
#[derive(Clone)]
pub struct Kernel(Arc<KernelInner>);

struct KernelInner {
    id: u64,
    name: &'static str,
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    bindings: &'static [Access],
}

impl Gpu {
    /// Opens the adapter that the options or `BONSAI_GPU_ADAPTER` name, or the best there is.
    #[cfg(not(target_family = "wasm"))]
    pub fn open(options: &GpuOptions) -> Result<Self> {
        now(open::open(options)).unwrap_or_else(|| Err(Error::Gpu("it did not open at once".into())))
    }

    /// The same in a browser.
    pub async fn open_async(options: &GpuOptions) -> Result<Self> {
        open::open(options).await
    }

    /// Every adapter of this machine, the one that [`Gpu::open`] takes first. Browsers show none.
    #[cfg(not(target_family = "wasm"))]
    pub fn adapters() -> Vec<Adapter> {
        now(open::adapters()).unwrap_or_default().into_iter().map(|(adapter, _)| adapter).collect()
    }

    /// What this device is.
    pub fn adapter(&self) -> &Adapter {
        &self.0.adapter
    }

    /// What kernels may count on.
    pub fn limits(&self) -> Limits {
        self.0.adapter.limits
    }

    /// One line for people: the adapter, what of it is used, and how kernels are compiled for it.
    pub fn status(&self) -> String {
        let checks = if self.0.checked { "indices checked" } else { "indices unchecked" };
        let subgroups = match self.0.adapter.subgroups {
            Some([least, most]) if least < most => format!("subgroups of {least} to {most}"),
            Some([size, _]) => format!("subgroups of {size}"),
            None => "no subgroups".into(),
        };
        format!("{}; {subgroups}, f16 as storage only, {checks}", self.0.adapter)
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        let c = &self.0.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            dispatches: get(&c.dispatches),
            submits: get(&c.submits),
            read_backs: get(&c.read_backs),
            bytes_up: get(&c.bytes_up),
            bytes_down: get(&c.bytes_down),
            bytes_bound: get(&c.bytes_bound),
            allocated: get(&c.allocated),
        }
    }

    /// A buffer of zeros, at least `bytes` long.
    pub fn buffer(&self, bytes: usize) -> Result<Buffer> {
        let size = (bytes as u64).max(1).next_multiple_of(GRAIN);
        let limit = self.limits().buffer;
        if size > limit {
            return Err(Error::Memory(format!(
                "{} MiB for a buffer, and {} makes none above {} MiB",
                size >> 20,
                self.0.adapter.name,
                limit >> 20
            )));
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let raw = self.scoped("a buffer", || {
            self.0.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size,
                usage,
                mapped_at_creation: false,
            })
        })?;
        self.0.counters.allocated.fetch_add(size, Ordering::Relaxed);
        Ok(Buffer(Arc::new(BufferInner { raw, id: self.id(), gpu: self.clone() })))
    }

    /// A buffer that holds `values`.
    pub fn buffer_of<T: Pod>(&self, values: &[T]) -> Result<Buffer> {
        let buffer = self.buffer(size_of_val(values))?;
        self.upload(&buffer, 0, values);
        Ok(buffer)
    }

    /// Writes `values` from byte `offset` on; offset and length are multiples of 4. What was recorded before sees
    /// what was there before.
    pub fn upload<T: Pod>(&self, to: &Buffer, offset: u64, values: &[T]) {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        assert!(offset + bytes.len() as u64 <= to.bytes(), "{} bytes at {offset}: too many", bytes.len());
        let mut recorder = self.recorder();
        if recorder.write(bytes, &to.0.raw, offset) {
            return;
        }
        recorder.submit(&self.0); // a write overtakes what is only recorded
        for (n, piece) in bytes.chunks(UPLOAD).enumerate() {
            self.0.queue.write_buffer(&to.0.raw, offset + (n * UPLOAD) as u64, piece);
            if bytes.len() > UPLOAD {
                let done = self.0.queue.submit([]);
                self.0.wait(done);
            }
        }
        self.0.counters.bytes_up.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }

    /// Copies `from` to byte `offset` of another buffer. Multiples of 4.
    pub fn copy(&self, from: Binding, to: &Buffer, offset: u64) {
        assert!(offset + from.bytes() <= to.bytes(), "{} bytes at {offset}: too many", from.bytes());
        self.recorder().copy(&self.0, from, &to.0.raw, offset);
    }

    /// Fills a piece of a buffer with zeros.
    pub fn clear(&self, piece: Binding) {
        self.recorder().clear(&self.0, piece);
    }

    /// The kernel of a shader whose `override` constants have these values; those not named have their defaults. Made
    /// once, then remembered.
    pub fn kernel(&self, shader: &Shader, constants: &[(&str, f64)]) -> Result<Kernel> {
        let key = format!("{} {constants:?}", shader.name);
        let mut kernels = lock(&self.0.kernels);
        if let Some(kernel) = kernels.get(&key) {
            return Ok(kernel.clone());
        }
        let kernel = self.compile(shader, constants)?;
        kernels.insert(key, kernel.clone());
        Ok(kernel)
    }

    fn compile(&self, shader: &Shader, constants: &[(&str, f64)]) -> Result<Kernel> {
        let device = &self.0.device;
        self.scoped(&format!("the kernel {}", shader.name), || {
            let label = Some(shader.name);
            let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label,
                entries: &storage_entries(shader.bindings),
            });
            let params = lock(&self.0.recorder).params_layout.clone();
            let both = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label,
                bind_group_layouts: &[Some(&layout), Some(&params)],
                immediate_size: 0,
            });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label,
                layout: Some(&both),
                module: &self.module(shader),
                entry_point: None,
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants,
                    zero_initialize_workgroup_memory: self.0.checked,
                },
                cache: None,
            });
            let (name, bindings) = (shader.name, shader.bindings);
            Kernel(Arc::new(KernelInner { id: self.id(), name, pipeline, layout, bindings }))
        })
    }

    fn module(&self, shader: &Shader) -> wgpu::ShaderModule {
        let text = wgpu::ShaderSource::Wgsl(shader.text().into());
        let descriptor = wgpu::ShaderModuleDescriptor { label: Some(shader.name), source: text };
        if self.0.checked {
            return self.0.device.create_shader_module(descriptor);
        }
        let checks = wgpu::ShaderRuntimeChecks::unchecked();
        #[expect(
            unsafe_code,
            reason = "shaders without bounds checks, as llama.cpp has them: they are all ours"
        )]
        // SAFETY: shaders come from this repository only. They index within the sizes that their callers pass, and
        // every loop ends: the tests run each with and without checks and compare.
        unsafe {
            self.0.device.create_shader_module_trusted(descriptor, checks)
        }
    }

    /// Records a dispatch of `groups` workgroups. Bindings are those of the shader, in its order; `params` is its
    /// uniform struct. An empty grid does nothing.
    pub fn run<P: Pod>(&self, kernel: &Kernel, bindings: &[Binding], params: &P, groups: [u32; 3]) {
        assert_eq!(bindings.len(), kernel.0.bindings.len(), "bindings of {}", kernel.0.name);
        assert!(size_of::<P>() <= PARAMS_BYTES, "parameters of {}", kernel.0.name);
        let limit = self.limits().groups;
        assert!(groups.iter().all(|&n| n <= limit), "{}: a grid of {groups:?}", kernel.0.name);
        if self.0.fault.get().is_none() && !groups.contains(&0) {
            self.recorder().dispatch(&self.0, kernel, bindings, bytemuck::bytes_of(params), groups);
        }
    }

    /// A grid of at least `n` workgroups in two dimensions, for kernels that number them by `group_index` of the
    /// prelude and leave those beyond the last alone.
    pub fn grid(&self, n: usize) -> [u32; 3] {
        let wide = n.min(self.limits().groups as usize);
        [wide as u32, n.div_ceil(wide.max(1)) as u32, 1]
    }

    /// Waits for what awaits this device: in a browser nothing may.
    #[cfg(not(target_family = "wasm"))]
    pub fn block_on<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        let mut future = std::pin::pin!(future);
        loop {
            if let Some(result) = now(future.as_mut()) {
                return result;
            }
            self.finish()?; // what it waits for is done then, or another thread is about to say so
            std::thread::yield_now();
        }
    }

    /// Hands over what was recorded, without waiting.
    pub fn flush(&self) -> Result<()> {
        self.recorder().submit(&self.0);
        self.0.sound()
    }

    /// Hands over what was recorded and waits until all is done.
    #[cfg(not(target_family = "wasm"))]
    pub fn finish(&self) -> Result<()> {
        self.flush()?;
        let done = self.0.queue.submit([]);
        self.0.wait(done);
        self.0.sound()
    }

    /// Asks for the bytes of a piece of a buffer, as they are after everything recorded so far, which is handed over.
    pub fn begin_read(&self, from: Binding) -> Result<ReadBack> {
        self.0.sound()?;
        ReadBack::begin(self, from)
    }

    /// Reads values from the start of a piece of a buffer, and waits for them: not in a browser, where nothing may block.
    pub fn read<T: Pod>(&self, from: Binding, out: &mut [T]) -> Result<()> {
        let bytes = size_of_val(out) as u64;
        assert!(bytes <= from.bytes(), "{bytes} bytes of {}", from.bytes());
        let from = Binding { range: from.range.start..from.range.start + bytes, ..from };
        self.begin_read(from)?.wait(bytemuck::cast_slice_mut(out))
    }

    /// The same without waiting.
    pub async fn read_async<T: Pod>(&self, from: Binding<'_>, out: &mut [T]) -> Result<()> {
        let bytes = size_of_val(out) as u64;
        assert!(bytes <= from.bytes(), "{bytes} bytes of {}", from.bytes());
        let from = Binding { range: from.range.start..from.range.start + bytes, ..from };
        let read = self.begin_read(from)?.await?;
        bytemuck::cast_slice_mut(out).copy_from_slice(&read);
        Ok(())
    }

    /// Ends the device, as a driver that crashes would: for tests.
    pub fn destroy(&self) {
        self.0.device.destroy();
    }

    fn id(&self) -> u64 {
        self.0.counters.ids.fetch_add(1, Ordering::Relaxed)
    }

    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        lock(&self.0.recorder)
    }

    /// Makes something and catches what the device has to say about it.
    fn scoped<T>(&self, what: &str, make: impl FnOnce() -> T) -> Result<T> {
        self.0.sound()?;
        if cfg!(target_family = "wasm") {
            return Ok(make()); // a browser answers later: its errors spoil the device
        }
        let scopes =
            [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Internal]
                .map(|filter| self.0.device.push_error_scope(filter));
        let made = make();
        let errors = scopes.into_iter().rev().filter_map(|scope| now(scope.pop()).flatten());
        match errors.fold(None, |first, error| first.or(Some(error))) {
            None => Ok(made),
            Some(wgpu::Error::OutOfMemory { .. }) => {
                Err(Error::Memory(format!("{what} on {}", self.adapter().name)))
            }
            Some(error) => Err(Error::Gpu(format!("{what}: {error}"))),
        }
    }
}

impl Inner {
    /// Whether nothing has gone wrong yet.
    fn sound(&self) -> Result<()> {
        let _ = self.device.poll(wgpu::PollType::Poll); // only then a lost device says so
        match self.fault.get() {
            None => Ok(()),
            Some(fault) => Err(Error::Gpu(fault.clone())),
        }
    }

    /// The only place that blocks: until a submission is done. In a browser nothing may block, and this does nothing.
    fn wait(&self, submission: wgpu::SubmissionIndex) {
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: Some(self.timeout) };
        if let Err(error) = self.device.poll(wait) {
            let _ = self.fault.set(format!("no answer within {} s: {error}", self.timeout.as_secs()));
        }
    }
}

impl Buffer {
    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.0.raw.size()
    }

    /// All of it.
    pub fn all(&self) -> Binding<'_> {
        self.slice(0..self.bytes())
    }

    /// Bytes `range` of it. To be bound, it must begin at a multiple of [`Limits::alignment`].
    pub fn slice(&self, range: Range<u64>) -> Binding<'_> {
        assert!(range.start <= range.end && range.end <= self.bytes(), "bytes {range:?} of {}", self.bytes());
        Binding { buffer: self, range }
    }
}

impl Drop for BufferInner {
    fn drop(&mut self) {
        let Inner { recorder, counters, .. } = &*self.gpu.0;
        counters.allocated.fetch_sub(self.raw.size(), Ordering::Relaxed);
        lock(recorder).forget(self.id);
    }
}

impl Binding<'_> {
    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

fn storage_entries(bindings: &[Access]) -> Vec<wgpu::BindGroupLayoutEntry> {
    let entry = |(n, access): (usize, &Access)| wgpu::BindGroupLayoutEntry {
        binding: n as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only: *access == Access::Read },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    bindings.iter().enumerate().map(entry).collect()
}

/// The result of a future that is ready at once, as those of wgpu are outside of browsers.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    let future = std::pin::pin!(future);
    match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

/// Locks, also behind a thread that panicked: what the locks guard is whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
