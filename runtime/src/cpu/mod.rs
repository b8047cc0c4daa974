//! The CPU: each operation as a loop over rows, spread over threads, calling the row functions of [`ops`].

pub mod isa;
pub mod ops;
pub mod ternary_matmul;
pub mod threads;

mod ahead;
mod attention;
mod cores;
mod idle;
mod kv_cache;
mod matmul;
mod team;

use std::ops::Range;

use crate::backend::{Backend, Norm};
use crate::error::{Error, Result};
use crate::tensor::StoredTensor;
use isa::Isa;

pub use kv_cache::{Cache, KvFormat};
pub(crate) use matmul::scratch_bytes as matmul_scratch_bytes;

/// Values that a thread should at least get, so that starting it pays.
const GRAIN: usize = 8192;

/// Calls `$work` with the number of each row of `$cols` values of `$x`, and the row. A macro as [`vectorized!`] is one.
///
/// [`vectorized!`]: crate::vectorized
macro_rules! for_each_row {
    ($isa:expr, $x:expr, $cols:expr, |$n:pat_param, $row:pat_param| $work:expr) => {{
        let (isa, cols) = ($isa, $cols);
        threads::for_rows($x, cols, GRAIN.div_ceil(cols), |first, rows| {
            crate::vectorized!(isa, {
                for (n, $row) in rows.chunks_exact_mut(cols).enumerate() {
                    let $n = first + n;
                    $work;
                }
            });
        });
    }};
}

/// The CPU as a [`Backend`].
pub struct CpuBackend {
    isa: Isa,
    /// f32 activations, instead of i8, before ternary matrices.
    exact: bool,
    /// Of the caches that it makes.
    kv: KvFormat,
    scratch: matmul::Scratch,
    /// Normalised rows before a product, or rows of a product that are added to others.
    h: Vec<f32>,
    /// What a gate is applied to.
    up: Vec<f32>,
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
        let scratch = matmul::Scratch::default();
        Self { isa, exact, kv, scratch, h: Vec::new(), up: Vec::new(), sums: Vec::new() }
    }

    /// Whether activations stay f32.
    pub fn exact(&self) -> bool {
        self.exact
    }

    /// How caches hold keys and values.
    pub fn kv_format(&self) -> KvFormat {
        self.kv
    }

    /// `out[t, h] = softmax(q[t, h] · keys / sqrt(head_dim)) · values`: stores `kv` at `position..position + tokens`, then
    /// searches what the cache holds.
    pub fn attention(
        &mut self,
        out: &mut CpuTensor,
        q: &CpuTensor,
        [k, v]: [&CpuTensor; 2],
        cache: &mut Cache,
        position: usize,
        tokens: usize,
    ) {
        cache.append(self.isa, k.rows(tokens), v.rows(tokens), position);
        let (out, q) = (out.rows_mut(tokens), q.rows(tokens));
        attention::attention(self.isa, out, q, cache, [position, tokens], &mut self.sums);
    }

    fn head_norm(&self, x: &mut CpuTensor, norm: &Norm<CpuTensor>, tokens: usize) {
        let Norm { gain, eps } = norm;
        for_each_row!(self.isa, x.rows_mut(tokens), gain.cols, |_row, head| {
            ops::head_norm(head, &gain.data, *eps);
        });
    }

    fn rope(&self, x: &mut CpuTensor, angles: &CpuTensor, tokens: usize) {
        let heads = x.cols / angles.cols;
        for_each_row!(self.isa, x.rows_mut(tokens), angles.cols, |row, head| {
            let (cos, sin) = angles.row(row / heads).split_at(angles.cols / 2);
            ops::rope(head, cos, sin);
        });
    }

    /// `out[n][t] = w[n] norm(x[rows.start + t])`.
    fn norm_products<const N: usize>(
        &mut self,
        out: [&mut [f32]; N],
        x: &CpuTensor,
        norm: &Norm<CpuTensor>,
        w: &[StoredTensor],
        rows: Range<usize>,
    ) {
        let mut h = std::mem::take(&mut self.h);
        h.resize(rows.len() * x.cols, 0.0);
        let Norm { gain, eps } = norm;
        for_each_row!(self.isa, &mut h, x.cols, |t, h| {
            ops::rms_norm(h, x.row(rows.start + t), &gain.data, *eps);
        });
        self.scratch.matmul(self.isa, self.exact, out, &h, each(w), rows.len());
        self.h = h;
    }
}

impl CpuTensor {
    /// The first numbers.
    pub(crate) fn first(&self, numbers: usize) -> &[f32] {
        &self.data[..numbers]
    }

    fn rows(&self, rows: usize) -> &[f32] {
        &self.data[..rows * self.cols]
    }

    fn rows_mut(&mut self, rows: usize) -> &mut [f32] {
        &mut self.data[..rows * self.cols]
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols..][..self.cols]
    }
}

impl Backend for CpuBackend {
    type Tensor = CpuTensor;
    type Matrix = Vec<StoredTensor>; // used as they lie in the file
    type Cache = Cache;
    type Tokens = Vec<u32>;

    fn tensor(&self, rows: usize, cols: usize) -> Result<CpuTensor> {
        let len = rows.checked_mul(cols).ok_or_else(|| too_large(usize::MAX))?;
        Ok(CpuTensor { cols, data: zeros(len)? })
    }

    fn matrix(&self, stack: &[&StoredTensor]) -> Result<Vec<StoredTensor>> {
        Ok(stack.iter().map(|&stored| stored.clone()).collect())
    }

    fn cache(&self, heads: usize, head_dim: usize, context: usize) -> Result<Cache> {
        Ok(Cache::new(heads, head_dim, context, self.kv))
    }

    fn reserve(&self, cache: &mut Cache, positions: usize) -> Result<()> {
        cache.reserve(positions)
    }

    fn tokens(&self, most: usize) -> Result<Vec<u32>> {
        Ok(Vec::with_capacity(most))
    }

    fn write_tokens(&mut self, to: &mut Vec<u32>, ids: &[u32]) {
        to.clear();
        to.extend_from_slice(ids);
    }

    fn write(&mut self, to: &mut CpuTensor, values: &[f32]) {
        to.data[..values.len()].copy_from_slice(values);
    }

    fn read(&mut self, from: &CpuTensor, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(from.first(out.len()));
        Ok(())
    }

    fn embed(&mut self, out: &mut CpuTensor, table: &Vec<StoredTensor>, ids: &Vec<u32>, tokens: usize) {
        let (cols, [table]) = (out.cols, each(table));
        for (row, &id) in out.rows_mut(tokens).chunks_exact_mut(cols).zip(ids) {
            table.read_row(id as usize, row);
        }
    }

    fn norm_matmul<const N: usize>(
        &mut self,
        out: [&mut CpuTensor; N],
        x: &CpuTensor,
        norm: &Norm<CpuTensor>,
        w: &Vec<StoredTensor>,
        rows: Range<usize>,
    ) {
        self.norm_products(out.map(|out| out.rows_mut(rows.len())), x, norm, w, rows);
    }

    fn attend(
        &mut self,
        out: &mut CpuTensor,
        [q, k, v]: [&mut CpuTensor; 3],
        norms: Option<&[Norm<CpuTensor>; 2]>,
        angles: &CpuTensor,
        cache: &mut Cache,
        positions: Range<usize>,
    ) {
        let tokens = positions.len();
        if let Some([q_norm, k_norm]) = norms {
            self.head_norm(q, q_norm, tokens);
            self.head_norm(k, k_norm, tokens);
        }
        self.rope(q, angles, tokens);
        self.rope(k, angles, tokens);
        self.attention(out, q, [k, v], cache, positions.start, tokens);
    }

    fn matmul_add(&mut self, x: &mut CpuTensor, y: &CpuTensor, w: &Vec<StoredTensor>, tokens: usize) {
        let (cols, mut h) = (x.cols, std::mem::take(&mut self.h));
        h.resize(tokens * cols, 0.0);
        self.scratch.matmul(self.isa, self.exact, [&mut h], y.rows(tokens), each(w), tokens);
        for_each_row!(self.isa, x.rows_mut(tokens), cols, |t, x| ops::add(x, &h[t * cols..][..cols]));
        self.h = h;
    }

    fn norm_swiglu(
        &mut self,
        out: &mut CpuTensor,
        x: &CpuTensor,
        norm: &Norm<CpuTensor>,
        w: &Vec<StoredTensor>,
        tokens: usize,
    ) {
        let (cols, mut up) = (out.cols, std::mem::take(&mut self.up));
        up.resize(tokens * cols, 0.0);
        self.norm_products([out.rows_mut(tokens), &mut up], x, norm, w, 0..tokens);
        for_each_row!(self.isa, out.rows_mut(tokens), cols, |t, gate| {
            ops::swiglu(gate, &up[t * cols..][..cols]);
        });
        self.up = up;
    }
}

/// The matrices of a stack.
fn each<const N: usize>(stack: &[StoredTensor]) -> [&StoredTensor; N] {
    assert_eq!(stack.len(), N, "matrices of a stack");
    std::array::from_fn(|n| &stack[n])
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
