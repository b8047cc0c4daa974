//! How operations reach the device: memory, dispatches, and the first thing that went wrong.

use std::ops::Range;

use bonsai_runtime::Error as RuntimeError;
use bonsai_runtime::gpu::shader::Shader;
use bytemuck::Pod;

use super::GpuBackend;
use super::memory::{GpuBuffer, Piece, parts};
use crate::error::Result;

/// Numbers that come back at a time.
const READ: usize = 1 << 23;

impl GpuBackend {
    /// Remembers what went wrong first. From then on nothing is done, and the next answer is this error.
    pub(super) fn fail(&self, error: RuntimeError) {
        let _ = self.fault.set(error);
    }

    /// Whether everything went well so far.
    pub(super) fn sound(&self) -> Result<()> {
        match self.fault.get() {
            None => Ok(()),
            Some(RuntimeError::Memory(what)) => Err(RuntimeError::Memory(what.clone()).into()),
            Some(RuntimeError::Gpu(what)) => Err(RuntimeError::Gpu(what.clone()).into()),
            Some(other) => Err(RuntimeError::Gpu(other.to_string()).into()),
        }
    }

    /// Records one dispatch.
    pub(super) fn run<P: Pod>(
        &self,
        shader: &Shader,
        constants: &[(&str, f64)],
        pieces: &[&Piece],
        params: &P,
        groups: [u32; 3],
    ) {
        let bindings: Option<Vec<_>> = pieces.iter().map(|piece| piece.binding()).collect();
        let Some(bindings) = bindings else {
            // Its own backend knows more, where that is this one.
            return self.fail(RuntimeError::Memory("a buffer of another model on this device".into()));
        };
        if self.fault.get().is_some() {
            return;
        }
        match self.gpu.kernel(shader, constants) {
            Ok(kernel) => self.gpu.run(&kernel, &bindings, params, groups),
            Err(error) => self.fail(error),
        }
    }

    /// Memory for `len` numbers, zeros.
    pub(super) fn zeros(&self, len: usize) -> GpuBuffer {
        let raw = match self.fault.get() {
            None => self.gpu.buffer(4 * len).map_err(|error| self.fail(error)).ok(),
            Some(_) => None,
        };
        GpuBuffer { raw, len }
    }

    /// Overwrites numbers from `first` on.
    pub(super) fn upload<T: Pod>(&self, to: &GpuBuffer, first: usize, values: &[T]) {
        if let Some(raw) = &to.raw {
            self.gpu.upload(raw, 4 * first as u64, values);
        }
    }

    /// Numbers of a piece, as they are after everything that was recorded.
    pub(super) fn fetch<T: Pod>(&self, from: &GpuBuffer, range: Range<usize>) -> Result<Vec<T>> {
        assert_eq!(size_of::<T>(), 4);
        self.sound()?;
        let mut out = vec![T::zeroed(); range.len()];
        if let Some(raw) = &from.raw {
            for part in parts(range.len(), READ) {
                let bytes = 4 * (range.start + part.start) as u64..4 * (range.start + part.end) as u64;
                self.gpu.read(raw.slice(bytes), &mut out[part])?;
            }
        }
        Ok(out)
    }

    /// Scratch memory by name: what one operation leaves there, the next one of this name overwrites.
    pub(super) fn scratch(&mut self, name: &'static str, len: usize) -> GpuBuffer {
        if self.scratch.get(name).is_none_or(|buffer| buffer.len < len) {
            self.scratch.remove(name); // freed before the larger one is made
            let buffer = self.zeros(len);
            self.scratch.insert(name, buffer);
        }
        GpuBuffer { len, ..self.scratch[name].clone() }
    }

    /// Runs a kernel that has one thread for each four numbers of buffers of one length.
    pub(super) fn elementwise(&self, shader: &Shader, buffers: &[&GpuBuffer], rest: &[u32]) {
        let len = buffers[0].len;
        assert!(
            buffers.iter().all(|buffer| buffer.len == len),
            "{}: buffers of different lengths",
            shader.name
        );
        for part in parts(len, self.tuning.span) {
            let quads = part.len().div_ceil(4);
            let mut params = [0; 8];
            params[0] = quads as u32;
            params[1..=rest.len()].copy_from_slice(rest);
            let pieces: Vec<Piece> = buffers.iter().map(|buffer| buffer.piece(part.clone())).collect();
            self.run(
                shader,
                &[],
                &pieces.iter().collect::<Vec<_>>(),
                &params,
                self.gpu.grid(quads.div_ceil(256)),
            );
        }
    }
}
