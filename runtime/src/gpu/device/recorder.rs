//! What was recorded and not handed over yet: one encoder, one compute pass, the parameters of its dispatches.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use super::{Access, Binding, Inner, Kernel, PARAMS_BYTES};

/// Dispatches with different parameters in a batch; a full batch is handed over.
const SLOTS: usize = 1024;
/// So many of the last parameters are looked through for equal ones: layers repeat themselves.
const LOOK_BACK: usize = 16;
/// Writes of so many bytes go along with a batch, by way of its parameters; larger ones end it.
const SMALL: usize = 8 * PARAMS_BYTES;

/// The recorder of a [`super::Gpu`].
pub(super) struct Recorder {
    /// Ended before the encoder is.
    pass: Option<wgpu::ComputePass<'static>>,
    encoder: Option<wgpu::CommandEncoder>,
    /// Parameters of the batch, one in [`PARAMS_BYTES`]; written to `params` when it is handed over.
    slots: Vec<[u8; PARAMS_BYTES]>,
    params: wgpu::Buffer,
    params_group: wgpu::BindGroup,
    /// The second group of every kernel: its parameters, at an offset of their own.
    pub(super) params_layout: wgpu::BindGroupLayout,
    /// By kernel, then buffer, offset and size of each binding.
    groups: HashMap<Vec<u64>, wgpu::BindGroup>,
    key: Vec<u64>,
}

impl Recorder {
    pub(super) fn new(device: &wgpu::Device) -> Self {
        let params = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("params"),
            size: (SLOTS * PARAMS_BYTES) as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let params_layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("params"),
            entries: &[wgpu::BindGroupLayoutEntry {
                binding: 0,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Uniform,
                    has_dynamic_offset: true,
                    min_binding_size: None,
                },
                count: None,
            }],
        });
        let params_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("params"),
            layout: &params_layout,
            entries: &[entry(0, &params, 0, PARAMS_BYTES as u64)],
        });
        Self {
            pass: None,
            encoder: None,
            slots: Vec::new(),
            params,
            params_group,
            params_layout,
            groups: HashMap::new(),
            key: Vec::new(),
        }
    }

    pub(super) fn dispatch(
        &mut self,
        gpu: &Inner,
        kernel: &Kernel,
        bindings: &[Binding],
        params: &[u8],
        [x, y, z]: [u32; 3],
    ) {
        let offset = self.slot(gpu, params);
        self.bind(gpu, kernel, bindings);
        let encoder =
            self.encoder.get_or_insert_with(|| gpu.device.create_command_encoder(&Default::default()));
        let pass = self
            .pass
            .get_or_insert_with(|| encoder.begin_compute_pass(&Default::default()).forget_lifetime());
        pass.set_pipeline(&kernel.0.pipeline);
        pass.set_bind_group(0, self.groups.get(&self.key), &[]);
        pass.set_bind_group(1, &self.params_group, &[offset]);
        pass.dispatch_workgroups(x, y, z);
        gpu.counters.dispatches.fetch_add(1, Ordering::Relaxed);
        gpu.counters.bytes_bound.fetch_add(bytes_bound(kernel, bindings), Ordering::Relaxed);
    }

    /// Where these parameters lie in the batch.
    fn slot(&mut self, gpu: &Inner, params: &[u8]) -> u32 {
        let mut slot = [0; PARAMS_BYTES];
        slot[..params.len()].copy_from_slice(params);
        let recent = self.slots.iter().enumerate().rev().take(LOOK_BACK);
        let found = recent.filter(|(_, old)| **old == slot).map(|(n, _)| n).next();
        let n = found.unwrap_or_else(|| {
            if self.slots.len() == SLOTS {
                self.submit(gpu);
            }
            self.slots.push(slot);
            self.slots.len() - 1
        });
        (n * PARAMS_BYTES) as u32
    }

    /// Leaves the key of the group of these bindings, and makes it the first time.
    fn bind(&mut self, gpu: &Inner, kernel: &Kernel, bindings: &[Binding]) {
        self.key.clear();
        self.key.push(kernel.0.id);
        self.key.extend(bindings.iter().flat_map(|b| [b.buffer.0.id, b.range.start, b.range.end]));
        if !self.groups.contains_key(&self.key) {
            let entries = bindings.iter().enumerate();
            let entries = entries.map(|(n, b)| entry(n, &b.buffer.0.raw, b.range.start, b.bytes()));
            let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(kernel.0.name),
                layout: &kernel.0.layout,
                entries: &entries.collect::<Vec<_>>(),
            });
            self.groups.insert(self.key.clone(), group);
        }
    }

    /// Records a small write behind the dispatches of a batch. False if there is no batch, or no room in it.
    pub(super) fn write(&mut self, bytes: &[u8], to: &wgpu::Buffer, offset: u64) -> bool {
        let slots = bytes.len().div_ceil(PARAMS_BYTES);
        if self.encoder.is_none() || bytes.len() > SMALL || self.slots.len() + slots > SLOTS {
            return false;
        }
        let from = (self.slots.len() * PARAMS_BYTES) as u64;
        self.slots.resize(self.slots.len() + slots, [0; PARAMS_BYTES]);
        self.slots.as_flattened_mut()[from as usize..][..bytes.len()].copy_from_slice(bytes);
        self.pass = None;
        if let Some(encoder) = &mut self.encoder {
            encoder.copy_buffer_to_buffer(&self.params, from, to, offset, bytes.len() as u64);
        }
        true
    }

    pub(super) fn copy(&mut self, gpu: &Inner, from: Binding, to: &wgpu::Buffer, offset: u64) {
        let encoder = self.encoder(gpu);
        encoder.copy_buffer_to_buffer(&from.buffer.0.raw, from.range.start, to, offset, from.bytes());
    }

    pub(super) fn clear(&mut self, gpu: &Inner, piece: Binding) {
        let encoder = self.encoder(gpu);
        encoder.clear_buffer(&piece.buffer.0.raw, piece.range.start, Some(piece.bytes()));
    }

    /// The encoder, outside of a pass.
    fn encoder(&mut self, gpu: &Inner) -> &mut wgpu::CommandEncoder {
        self.pass = None;
        self.encoder.get_or_insert_with(|| gpu.device.create_command_encoder(&Default::default()))
    }

    /// Hands the batch over, if there is one.
    pub(super) fn submit(&mut self, gpu: &Inner) -> Option<wgpu::SubmissionIndex> {
        self.pass = None;
        let encoder = self.encoder.take()?;
        let params: &[u8] = self.slots.as_flattened();
        if !params.is_empty() {
            gpu.queue.write_buffer(&self.params, 0, params); // behind what earlier batches read
        }
        gpu.counters.bytes_up.fetch_add(params.len() as u64, Ordering::Relaxed);
        gpu.counters.submits.fetch_add(1, Ordering::Relaxed);
        self.slots.clear();
        Some(gpu.queue.submit([encoder.finish()]))
    }

    /// Lets go of the groups that hold a buffer.
    pub(super) fn forget(&mut self, buffer: u64) {
        self.groups.retain(|key, _| !key[1..].chunks_exact(3).any(|binding| binding[0] == buffer));
    }
}

/// Bytes of the bindings, those that are written twice.
fn bytes_bound(kernel: &Kernel, bindings: &[Binding]) -> u64 {
    let times = |access: &Access| if *access == Access::Write { 2 } else { 1 };
    kernel.0.bindings.iter().zip(bindings).map(|(access, binding)| times(access) * binding.bytes()).sum()
}

fn entry(binding: usize, buffer: &wgpu::Buffer, offset: u64, size: u64) -> wgpu::BindGroupEntry<'_> {
    let size = std::num::NonZero::new(size);
    let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size });
    wgpu::BindGroupEntry { binding: binding as u32, resource }
}
