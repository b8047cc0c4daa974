//! What the forward pass asks of a machine: two kinds of memory and five operations.
//!
//! Each operation is a step that every machine does best as one: a norm goes with the products that read it, a product
//! with the sum or the gate behind it, and what happens to queries and keys with the search. Fewer passes over memory
//! on a CPU, fewer dispatches on a GPU.
//!
//! Making memory and reading it back may fail; operations may not: sizes are checked before, and an operation
//! that meets wrong ones panics. Outputs are `&mut` and inputs are `&`, which is also what WebGPU demands of
//! the buffers of one dispatch. A tensor knows its columns; the number of rows in use travels as `tokens`.

use std::ops::Range;

use crate::error::Result;
use crate::tensor::StoredTensor;

/// A norm by root mean square: `x / rms(x) * gain`.
pub struct Norm<T> {
    /// As wide as what is normalised: a row, or a head.
    pub gain: T,
    /// Added to the mean square.
    pub eps: f32,
}

/// A machine that can run the model.
pub trait Backend {
    /// f32 values `[rows, cols]` where the machine wants them: activations, gains of norms.
    type Tensor;
    /// Weight matrices `[out, in]` with the same input, one below the other, in whatever form the machine computes with.
    type Matrix;
    /// Keys and values of one layer.
    type Cache;
    /// Ids of the tokens of a pass, where [`Backend::embed`] looks for them.
    type Tokens;

    /// A tensor of zeros.
    fn tensor(&self, rows: usize, cols: usize) -> Result<Self::Tensor>;
    /// Takes weight matrices over.
    fn matrix(&self, stack: &[&StoredTensor]) -> Result<Self::Matrix>;
    /// An empty cache for at most `context` positions.
    fn cache(&self, heads: usize, head_dim: usize, context: usize) -> Result<Self::Cache>;
    /// Makes room for positions `0..positions`, keeping what is there.
    fn reserve(&self, cache: &mut Self::Cache, positions: usize) -> Result<()>;
    /// Room for the ids of at most `most` tokens.
    fn tokens(&self, most: usize) -> Result<Self::Tokens>;
    /// Writes ids.
    fn write_tokens(&mut self, to: &mut Self::Tokens, ids: &[u32]);
    /// Writes the first values of a tensor.
    fn write(&mut self, to: &mut Self::Tensor, values: &[f32]);
    /// Reads the first `out.len()` values of a tensor.
    fn read(&mut self, from: &Self::Tensor, out: &mut [f32]) -> Result<()>;

    /// `out[t] = table[ids[t]]` for the first `tokens` ids.
    fn embed(&mut self, out: &mut Self::Tensor, table: &Self::Matrix, ids: &Self::Tokens, tokens: usize);
    /// `out[n][t] = w[n] norm(x[rows.start + t])` for the matrices of a stack.
    fn norm_matmul<const N: usize>(
        &mut self,
        out: [&mut Self::Tensor; N],
        x: &Self::Tensor,
        norm: &Norm<Self::Tensor>,
        w: &Self::Matrix,
        rows: Range<usize>,
    );
    /// Normalises each head of q and k, and rotates it by the angles of its token (`angles[t]` is `head_dim / 2` cosines,
    /// then as many sines); stores keys and values at `positions`; `out[t]` is what the queries of token t find among
    /// positions `0..=positions.start + t`. Leaves q and k as it likes.
    fn attend(
        &mut self,
        out: &mut Self::Tensor,
        qkv: [&mut Self::Tensor; 3],
        norms: Option<&[Norm<Self::Tensor>; 2]>,
        angles: &Self::Tensor,
        cache: &mut Self::Cache,
        positions: Range<usize>,
    );
    /// `x[t] += w y[t]`.
    fn matmul_add(&mut self, x: &mut Self::Tensor, y: &Self::Tensor, w: &Self::Matrix, tokens: usize);
    /// `out[t] = silu(gate h) * (up h)`, where `h = norm(x[t])` and `w` is the stack of gate and up.
    fn norm_swiglu(
        &mut self,
        out: &mut Self::Tensor,
        x: &Self::Tensor,
        norm: &Norm<Self::Tensor>,
        w: &Self::Matrix,
        tokens: usize,
    );
}
