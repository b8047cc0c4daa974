//! What the forward pass asks of a machine: two kinds of memory and a dozen operations, no more.
//!
//! Making memory and reading it back may fail; operations may not: sizes are checked before, and an operation
//! that meets wrong ones panics. Outputs are `&mut` and inputs are `&`, which is also what WebGPU demands of
//! the buffers of one dispatch. A tensor knows its columns; the number of rows in use travels as `tokens`.

use std::ops::Range;

use crate::error::Result;
use crate::tensor::StoredTensor;

/// A machine that can run the model.
pub trait Backend {
    /// f32 values `[rows, cols]` where the machine wants them: activations, gains of norms.
    type Tensor;
    /// A weight matrix `[out, in]` in whatever form the machine computes with.
    type Matrix;
    /// Keys and values of one layer.
    type Cache;

    /// A tensor of zeros.
    fn tensor(&self, rows: usize, cols: usize) -> Result<Self::Tensor>;
    /// Takes a weight matrix over.
    fn matrix(&self, stored: &StoredTensor) -> Result<Self::Matrix>;
    /// An empty cache for at most `context` positions.
    fn cache(&self, heads: usize, head_dim: usize, context: usize) -> Result<Self::Cache>;
    /// Makes room for positions `0..positions`, keeping what is there.
    fn reserve(&self, cache: &mut Self::Cache, positions: usize) -> Result<()>;
    /// Writes the first values of a tensor.
    fn write(&mut self, to: &mut Self::Tensor, values: &[f32]);
    /// Reads the first `out.len()` values of a tensor.
    fn read(&mut self, from: &Self::Tensor, out: &mut [f32]) -> Result<()>;

    /// `out[t] = table[tokens[t]]`.
    fn embed(&mut self, out: &mut Self::Tensor, table: &Self::Matrix, tokens: &[u32]);
    /// `out[t] = x[t] / rms(x[t]) * gain`.
    fn rms_norm(
        &mut self,
        out: &mut Self::Tensor,
        x: &Self::Tensor,
        gain: &Self::Tensor,
        eps: f32,
        tokens: usize,
    );
    /// The same in place, for each head (`gain` is one head wide).
    fn head_norm(&mut self, x: &mut Self::Tensor, gain: &Self::Tensor, eps: f32, tokens: usize);
    /// `out[n][t] = w[n] x[rows.start + t]` for several matrices with the same input.
    fn matmul<const N: usize>(
        &mut self,
        out: [&mut Self::Tensor; N],
        x: &Self::Tensor,
        w: [&Self::Matrix; N],
        rows: Range<usize>,
    );
    /// Rotates each head by the angles of its token: `angles[t]` is `head_dim / 2` cosines, then as many sines.
    fn rope(&mut self, x: &mut Self::Tensor, angles: &Self::Tensor, tokens: usize);
    /// Stores the keys and values `kv` at `position..position + tokens`; `out[t]` is what the queries of token t find among
    /// positions `0..=position + t`.
    fn attention(
        &mut self,
        out: &mut Self::Tensor,
        q: &Self::Tensor,
        kv: [&Self::Tensor; 2],
        cache: &mut Self::Cache,
        position: usize,
        tokens: usize,
    );
    /// `gate = silu(gate) * up`.
    fn swiglu(&mut self, gate: &mut Self::Tensor, up: &Self::Tensor, tokens: usize);
    /// `x += y`.
    fn add(&mut self, x: &mut Self::Tensor, y: &Self::Tensor, tokens: usize);
}
