//! The network: what it is made of, and the one forward pass. Start here.
//!
//! State is split by who shares it: [`Weights`] are constant and shared by every session; [`State`] belongs to
//! one conversation: keys and values, the position, and the scratch rows of a chunk.

use std::collections::HashMap;
use std::ops::Range;

use crate::backend::Backend;
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
    norm: B::Tensor,
    /// `None`: the embedding serves as the head.
    head: Option<B::Matrix>,
    /// Angle per position of each pair of a head, and the factor on cos and sin.
    frequencies: (Vec<f64>, f64),
}

/// One transformer layer.
pub struct Layer<B: Backend> {
    attn_norm: B::Tensor,
    wq: B::Matrix,
    wk: B::Matrix,
    wv: B::Matrix,
    /// Norms on each head of q and k, and their epsilon.
    qk_norm: Option<(B::Tensor, B::Tensor, f32)>,
    wo: B::Matrix,
    ffn_norm: B::Tensor,
    gate: B::Matrix,
    up: B::Matrix,
    down: B::Matrix,
}

/// One conversation. Scratch tensors are `[chunk, cols]`.
pub struct State<B: Backend> {
    /// Tokens seen so far.
    pub position: usize,
    cache: Vec<B::Cache>,
    /// The residual stream and its normalised copy.
    x: B::Tensor,
    h: B::Tensor,
    q: B::Tensor,
    k: B::Tensor,
    v: B::Tensor,
    /// What the heads found.
    found: B::Tensor,
    gate: B::Tensor,
    up: B::Tensor,
    angles: B::Tensor,
    /// `[rows asked for, vocab]`.
    pub logits: B::Tensor,
}

/// Feeds `tokens` (at most a chunk, room reserved) and leaves the logits of the rows `wanted` in `s.logits`.
pub fn forward<B: Backend>(
    b: &mut B,
    w: &Weights<B>,
    s: &mut State<B>,
    tokens: &[u32],
    wanted: Range<usize>,
) {
    let (eps, t, position) = (w.config.norm_eps, tokens.len(), s.position);
    b.write(&mut s.angles, &w.angles(position, t));
    b.embed(&mut s.x, &w.embed, tokens);
    for (layer, cache) in w.layers.iter().zip(&mut s.cache) {
        // attention: x += wo · attend(rope(norm(wq · h)), rope(norm(wk · h)), wv · h), where h = norm(x)
        b.rms_norm(&mut s.h, &s.x, &layer.attn_norm, eps, t);
        b.matmul([&mut s.q, &mut s.k, &mut s.v], &s.h, [&layer.wq, &layer.wk, &layer.wv], 0..t);
        if let Some((q_norm, k_norm, eps)) = &layer.qk_norm {
            b.head_norm(&mut s.q, q_norm, *eps, t);
            b.head_norm(&mut s.k, k_norm, *eps, t);
        }
        b.rope(&mut s.q, &s.angles, t);
        b.rope(&mut s.k, &s.angles, t);
        b.attention(&mut s.found, &s.q, [&s.k, &s.v], cache, position, t);
        b.matmul([&mut s.h], &s.found, [&layer.wo], 0..t);
        b.add(&mut s.x, &s.h, t);
        // feed-forward: x += down · (silu(gate · h) * (up · h)), where h = norm(x)
        b.rms_norm(&mut s.h, &s.x, &layer.ffn_norm, eps, t);
        b.matmul([&mut s.gate, &mut s.up], &s.h, [&layer.gate, &layer.up], 0..t);
        b.swiglu(&mut s.gate, &s.up, t);
        b.matmul([&mut s.h], &s.gate, [&layer.down], 0..t);
        b.add(&mut s.x, &s.h, t);
    }
    if !wanted.is_empty() {
        b.rms_norm(&mut s.h, &s.x, &w.norm, eps, t);
        b.matmul([&mut s.logits], &s.h, [w.head.as_ref().unwrap_or(&w.embed)], wanted);
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
            embed: b.matrix(tensors.get("model.embed_tokens.weight")?)?,
            layers,
            norm: tensors.gain(b, "model.norm.weight")?,
            head: if config.tied { None } else { Some(b.matrix(tensors.get("lm_head.weight")?)?) },
            frequencies: config.rope.frequencies(config.head_dim),
            config,
        })
    }

    /// Every matrix that a token passes through, the head last.
    pub fn matrices(&self) -> impl Iterator<Item = &B::Matrix> {
        let of_layers =
            self.layers.iter().flat_map(|l| [&l.wq, &l.wk, &l.wv, &l.wo, &l.gate, &l.up, &l.down]);
        of_layers.chain([self.head.as_ref().unwrap_or(&self.embed)])
    }

    /// Cosines and sines of `tokens` positions from `first`, computed in f64: a rope table without a table.
    fn angles(&self, first: usize, tokens: usize) -> Vec<f32> {
        let (frequencies, factor) = &self.frequencies;
        let mut angles = Vec::with_capacity(tokens * self.config.head_dim);
        for position in first..first + tokens {
            let turn = |f: &f64| libm::sincos(position as f64 * f);
            angles.extend(frequencies.iter().map(|f| (turn(f).1 * factor) as f32));
            angles.extend(frequencies.iter().map(|f| (turn(f).0 * factor) as f32));
        }
        angles
    }
}

impl<B: Backend> Layer<B> {
    fn new(b: &mut B, tensors: &Tensors, n: usize) -> Result<Self> {
        let name = |part: &str| format!("model.layers.{n}.{part}.weight");
        let matrix = |b: &mut B, part: &str| b.matrix(tensors.get(&name(part))?);
        let qk_norm = match tensors.file.config.qk_norm_eps {
            Some(eps) => Some((
                tensors.gain(b, &name("self_attn.q_norm"))?,
                tensors.gain(b, &name("self_attn.k_norm"))?,
                eps,
            )),
            None => None,
        };
        Ok(Self {
            attn_norm: tensors.gain(b, &name("input_layernorm"))?,
            wq: matrix(b, "self_attn.q_proj")?,
            wk: matrix(b, "self_attn.k_proj")?,
            wv: matrix(b, "self_attn.v_proj")?,
            qk_norm,
            wo: matrix(b, "self_attn.o_proj")?,
            ffn_norm: tensors.gain(b, &name("post_attention_layernorm"))?,
            gate: matrix(b, "mlp.gate_proj")?,
            up: matrix(b, "mlp.up_proj")?,
            down: matrix(b, "mlp.down_proj")?,
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

    fn gain<B: Backend>(&self, b: &mut B, name: &str) -> Result<B::Tensor> {
        let values = self.get(name)?.to_f32();
        let mut tensor = b.tensor(1, values.len())?;
        b.write(&mut tensor, &values);
        Ok(tensor)
    }
}

impl<B: Backend> State<B> {
    /// A conversation of at most `context` tokens, fed in chunks of at most `chunk`.
    pub fn new(b: &B, config: &Config, context: usize, chunk: usize) -> Result<Self> {
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let caches = (0..config.layers).map(|_| b.cache(config.kv_heads, config.head_dim, context));
        Ok(Self {
            position: 0,
            cache: caches.collect::<Result<_>>()?,
            x: b.tensor(chunk, config.hidden)?,
            h: b.tensor(chunk, config.hidden)?,
            q: b.tensor(chunk, q)?,
            k: b.tensor(chunk, kv)?,
            v: b.tensor(chunk, kv)?,
            found: b.tensor(chunk, q)?,
            gate: b.tensor(chunk, config.intermediate)?,
            up: b.tensor(chunk, config.intermediate)?,
            angles: b.tensor(chunk, config.head_dim)?,
            logits: b.tensor(1, config.vocab)?,
        })
    }

    /// Numbers that the tensors of [`State::new`] hold: the memory forecast asks.
    pub fn numbers(config: &Config, chunk: usize) -> usize {
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        chunk * (2 * config.hidden + 2 * q + 2 * kv + 2 * config.intermediate + config.head_dim)
            + config.vocab
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
