//! The network: what it is made of, and the one forward pass. Start here.
//!
//! State is split by who shares it: [`Weights`] are constant and shared by every session; [`State`] belongs to
//! one conversation: keys and values, the position, and the scratch rows of a chunk.

use std::collections::HashMap;
use std::ops::Range;

use crate::backend::{Backend, Norm};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::model_file::ModelFile;
use crate::tensor::StoredTensor;

/// Everything that training made.
pub struct Weights<B: Backend> {
    /// The shape.
    pub config: Config,
    embed: B::Matrix,
    layers: Vec<Layer<B>>,
    norm: Norm<B::Tensor>,
    /// `None`: the embedding serves as the head.
    head: Option<B::Matrix>,
    /// Angle per position of each pair of a head, and the factor on cos and sin.
    frequencies: (Vec<f64>, f64),
}

/// One transformer layer.
pub struct Layer<B: Backend> {
    attn_norm: Norm<B::Tensor>,
    qkv: B::Matrix,
    /// Of each head of q and of k.
    qk_norm: Option<[Norm<B::Tensor>; 2]>,
    out: B::Matrix,
    ffn_norm: Norm<B::Tensor>,
    gate_up: B::Matrix,
    down: B::Matrix,
}

/// One conversation. Scratch tensors are `[chunk, cols]`.
pub struct State<B: Backend> {
    /// Tokens seen so far.
    pub position: usize,
    /// What the next pass is for.
    pub tokens: B::Tokens,
    cache: Vec<B::Cache>,
    /// The residual stream.
    x: B::Tensor,
    q: B::Tensor,
    k: B::Tensor,
    v: B::Tensor,
    /// What the heads found.
    found: B::Tensor,
    /// Between the two products of the feed-forward part.
    inner: B::Tensor,
    angles: B::Tensor,
    /// `[rows asked for, vocab]`.
    pub logits: B::Tensor,
}

/// Feeds `tokens` (at most a chunk, room reserved) and leaves the logits of the rows `wanted` in `s.logits`.
pub fn feed<B: Backend>(b: &mut B, w: &Weights<B>, s: &mut State<B>, tokens: &[u32], wanted: Range<usize>) {
    b.write_tokens(&mut s.tokens, tokens);
    forward(b, w, s, tokens.len(), wanted);
}

/// The same for the first `t` ids of `s.tokens`, which a machine may have put there by itself.
pub fn forward<B: Backend>(b: &mut B, w: &Weights<B>, s: &mut State<B>, t: usize, wanted: Range<usize>) {
    let positions = s.position..s.position + t;
    b.write(&mut s.angles, &w.angles(positions.clone()));
    b.embed(&mut s.x, &w.embed, &s.tokens, t);
    for (layer, cache) in w.layers.iter().zip(&mut s.cache) {
        // attention: x += out · attend(rope(norm(q · h)), rope(norm(k · h)), v · h), where h = norm(x)
        b.norm_matmul([&mut s.q, &mut s.k, &mut s.v], &s.x, &layer.attn_norm, &layer.qkv, 0..t);
        let qkv = [&mut s.q, &mut s.k, &mut s.v];
        b.attend(&mut s.found, qkv, layer.qk_norm.as_ref(), &s.angles, cache, positions.clone());
        b.matmul_add(&mut s.x, &s.found, &layer.out, t);
        // feed-forward: x += down · (silu(gate · h) * (up · h)), where h = norm(x)
        b.norm_swiglu(&mut s.inner, &s.x, &layer.ffn_norm, &layer.gate_up, t);
        b.matmul_add(&mut s.x, &s.inner, &layer.down, t);
    }
    if !wanted.is_empty() {
        b.norm_matmul([&mut s.logits], &s.x, &w.norm, w.head.as_ref().unwrap_or(&w.embed), wanted);
    }
    s.position += t;
}

impl<B: Backend> Weights<B> {
    /// Hands every tensor of a file to the backend.
    pub fn new(b: &mut B, file: &ModelFile) -> Result<Self> {
        let config = file.config.clone();
        config.check().map_err(|e| Error::format("config", e))?;
        let tensors = Tensors::new(file);
        let layers = (0..config.layers).map(|n| Layer::new(b, &tensors, n)).collect::<Result<_>>()?;
        Ok(Self {
            embed: tensors.matrix(b, ["model.embed_tokens.weight"])?,
            layers,
            norm: tensors.norm(b, "model.norm.weight", config.norm_eps)?,
            head: if config.tied { None } else { Some(tensors.matrix(b, ["lm_head.weight"])?) },
            frequencies: config.rope.frequencies(config.head_dim),
            config,
        })
    }

    /// Every matrix that a token passes through, the head last.
    pub fn matrices(&self) -> impl Iterator<Item = &B::Matrix> {
        let of_layers = self.layers.iter().flat_map(|l| [&l.qkv, &l.out, &l.gate_up, &l.down]);
        of_layers.chain([self.head.as_ref().unwrap_or(&self.embed)])
    }

    /// Cosines and sines of positions, computed in f64: a rope table without a table.
    fn angles(&self, positions: Range<usize>) -> Vec<f32> {
        let (frequencies, factor) = &self.frequencies;
        let mut angles = Vec::with_capacity(positions.len() * self.config.head_dim);
        for position in positions {
            let turn = |f: &f64| libm::sincos(position as f64 * f);
            angles.extend(frequencies.iter().map(|f| (turn(f).1 * factor) as f32));
            angles.extend(frequencies.iter().map(|f| (turn(f).0 * factor) as f32));
        }
        angles
    }
}

impl<B: Backend> Layer<B> {
    fn new(b: &mut B, tensors: &Tensors, n: usize) -> Result<Self> {
        let config = &tensors.file.config;
        let name = |part: &str| format!("model.layers.{n}.{part}.weight");
        let norm = |b: &mut B, part: &str, eps| tensors.norm(b, &name(part), eps);
        let qk_norm = match config.qk_norm_eps {
            Some(eps) => Some([norm(b, "self_attn.q_norm", eps)?, norm(b, "self_attn.k_norm", eps)?]),
            None => None,
        };
        let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
        Ok(Self {
            attn_norm: norm(b, "input_layernorm", config.norm_eps)?,
            qkv: tensors.matrix(b, qkv.map(name))?,
            qk_norm,
            out: tensors.matrix(b, [name("self_attn.o_proj")])?,
            ffn_norm: norm(b, "post_attention_layernorm", config.norm_eps)?,
            gate_up: tensors.matrix(b, ["mlp.gate_proj", "mlp.up_proj"].map(name))?,
            down: tensors.matrix(b, [name("mlp.down_proj")])?,
        })
    }
}

/// The tensors of a file by name, checked against the table.
struct Tensors<'a> {
    file: &'a ModelFile,
    shapes: HashMap<String, (usize, usize)>,
}

impl<'a> Tensors<'a> {
    fn new(file: &'a ModelFile) -> Self {
        let table = file.config.tensors().into_iter();
        Self { file, shapes: table.map(|spec| (spec.name, (spec.rows, spec.cols))).collect() }
    }

    fn get(&self, name: &str) -> Result<&'a StoredTensor> {
        match (self.shapes.get(name), self.file.tensors.get(name)) {
            (Some(shape), Some(t)) if *shape == (t.rows, t.cols) => Ok(t),
            _ => Err(Error::format("model", format!("the tensor {name} is missing or has a wrong shape"))),
        }
    }

    /// A stack of matrices.
    fn matrix<B: Backend, const N: usize>(
        &self,
        b: &mut B,
        names: [impl AsRef<str>; N],
    ) -> Result<B::Matrix> {
        // Clones: what is read of a file that lies elsewhere is let go with them.
        let stack = names.iter().map(|name| self.get(name.as_ref()).cloned()).collect::<Result<Vec<_>>>()?;
        b.matrix(&stack.iter().collect::<Vec<_>>())
    }

    fn norm<B: Backend>(&self, b: &mut B, name: &str, eps: f32) -> Result<Norm<B::Tensor>> {
        let values = self.get(name)?.to_f32();
        let mut gain = b.tensor(1, values.len())?;
        b.write(&mut gain, &values);
        Ok(Norm { gain, eps })
    }
}

impl<B: Backend> State<B> {
    /// A conversation of at most `context` tokens, fed in chunks of at most `chunk`.
    pub fn new(b: &B, config: &Config, context: usize, chunk: usize) -> Result<Self> {
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let caches = (0..config.layers).map(|_| b.cache(config.kv_heads, config.head_dim, context));
        Ok(Self {
            position: 0,
            tokens: b.tokens(chunk)?,
            cache: caches.collect::<Result<_>>()?,
            x: b.tensor(chunk, config.hidden)?,
            q: b.tensor(chunk, q)?,
            k: b.tensor(chunk, kv)?,
            v: b.tensor(chunk, kv)?,
            found: b.tensor(chunk, q)?,
            inner: b.tensor(chunk, config.intermediate)?,
            angles: b.tensor(chunk, config.head_dim)?,
            logits: b.tensor(1, config.vocab)?,
        })
    }

    /// Numbers that the tensors of [`State::new`] hold: the memory forecast asks.
    pub fn numbers(config: &Config, chunk: usize) -> usize {
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        chunk * (config.hidden + 2 * q + 2 * kv + config.intermediate + config.head_dim) + config.vocab
    }

    /// Keys and values, a cache for each layer.
    pub fn caches(&self) -> &[B::Cache] {
        &self.cache
    }

    /// The same, to be filled.
    pub fn caches_mut(&mut self) -> &mut [B::Cache] {
        &mut self.cache
    }

    /// Makes room for positions `0..positions` in every layer.
    pub fn reserve(&mut self, b: &B, positions: usize) -> Result<()> {
        self.cache.iter_mut().try_for_each(|cache| b.reserve(cache, positions))
    }
}
