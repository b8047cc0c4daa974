//! The GPU as a backend: by wgpu, on Vulkan, Metal, Direct3D 12 and in browsers.
//!
//! Operations record dispatches (see [`device`]) and return at once: a token is one submission, and the only wait is that
//! of [`Backend::read`], which is also where whatever went wrong comes out. Per layer there are five dispatches for one
//! token: products of q, k and v with the norm before them; norm, rotation and store of the heads; attention; the output
//! product with the sum; gate and up with their product; and the last product with the sum make six.

pub mod device;
pub mod shader;

#[cfg(not(target_family = "wasm"))]
pub mod autotune;
pub mod choices;
pub mod ways;

mod matrix;
mod shaders;

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use crate::backend::{Backend, Norm};
use crate::cpu::KvFormat;
use crate::error::{Error, Result};
use crate::sampler::Candidate;
use crate::tensor::StoredTensor;
use device::{Binding, Buffer, Gpu, Kernel, ReadBack};
use ways::Ways;

pub use matrix::GpuMatrix;
pub use shaders::{
    ARGMAX, ATTENTION, COUNT, EMBED, HALVES, MATMUL, MATVEC, MATVEC_SUBGROUPS, READ_WORDS, RMS_NORM, SHADERS,
    STORE_HEADS, TOP_K,
};

/// What [`GpuBackend::argmax`] finds among logits that are not numbers.
/// No table has a row for it, so that a pass for it leaves `x` as it was.
pub const NO_TOKEN: u32 = u32::MAX;

/// Workgroups among which the numbers of an argmax are divided, at most.
const SHARES: usize = 256;
/// Tokens that [`GpuBackend::begin_likeliest`] finds: more than the 40 that samplers usually keep. As in `top_k.wgsl`.
pub const LIKELIEST: usize = 64;
/// Numbers that a workgroup sorts to find them.
const SORTED: usize = 1024;
/// Positions of the cache that lie together.
const TILE: usize = 64;

/// What a product does with its result, in the order of the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Epilogue {
    Store,
    Add,
    Gate,
}

/// A GPU as a [`Backend`].
pub struct GpuBackend {
    gpu: Gpu,
    /// How products of one token are computed.
    ways: Ways,
    kv: KvFormat,
    rms_norm: Kernel,
    store_heads: Kernel,
    attention: Kernel,
    /// Of a share of the numbers, and of all shares.
    argmax: [Kernel; 2],
    /// The largest of each share.
    largest: Buffer,
    /// Of logits, and of what was kept of them.
    top_k: [Kernel; 2],
    /// What was kept, from one step to the next; made when it is first wanted.
    kept: Option<[Buffer; 2]>,
    /// Normalised rows before a product of several tokens.
    h: Buffer,
    /// What a kernel has no use for but must be given: an input, a second and a third output.
    unused: [Buffer; 3],
}

/// Rows of f32.
pub struct GpuTensor {
    cols: usize,
    buffer: Buffer,
}

/// Keys and values of a layer, made for the whole context at once: see `store_heads.wgsl`.
pub struct GpuCache {
    heads: usize,
    head_dim: usize,
    context: usize,
    keys: Buffer,
    values: Buffer,
}

/// See `matvec.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct MatvecParams {
    rows: u32,
    words: u32,
    halves: u32,
    x: u32,
    first: u32,
    second: u32,
    third: u32,
    eps: f32,
}

/// See `matmul.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct MatmulParams {
    rows: u32,
    words: u32,
    halves: u32,
    x: u32,
    first: u32,
    second: u32,
    third: u32,
    tokens: u32,
    all: u32,
}

/// See `rms_norm.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct NormParams {
    quads: u32,
    x: u32,
    eps: f32,
}

/// See `store_heads.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct HeadParams {
    heads: u32,
    kv_heads: u32,
    dim: u32,
    position: u32,
    context: u32,
    norms: u32,
    q_eps: f32,
    k_eps: f32,
}

/// See `attention.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct AttentionParams {
    heads: u32,
    kv_heads: u32,
    dim: u32,
    position: u32,
    context: u32,
    tokens: u32,
    scale: f32,
}

impl GpuBackend {
    /// A backend for passes of at most `tokens` tokens of at most `widest` activations.
    #[cfg(not(target_family = "wasm"))]
    pub fn new(gpu: &Gpu, tokens: usize, widest: usize) -> Result<Self> {
        let halves = gpu.block_on(keeps_subnormal_halves(gpu))?;
        Self::with(gpu, tokens, widest, Ways::untuned(halves), KvFormat::F16)
    }

    /// The same where it is known how to compute products, and how to keep keys and values: as f16 or int8.
    pub fn with(gpu: &Gpu, tokens: usize, widest: usize, ways: Ways, kv: KvFormat) -> Result<Self> {
        let [store_heads, attention] = heads(gpu, kv)?;
        Ok(Self {
            rms_norm: gpu.kernel(&RMS_NORM, &[])?,
            store_heads,
            attention,
            argmax: [gpu.kernel(&ARGMAX, &[])?, gpu.kernel(&ARGMAX, &[("LAST", 1.0)])?],
            largest: gpu.buffer(8 * SHARES)?,
            top_k: [gpu.kernel(&TOP_K, &[])?, gpu.kernel(&TOP_K, &[("AGAIN", 1.0)])?],
            kept: None,
            h: gpu.buffer(4 * tokens * widest)?,
            unused: [gpu.buffer(16)?, gpu.buffer(16)?, gpu.buffer(16)?],
            ways,
            kv,
            gpu: gpu.clone(),
        })
    }

    /// Keeps keys and values of caches to be made in another format.
    pub fn keep(&mut self, kv: KvFormat) -> Result<()> {
        [self.store_heads, self.attention] = heads(&self.gpu, kv)?;
        self.kv = kv;
        Ok(())
    }

    /// How keys and values are kept.
    pub fn kv_format(&self) -> KvFormat {
        self.kv
    }

    /// Never reads codes as subnormal halves: what other devices do, for tests.
    pub fn without_halves(mut self) -> Self {
        self.ways = Ways::untuned(false);
        self
    }

    /// Reads the first `out.len()` values of a tensor, as [`Backend::read`] does, without waiting.
    pub async fn read_async(&self, from: &GpuTensor, out: &mut [f32]) -> Result<()> {
        self.gpu.read_async(from.buffer.all(), out).await
    }

    /// The id of the largest of a row of logits, the lowest among equals, goes to the first of `tokens`, which makes it
    /// the token of the next pass, and to `place` of `found`. It is [`NO_TOKEN`] if one of them is not a number.
    pub fn argmax(&mut self, tokens: &mut Buffer, found: &Buffer, place: usize, logits: &GpuTensor) {
        let count = logits.cols;
        let share = count.div_ceil(SHARES).next_multiple_of(64);
        let shares = count.div_ceil(share);
        let [_, b, c] = self.outputs(&[]);
        let params = [count as u32, share as u32, 0];
        let bindings = [self.largest.all(), b, c, logits.buffer.all()];
        self.gpu.run(&self.argmax[0], &bindings, &params, [shares as u32, 1, 1]);
        let params = [shares as u32, shares as u32, place as u32];
        let bindings = [self.unused[1].all(), tokens.all(), found.all(), self.largest.all()];
        self.gpu.run(&self.argmax[1], &bindings, &params, [1, 1, 1]);
    }

    /// Asks for the [`LIKELIEST`] largest of a row of logits, likeliest first, for [`likeliest`] to understand.
    pub fn begin_likeliest(&mut self, logits: &GpuTensor) -> Result<ReadBack> {
        let mut groups = logits.cols.div_ceil(SORTED);
        let bytes = 8 * LIKELIEST * groups;
        if self.kept.as_ref().is_none_or(|kept| kept[0].bytes() < bytes as u64) {
            self.kept = Some([self.gpu.buffer(bytes)?, self.gpu.buffer(bytes)?]);
        }
        let [mut to, mut from] = self.kept.as_ref().expect("just made").each_ref();
        let run = |step: usize, to: &Buffer, x: Binding, count: usize, groups: usize| {
            self.gpu.run(&self.top_k[step], &[to.all(), x], &[count as u32], [groups as u32, 1, 1]);
        };
        run(0, to, logits.buffer.all(), logits.cols, groups);
        while groups > 1 {
            let count = groups * LIKELIEST;
            groups = count.div_ceil(SORTED);
            std::mem::swap(&mut to, &mut from);
            run(1, to, from.all(), count, groups);
        }
        self.gpu.begin_read(to.slice(0..8 * LIKELIEST.min(logits.cols) as u64))
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Products with every part of a stack. Row `from` of `x` is the first token.
    fn product(
        &self,
        out: &[&GpuTensor],
        x: (&Buffer, usize),
        norm: Option<&Norm<GpuTensor>>,
        w: &GpuMatrix,
        tokens: usize,
        epilogue: Epilogue,
    ) {
        match (tokens, norm) {
            (1, _) => self.matvec(out, x, norm, w, &w.kernels.matvec[epilogue as usize]),
            (_, None) => self.matmul(out, x, w, tokens, epilogue),
            (_, Some(norm)) => {
                let params = NormParams { quads: quads(w.cols), x: (x.1 * w.cols / 4) as u32, eps: norm.eps };
                let bindings = [self.h.all(), x.0.all(), norm.gain.buffer.all()];
                self.gpu.run(&self.rms_norm, &bindings, &params, self.gpu.grid(tokens));
                self.matmul(out, (&self.h, 0), w, tokens, epilogue);
            }
        }
    }

    fn matvec(
        &self,
        out: &[&GpuTensor],
        (x, from): (&Buffer, usize),
        norm: Option<&Norm<GpuTensor>>,
        w: &GpuMatrix,
        kernel: &Kernel,
    ) {
        let [second, third] = w.starts.map(|start| start as u32);
        let gain = norm.map_or(&self.unused[0], |norm| &norm.gain.buffer);
        for part in &w.parts {
            let params = MatvecParams {
                rows: part.rows as u32,
                words: (w.cols / matrix::WORD) as u32,
                halves: part.halves as u32,
                x: (from * w.cols / 4) as u32,
                first: part.first as u32,
                second,
                third,
                eps: norm.map_or(0.0, |norm| norm.eps),
            };
            let [a, b, c] = self.outputs(out);
            let bindings = [a, b, c, part.weights(), part.scales(), x.all(), gain.all()];
            self.gpu.run(kernel, &bindings, &params, self.gpu.grid(part.rows.div_ceil(8)));
        }
    }

    fn matmul(
        &self,
        out: &[&GpuTensor],
        (x, from): (&Buffer, usize),
        w: &GpuMatrix,
        tokens: usize,
        epilogue: Epilogue,
    ) {
        let [second, third] = w.starts.map(|start| start as u32);
        for part in &w.parts {
            let params = MatmulParams {
                rows: part.rows as u32,
                words: (w.cols / matrix::WORD) as u32,
                halves: part.halves as u32,
                x: (from * w.cols / 4) as u32,
                first: part.first as u32,
                second,
                third,
                tokens: tokens as u32,
                all: w.rows as u32,
            };
            let [a, b, c] = self.outputs(out);
            let bindings = [a, b, c, part.weights(), part.scales(), x.all()];
            let groups = [part.rows.div_ceil(32) as u32, tokens.div_ceil(32) as u32, 1];
            self.gpu.run(&w.kernels.matmul[epilogue as usize], &bindings, &params, groups);
        }
    }

    /// Three outputs, where there may be fewer.
    fn outputs<'a>(&'a self, out: &[&'a GpuTensor]) -> [Binding<'a>; 3] {
        std::array::from_fn(|n| out.get(n).map_or(&self.unused[n], |out| &out.buffer).all())
    }
}

/// What [`GpuBackend::begin_likeliest`] asked for: an error if a logit is not a number.
pub fn likeliest(bytes: &[u8]) -> Result<Vec<Candidate>> {
    let pairs = bytemuck::pod_collect_to_vec::<u8, [u32; 2]>(bytes);
    if pairs.iter().any(|[key, _]| *key == u32::MAX) {
        return Err(Error::not_numbers());
    }
    let logit = |key: u32| f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key });
    Ok(pairs.into_iter().map(|[key, id]| Candidate { id, logit: logit(key) }).collect())
}

/// Whether the device keeps what it might round to zero: tries every pair of codes at every place.
pub async fn keeps_subnormal_halves(gpu: &Gpu) -> Result<bool> {
    let (low, high) = ((0..5).flat_map(|place| [1u32, 2, 3].map(|code| code << (2 * place))), 16);
    let words: Vec<u32> = low.clone().flat_map(|a| low.clone().map(move |b| a | b << high)).collect();
    let out = gpu.buffer(8 * words.len())?;
    let kernel = gpu.kernel(&HALVES, &[])?;
    let groups = [words.len().div_ceil(32) as u32, 1, 1];
    gpu.run(&kernel, &[out.all(), gpu.buffer_of(&words)?.all()], &[words.len() as u32], groups);
    let mut got = vec![[0.0f32; 2]; words.len()];
    gpu.read_async(out.all(), &mut got).await?;
    Ok(got.iter().zip(&words).all(|(got, word)| *got == [(word & 0xffff) as f32, (word >> high) as f32]))
}

/// The kernels that write keys and values and read them.
fn heads(gpu: &Gpu, kv: KvFormat) -> Result<[Kernel; 2]> {
    let int8 = match kv {
        KvFormat::F16 => ("INT8", 0.0),
        KvFormat::Int8 => ("INT8", 1.0),
        KvFormat::F32 | KvFormat::Int16 | KvFormat::Int4 => {
            let message = format!("keys and values as {} on a GPU: f16 or int8", kv.name());
            return Err(Error::Unsupported(message));
        }
    };
    Ok([gpu.kernel(&STORE_HEADS, &[int8])?, gpu.kernel(&ATTENTION, &[int8])?])
}

fn quads(cols: usize) -> u32 {
    (cols / 4) as u32
}

impl Backend for GpuBackend {
    type Tensor = GpuTensor;
    type Matrix = GpuMatrix;
    type Cache = GpuCache;
    type Tokens = Buffer;

    fn tensor(&self, rows: usize, cols: usize) -> Result<GpuTensor> {
        let bytes = rows.checked_mul(cols).and_then(|n| n.checked_mul(4));
        let bytes = bytes.ok_or_else(|| Error::Memory(format!("a tensor of {rows} x {cols}")))?;
        Ok(GpuTensor { cols, buffer: self.gpu.buffer(bytes)? })
    }

    fn matrix(&self, stack: &[&StoredTensor]) -> Result<GpuMatrix> {
        GpuMatrix::new(&self.gpu, stack, &self.ways)
    }

    fn cache(&self, heads: usize, head_dim: usize, context: usize) -> Result<GpuCache> {
        if head_dim > 256 {
            return Err(Error::Unsupported(format!("heads of {head_dim} on a GPU: at most 256")));
        }
        let context = context.next_multiple_of(TILE);
        let position = heads * if self.kv == KvFormat::Int8 { head_dim + 4 } else { 2 * head_dim };
        let (bytes, limit) = (position * context, self.gpu.limits().binding);
        if bytes as u64 > limit {
            let most = limit as usize / position;
            let message = format!("a context of {context} tokens: this GPU binds the keys of at most {most}");
            return Err(Error::Memory(message));
        }
        Ok(GpuCache {
            heads,
            head_dim,
            context,
            keys: self.gpu.buffer(bytes)?,
            values: self.gpu.buffer(bytes)?,
        })
    }

    fn reserve(&self, _: &mut GpuCache, _: usize) -> Result<()> {
        Ok(())
    }

    fn tokens(&self, most: usize) -> Result<Buffer> {
        self.gpu.buffer(4 * most)
    }

    fn write_tokens(&mut self, to: &mut Buffer, ids: &[u32]) {
        self.gpu.upload(to, 0, ids);
    }

    fn write(&mut self, to: &mut GpuTensor, values: &[f32]) {
        self.gpu.upload(&to.buffer, 0, values);
    }

    fn read(&mut self, from: &GpuTensor, out: &mut [f32]) -> Result<()> {
        self.gpu.read(from.buffer.all(), out)
    }

    fn embed(&mut self, out: &mut GpuTensor, table: &GpuMatrix, ids: &Buffer, tokens: usize) {
        let words = (table.cols / matrix::WORD) as u32;
        for part in &table.parts {
            let params = [part.rows as u32, words, part.halves as u32, part.first as u32, tokens as u32];
            let bindings = [out.buffer.all(), part.weights(), part.scales(), ids.all()];
            let groups = [words.div_ceil(64), tokens as u32, 1];
            self.gpu.run(&table.kernels.embed, &bindings, &params, groups);
        }
    }

    fn norm_matmul<const N: usize>(
        &mut self,
        out: [&mut GpuTensor; N],
        x: &GpuTensor,
        norm: &Norm<GpuTensor>,
        w: &GpuMatrix,
        rows: Range<usize>,
    ) {
        let out = out.map(|out| &*out);
        self.product(&out, (&x.buffer, rows.start), Some(norm), w, rows.len(), Epilogue::Store);
    }

    fn attend(
        &mut self,
        out: &mut GpuTensor,
        [q, k, v]: [&mut GpuTensor; 3],
        norms: Option<&[Norm<GpuTensor>; 2]>,
        angles: &GpuTensor,
        cache: &mut GpuCache,
        positions: Range<usize>,
    ) {
        let (dim, tokens) = (cache.head_dim as u32, positions.len() as u32);
        let (heads, kv_heads) = (q.cols as u32 / dim, cache.heads as u32);
        let (position, context) = (positions.start as u32, cache.context as u32);
        let gain = |n: usize| norms.map_or(&self.unused[0], |norms| &norms[n].gain.buffer).all();
        let eps = |n: usize| norms.map_or(0.0, |norms| norms[n].eps);
        let norms = norms.is_some().into();
        let (q_eps, k_eps) = (eps(0), eps(1));
        let params = HeadParams { heads, kv_heads, dim, position, context, norms, q_eps, k_eps };
        let stored = [q.buffer.all(), cache.keys.all(), cache.values.all(), k.buffer.all(), v.buffer.all()];
        let [a, b, c, d, e] = stored;
        let bindings = [a, b, c, d, e, gain(0), gain(1), angles.buffer.all()];
        self.gpu.run(&self.store_heads, &bindings, &params, [heads + 2 * kv_heads, tokens, 1]);
        let scale = 1.0 / (dim as f32).sqrt();
        let params = AttentionParams { heads, kv_heads, dim, position, context, tokens, scale };
        let bindings = [out.buffer.all(), q.buffer.all(), cache.keys.all(), cache.values.all()];
        let rows = tokens * (heads / kv_heads);
        self.gpu.run(&self.attention, &bindings, &params, [kv_heads, rows.div_ceil(4), 1]);
    }

    fn matmul_add(&mut self, x: &mut GpuTensor, y: &GpuTensor, w: &GpuMatrix, tokens: usize) {
        self.product(&[x], (&y.buffer, 0), None, w, tokens, Epilogue::Add);
    }

    fn norm_swiglu(
        &mut self,
        out: &mut GpuTensor,
        x: &GpuTensor,
        norm: &Norm<GpuTensor>,
        w: &GpuMatrix,
        tokens: usize,
    ) {
        self.product(&[out], (&x.buffer, 0), Some(norm), w, tokens, Epilogue::Gate);
    }
}
