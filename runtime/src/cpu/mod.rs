//! The CPU: each operation as a loop over rows, spread over threads, calling the row functions of [`ops`].

pub mod isa;
pub mod ops;
pub mod ternary_matmul;
pub mod threads;

mod attention;
mod cores;
mod idle;
mod kv_cache;
mod matmul;
mod team;

use std::ops::Range;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::tensor::StoredTensor;
use isa::Isa;

pub use kv_cache::{Cache, KvFormat};
pub(crate) use matmul::scratch_bytes as matmul_scratch_bytes;

/// Values that a thread should at least get, so that starting it pays.
const GRAIN: usize = 8192;

/// The CPU as a [`Backend`].
pub struct CpuBackend {
    isa: Isa,
    /// f32 activations, instead of i8, before ternary matrices.
    exact: bool,
    /// Of the caches that it makes.
    kv: KvFormat,
    scratch: matmul::Scratch,
    /// Scratch of attention.
    sums: Vec<f32>,
}

/// Rows of f32.
pub struct CpuTensor {
    cols: usize,
    data: Vec<f32>,
}

impl CpuBackend {
    /// `exact` keeps activations in f32 where the fast kernels round them to i8;
    /// caches hold keys and values as `kv` says.
    pub fn new(isa: Isa, exact: bool, kv: KvFormat) -> Self {
        Self { isa, exact, kv, scratch: matmul::Scratch::default(), sums: Vec::new() }
    }

    /// Whether activations stay f32.
    pub fn exact(&self) -> bool {
        self.exact
    }

    /// How caches hold keys and values.
    pub fn kv_format(&self) -> KvFormat {
        self.kv
    }

    /// Calls `f(row, x)` for rows of `cols` values of `x`.
    fn rows(&self, x: &mut [f32], cols: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
        threads::for_rows(x, cols, GRAIN.div_ceil(cols), |first, rows| {
            self.isa.run(|| rows.chunks_exact_mut(cols).enumerate().for_each(|(n, x)| f(first + n, x)));
        });
    }
}

impl CpuTensor {
    fn rows(&self, rows: usize) -> &[f32] {
        &self.data[..rows * self.cols]
    }

    fn rows_mut(&mut self, rows: usize) -> &mut [f32] {
        &mut self.data[..rows * self.cols]
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols..][..self.cols]
    }
}

impl Backend for CpuBackend {
    type Tensor = CpuTensor;
    type Matrix = StoredTensor; // used as it lies in the file
    type Cache = Cache;

    fn tensor(&self, rows: usize, cols: usize) -> Result<CpuTensor> {
        let len = rows.checked_mul(cols).ok_or_else(|| too_large(usize::MAX))?;
        Ok(CpuTensor { cols, data: zeros(len)? })
    }

    fn matrix(&self, stored: &StoredTensor) -> Result<StoredTensor> {
        Ok(stored.clone())
    }

    fn cache(&self, heads: usize, head_dim: usize, context: usize) -> Result<Cache> {
        Ok(Cache::new(heads, head_dim, context, self.kv))
    }

    fn reserve(&self, cache: &mut Cache, positions: usize) -> Result<()> {
        cache.reserve(positions)
    }

    fn write(&mut self, to: &mut CpuTensor, values: &[f32]) {
        to.data[..values.len()].copy_from_slice(values);
    }

    fn read(&mut self, from: &CpuTensor, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&from.data[..out.len()]);
        Ok(())
    }

    fn embed(&mut self, out: &mut CpuTensor, table: &StoredTensor, tokens: &[u32]) {
        let cols = out.cols;
        for (row, &id) in out.rows_mut(tokens.len()).chunks_exact_mut(cols).zip(tokens) {
            table.read_row(id as usize, row);
        }
    }

    fn rms_norm(&mut self, out: &mut CpuTensor, x: &CpuTensor, gain: &CpuTensor, eps: f32, tokens: usize) {
        self.rows(out.rows_mut(tokens), x.cols, |t, out| ops::rms_norm(out, x.row(t), &gain.data, eps));
    }

    fn head_norm(&mut self, x: &mut CpuTensor, gain: &CpuTensor, eps: f32, tokens: usize) {
        self.rows(x.rows_mut(tokens), gain.cols, |_, head| ops::head_norm(head, &gain.data, eps));
    }

    fn matmul<const N: usize>(
        &mut self,
        out: [&mut CpuTensor; N],
        x: &CpuTensor,
        w: [&StoredTensor; N],
        rows: Range<usize>,
    ) {
        let x = &x.data[rows.start * x.cols..rows.end * x.cols];
        let out = out.map(|out| out.rows_mut(rows.len()));
        self.scratch.matmul(self.isa, self.exact, out, x, w, rows.len());
    }

    fn rope(&mut self, x: &mut CpuTensor, angles: &CpuTensor, tokens: usize) {
        let heads = x.cols / angles.cols;
        self.rows(x.rows_mut(tokens), angles.cols, |row, head| {
            let (cos, sin) = angles.row(row / heads).split_at(angles.cols / 2);
            ops::rope(head, cos, sin);
        });
    }

    fn attention(
        &mut self,
        out: &mut CpuTensor,
        q: &CpuTensor,
        [k, v]: [&CpuTensor; 2],
        cache: &mut Cache,
        position: usize,
        tokens: usize,
    ) {
        cache.append(k.rows(tokens), v.rows(tokens), position);
        let (out, q) = (out.rows_mut(tokens), q.rows(tokens));
        attention::attention(self.isa, out, q, cache, [position, tokens], &mut self.sums);
    }

    fn swiglu(&mut self, gate: &mut CpuTensor, up: &CpuTensor, tokens: usize) {
        let cols = gate.cols;
        self.rows(gate.rows_mut(tokens), cols, |t, gate| ops::swiglu(gate, up.row(t)));
    }

    fn add(&mut self, x: &mut CpuTensor, y: &CpuTensor, tokens: usize) {
        let cols = x.cols;
        self.rows(x.rows_mut(tokens), cols, |t, x| ops::add(x, y.row(t)));
    }
}

/// Zeros, or an error where the allocator would end the process.
fn zeros(len: usize) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| too_large(len))?;
    values.resize(len, 0.0);
    Ok(values)
}

fn too_large(len: usize) -> Error {
    Error::Memory(format!("{} MiB for a buffer", len.saturating_mul(4) >> 20))
}
