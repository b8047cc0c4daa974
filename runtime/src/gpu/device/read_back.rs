//! Bytes on their way back: by way of a staging buffer that this machine may map.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};

use super::{Binding, Gpu, lock};
use crate::error::{Error, Result};

/// Staging buffers that wait to be used again.
const KEPT: usize = 8;

/// Bytes that were asked for. A browser awaits them; elsewhere `ReadBack::wait` blocks. Several may be under way.
pub struct ReadBack {
    gpu: Gpu,
    staging: wgpu::Buffer,
    bytes: usize,
    submission: Option<wgpu::SubmissionIndex>,
    mapped: Arc<Mapping>,
}

/// News of the staging buffer, which may come on any thread that polls the device.
#[derive(Default)]
struct Mapping {
    mapped: Mutex<Mapped>,
    news: Condvar,
}

#[derive(Default)]
struct Mapped {
    result: Option<bool>,
    waker: Option<Waker>,
}

impl Mapping {
    /// Whether the staging buffer was mapped; if nobody knows yet, whoever does will wake.
    fn result_or_wake(&self, waker: &Waker) -> Option<bool> {
        let mut mapped = lock(&self.mapped);
        if mapped.result.is_none() {
            mapped.waker = Some(waker.clone());
        }
        mapped.result
    }
}

impl ReadBack {
    pub(super) fn begin(gpu: &Gpu, from: Binding) -> Result<Self> {
        let bytes = from.bytes();
        let staging = staging(gpu, bytes)?;
        let mut recorder = gpu.recorder();
        recorder.copy(&gpu.0, from, &staging, 0);
        let submission = recorder.submit(&gpu.0);
        drop(recorder);
        let mapped = Arc::new(Mapping::default());
        let shared = mapped.clone();
        staging.map_async(wgpu::MapMode::Read, 0..bytes, move |result| {
            let mut mapped = lock(&shared.mapped);
            mapped.result = Some(result.is_ok());
            if let Some(waker) = mapped.waker.take() {
                waker.wake();
            }
            shared.news.notify_all();
        });
        gpu.0.counters.read_backs.fetch_add(1, Ordering::Relaxed);
        gpu.0.counters.bytes_down.fetch_add(bytes, Ordering::Relaxed);
        Ok(Self { gpu: gpu.clone(), staging, bytes: bytes as usize, submission, mapped })
    }

    /// Waits for the bytes and copies them. `out` is as long as what was asked for.
    pub fn wait(mut self, out: &mut [u8]) -> Result<()> {
        if cfg!(target_family = "wasm") {
            return Err(Error::Unsupported("waiting for a GPU in a browser: await it".into()));
        }
        if let Some(submission) = self.submission.take() {
            self.gpu.0.wait(submission);
        }
        let result = self.result();
        self.take(result, out)
    }

    /// Whether the staging buffer was mapped. Another thread that polled first may still be about to tell.
    #[cfg(not(target_family = "wasm"))]
    fn result(&self) -> Option<bool> {
        if self.gpu.0.sound().is_err() {
            return None; // nobody will tell
        }
        let mapped = lock(&self.mapped.mapped);
        let untold = |mapped: &mut Mapped| mapped.result.is_none();
        let waited = self.mapped.news.wait_timeout_while(mapped, self.gpu.0.timeout, untold);
        waited.unwrap_or_else(std::sync::PoisonError::into_inner).0.result
    }

    /// What is known of it: nobody waits here.
    #[cfg(target_family = "wasm")]
    fn result(&self) -> Option<bool> {
        lock(&self.mapped.mapped).result
    }

    /// Copies the bytes out of the staging buffer and gives it back.
    fn take(&mut self, result: Option<bool>, out: &mut [u8]) -> Result<()> {
        self.gpu.0.sound()?;
        let lost = || Error::Gpu("what was computed could not be read back: the device may be lost".into());
        if result != Some(true) {
            return Err(lost());
        }
        let view = self.staging.get_mapped_range(0..self.bytes as u64).map_err(|_| lost())?;
        out.copy_from_slice(&view);
        drop(view);
        self.staging.unmap();
        let mut kept = lock(&self.gpu.0.staging);
        if kept.len() < KEPT {
            kept.push(self.staging.clone());
        }
        Ok(())
    }
}

impl Future for ReadBack {
    type Output = Result<Vec<u8>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<Self::Output> {
        // First, for it may bring the news, which comes here and not to a lock that is held.
        self.gpu.0.sound()?;
        let Some(result) = self.mapped.result_or_wake(context.waker()) else { return Poll::Pending };
        let mut out = vec![0; self.bytes];
        Poll::Ready(self.take(Some(result), &mut out).map(|()| out))
    }
}

/// The smallest staging buffer that is large enough and not much larger, or a new one.
fn staging(gpu: &Gpu, bytes: u64) -> Result<wgpu::Buffer> {
    let size = bytes.next_power_of_two().max(1024);
    let mut kept = lock(&gpu.0.staging);
    if let Some(n) = kept.iter().position(|buffer| buffer.size() == size) {
        return Ok(kept.swap_remove(n));
    }
    drop(kept);
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    gpu.scoped("a buffer to read back", || {
        let label = Some("staging");
        gpu.0.device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
    })
}
