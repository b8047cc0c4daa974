//! The network: `forward`, which keeps what `backward` needs, and `backward` as its mirror. Start here.
//!
//! Shapes: t = batch * seq tokens in flight; x is `[t, hidden]`. What is cheap to make again (norms, swiglu, the
//! rotated q and k) is made again in `backward` rather than kept: 5.6 numbers per hidden unit and layer instead of 9;
//! with activation checkpointing all but the residual stream is made again.

use bonsai_runtime::config::Config;

use crate::backend::{AttentionShape, Backend};
use crate::data::Batch;
use crate::error::Result;
use crate::loss::Objective;
use crate::params::{EMBED, LayerIndex, Params};

/// What one layer's forward pass leaves for its backward pass, beside its input.
struct Kept<B: Backend> {
    /// Queries before norm and rotation, `[t, heads * head_dim]`.
    q: B::Buffer,
    /// Keys before norm and rotation, `[t, kv_heads * head_dim]`.
    k: B::Buffer,
    /// Values, `[t, kv_heads * head_dim]`.
    v: B::Buffer,
    /// Attention's output, `[t, heads * head_dim]`.
    attended: B::Buffer,
    /// Log-sum-exp of the attention scores, `[batch, heads, seq]`.
    lse: B::Buffer,
    /// Residual stream between attention and feed-forward, `[t, hidden]`.
    middle: B::Buffer,
    /// `[t, intermediate]`; becomes its own gradient.
    gate: B::Buffer,
    /// `[t, intermediate]`; becomes its own gradient.
    up: B::Buffer,
}

/// Buffers that every layer uses in its turn.
struct Shared<B: Backend> {
    /// Gradient of the residual stream.
    dx: B::Buffer,
    /// A normed residual stream, and its gradient.
    h: B::Buffer,
    dh: B::Buffer,
    /// Rotated queries and keys.
    q: B::Buffer,
    k: B::Buffer,
    /// The feed-forward layer's inner activation, and its gradient.
    inner: B::Buffer,
    d_inner: B::Buffer,
    /// Gradients of queries, keys and values, and of what they were before norm and rotation.
    d_qkv: [B::Buffer; 3],
    d_raw: [B::Buffer; 2],
    /// Gradient of attention's output.
    d_attended: B::Buffer,
}

/// Buffers of the forward and backward passes for batches of one shape.
pub struct Activations<B: Backend> {
    shape: AttentionShape,
    /// The residual stream before each layer, and after the last one: `[t, hidden]` each.
    x: Vec<B::Buffer>,
    /// One a layer; or a single one, which `backward` fills again for each layer.
    kept: Vec<Kept<B>>,
    /// Activation checkpointing (Chen et al., arXiv 1604.06174): `kept` is the single one.
    recompute: bool,
    /// Nothing is kept for a backward pass: `x` is two buffers that take turns.
    forward_only: bool,
    shared: Shared<B>,
}

impl<B: Backend> Activations<B> {
    /// Buffers for `batch` sequences of `seq` tokens.
    pub fn new(b: &B, c: &Config, batch: usize, seq: usize) -> Self {
        Self::with_checkpointing(b, c, batch, seq, false)
    }

    /// Buffers that, with `recompute`, keep only the residual stream of each layer.
    pub fn with_checkpointing(b: &B, c: &Config, batch: usize, seq: usize, recompute: bool) -> Self {
        Self::make(b, c, (batch, seq), recompute, false)
    }

    /// Buffers of [`forward`] alone: those of one layer.
    pub fn forward_only(b: &B, c: &Config, batch: usize, seq: usize) -> Self {
        Self::make(b, c, (batch, seq), true, true)
    }

    fn make(b: &B, c: &Config, (batch, seq): (usize, usize), recompute: bool, forward_only: bool) -> Self {
        let layers = if forward_only { 1 } else { c.layers };
        let shape = AttentionShape { batch, seq, heads: c.heads, kv_heads: c.kv_heads, head_dim: c.head_dim };
        let t = batch * seq;
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let (hidden, wide) = (|| b.buffer(t * c.hidden), || b.buffer(t * c.intermediate));
        let (query, key) = (|| b.buffer(t * q), || b.buffer(t * kv));
        let kept = |_| Kept {
            q: query(),
            k: key(),
            v: key(),
            attended: query(),
            lse: b.buffer(t * c.heads),
            middle: hidden(),
            gate: wide(),
            up: wide(),
        };
        Self {
            shape,
            x: (0..=layers).map(|_| hidden()).collect(),
            kept: (0..if recompute { 1 } else { c.layers }).map(kept).collect(),
            recompute,
            forward_only,
            shared: Shared {
                dx: hidden(),
                h: hidden(),
                dh: hidden(),
                q: query(),
                k: key(),
                inner: wide(),
                d_inner: wide(),
                d_qkv: [query(), key(), key()],
                d_raw: [query(), key()],
                d_attended: query(),
            },
        }
    }

    /// Numbers that these buffers hold for a shape: the memory forecast asks.
    pub fn len(c: &Config, batch: usize, seq: usize, recompute: bool) -> usize {
        let (q, kv, h, ff) = (c.heads * c.head_dim, c.kv_heads * c.head_dim, c.hidden, c.intermediate);
        let kept = h + 2 * q + 2 * kv + 2 * ff + c.heads;
        let shared = 3 * h + 4 * q + 4 * kv + 2 * ff;
        batch * seq * ((c.layers + 1) * h + if recompute { 1 } else { c.layers } * kept + shared)
    }

    /// The same of [`Activations::forward_only`].
    pub fn forward_only_len(c: &Config, batch: usize, seq: usize) -> usize {
        Self::len(c, batch, seq, true) - batch * seq * (c.layers - 1) * c.hidden
    }

    /// The residual stream after each layer, `[t, hidden]`: after [`forward`], where it is kept.
    pub fn streams(&self) -> &[B::Buffer] {
        assert!(!self.forward_only, "these buffers keep one layer's residual stream");
        &self.x[1..]
    }

    /// The normed final residual stream, `[t, hidden]`, that the head reads: after [`forward`].
    pub fn normed(&self) -> &B::Buffer {
        &self.shared.h
    }
}

/// Runs the network over a batch and leaves the normed final residual stream, which the head reads, in the buffers.
pub fn forward<B: Backend>(b: &mut B, p: &Params<B>, a: &mut Activations<B>, batch: &Batch) {
    assert!(batch.batch == a.shape.batch && batch.seq == a.shape.seq, "buffers for another batch shape");
    b.embed(&mut a.x[0], &p.list[EMBED].value, &batch.tokens);
    for n in 0..p.config.layers {
        let at = if a.forward_only { 0 } else { n };
        let (before, after) = a.x.split_at_mut(at + 1);
        let kept = &mut a.kept[if a.recompute { 0 } else { n }];
        layer(b, p, p.layer(n), (&before[at], kept), &mut a.shared, a.shape);
        feed_forward(b, p, p.layer(n), &mut after[0], kept, &mut a.shared);
        if a.forward_only {
            a.x.swap(0, 1);
        }
    }
    let last = &a.x[if a.forward_only { 0 } else { p.config.layers }];
    b.rms_norm(&mut a.shared.h, last, &p.list[p.final_norm()].value, p.config.norm_eps);
}

/// One layer up to the two inner activations of its feed-forward half: all that its backward pass needs.
fn layer<B: Backend>(
    b: &mut B,
    p: &Params<B>,
    l: LayerIndex,
    (x, kept): (&B::Buffer, &mut Kept<B>),
    s: &mut Shared<B>,
    shape: AttentionShape,
) {
    let w = |index: usize| &p.list[index].value;
    // attention: middle = x + wo attend(rope(norm(wq h)), rope(norm(wk h)), wv h), where h = norm(x)
    b.rms_norm(&mut s.h, x, w(l.attn_norm), p.config.norm_eps);
    b.linear(&mut kept.q, &s.h, w(l.q));
    b.linear(&mut kept.k, &s.h, w(l.k));
    b.linear(&mut kept.v, &s.h, w(l.v));
    rotated(b, p, l, [&mut s.q, &mut s.k], [&kept.q, &kept.k], shape);
    b.attention(&mut kept.attended, &mut kept.lse, [&s.q, &s.k, &kept.v], shape);
    b.linear(&mut kept.middle, &kept.attended, w(l.o));
    b.add(&mut kept.middle, x);
    // feed-forward: x' = middle + down (silu(gate h) * (up h)), where h = norm(middle)
    b.rms_norm(&mut s.h, &kept.middle, w(l.ffn_norm), p.config.norm_eps);
    b.linear(&mut kept.gate, &s.h, w(l.gate));
    b.linear(&mut kept.up, &s.h, w(l.up));
}

/// The end of a layer: `x' = middle + down (silu(gate) * up)`.
fn feed_forward<B: Backend>(
    b: &mut B,
    p: &Params<B>,
    l: LayerIndex,
    out: &mut B::Buffer,
    kept: &Kept<B>,
    s: &mut Shared<B>,
) {
    b.swiglu(&mut s.inner, &kept.gate, &kept.up);
    b.linear(out, &s.inner, &p.list[l.down].value);
    b.add(out, &kept.middle);
}

/// Tallies the summed cross-entropy of a batch, in nats: after [`forward`].
pub fn loss<B: Backend>(b: &mut B, p: &Params<B>, a: &Activations<B>, batch: &Batch) {
    losses(b, p, a, batch, &Objective::Text { z_loss: 0.0 });
}

/// Tallies the summed losses of a batch: after [`forward`].
pub fn losses<B: Backend>(
    b: &mut B,
    p: &Params<B>,
    a: &Activations<B>,
    batch: &Batch,
    objective: &Objective<'_, B>,
) {
    let (h, w, targets) = (&a.shared.h, &p.list[p.head()].value, &batch.targets);
    match *objective {
        Objective::Text { .. } => b.cross_entropy(h, w, targets),
        Objective::Teacher { word, terms, .. } => b.distillation((h, w), word, targets, terms),
    }
}

/// Adds the gradients of `scale * summed cross-entropy` to the parameters' and tallies the summed loss: after
/// [`forward`], whose lines it takes in reverse.
pub fn backward<B: Backend>(b: &mut B, p: &mut Params<B>, a: &mut Activations<B>, batch: &Batch, scale: f32) {
    let text = Objective::Text { z_loss: 0.0 };
    backward_with(b, p, a, batch, (&text, scale), |_, _, _| {});
}

/// [`backward`] for any objective, which calls `finished(backend, parameters, index)` as soon as the gradient of parameter
/// `index` is whole and its value is needed no more. The losses are tallied before the first call.
pub fn backward_with<B: Backend>(
    b: &mut B,
    p: &mut Params<B>,
    a: &mut Activations<B>,
    batch: &Batch,
    (objective, scale): (&Objective<'_, B>, f32),
    finished: impl FnMut(&mut B, &mut Params<B>, usize),
) {
    let (layers, head, final_norm, eps) = (p.config.layers, p.head(), p.final_norm(), p.config.norm_eps);
    let Activations { shape, x, kept, recompute, shared: s, .. } = a;
    let (w, dw) = p.value_and_grad(b, head);
    head_backward(b, (&mut s.dh, dw), (&s.h, w), &batch.targets, objective, scale);
    let mut g = Gradients { b, p, finished };
    if head != EMBED {
        g.finish(head); // a tied head is the embedding, which gets the rest of its gradient at the end
    }
    g.rms_norm(final_norm, (&mut s.dx, false), &s.dh, &x[layers], eps);
    for n in (0..layers).rev() {
        let l = g.p.layer(n);
        if let Objective::Teacher { streams: (streams @ [_, ..], weight), .. } = objective {
            let scale = scale * weight / layers as f32;
            g.b.stream_distance_backward(&mut s.dx, [&x[n + 1], &streams[n]], &batch.targets, scale);
        }
        let kept = &mut kept[if *recompute { 0 } else { n }];
        if *recompute {
            layer(g.b, g.p, l, (&x[n], kept), s, *shape);
        }
        // feed-forward
        g.b.rms_norm(&mut s.h, &kept.middle, &g.p.list[l.ffn_norm].value, eps);
        g.b.swiglu(&mut s.inner, &kept.gate, &kept.up);
        g.linear(l.down, (&mut s.d_inner, false), &s.dx, &s.inner);
        g.b.swiglu_backward(&mut kept.gate, &mut kept.up, &s.d_inner);
        g.linear(l.up, (&mut s.dh, false), &kept.up, &s.h);
        g.linear(l.gate, (&mut s.dh, true), &kept.gate, &s.h);
        g.rms_norm(l.ffn_norm, (&mut s.dx, true), &s.dh, &kept.middle, eps);
        // attention
        g.linear(l.o, (&mut s.d_attended, false), &s.dx, &kept.attended);
        rotated(g.b, g.p, l, [&mut s.q, &mut s.k], [&kept.q, &kept.k], *shape);
        let [dq, dk, dv] = &mut s.d_qkv;
        let qkv = [&s.q, &s.k, &kept.v];
        g.b.attention_backward([dq, dk, dv], &s.d_attended, &kept.attended, &kept.lse, qkv, *shape);
        g.rotated(l, [dq, dk], &mut s.d_raw, [&kept.q, &kept.k], *shape);
        g.b.rms_norm(&mut s.h, &x[n], &g.p.list[l.attn_norm].value, eps);
        g.linear(l.v, (&mut s.dh, false), &s.d_qkv[2], &s.h);
        g.linear(l.k, (&mut s.dh, true), &s.d_qkv[1], &s.h);
        g.linear(l.q, (&mut s.dh, true), &s.d_qkv[0], &s.h);
        g.rms_norm(l.attn_norm, (&mut s.dx, true), &s.dh, &x[n], eps);
    }
    g.b.embed_backward(g.p.value_and_grad(g.b, EMBED).1, &s.dx, &batch.tokens);
    g.finish(EMBED);
}

/// The objective's gradients with respect to the head's input and weights.
fn head_backward<B: Backend>(
    b: &mut B,
    (dh, dw): (&mut B::Buffer, &mut B::Buffer),
    (h, w): (&B::Buffer, &B::Matrix),
    targets: &[u32],
    objective: &Objective<'_, B>,
    scale: f32,
) {
    match *objective {
        Objective::Text { z_loss } => b.cross_entropy_backward(dh, dw, h, w, targets, scale, z_loss),
        Objective::Teacher { word, terms, .. } => {
            b.distillation_backward((dh, dw), (h, w), word, targets, terms, scale);
        }
    }
}

/// `out = rope(norm(raw))` for queries and keys; without the norm where the model has none.
fn rotated<B: Backend>(
    b: &mut B,
    p: &Params<B>,
    l: LayerIndex,
    out: [&mut B::Buffer; 2],
    raw: [&B::Buffer; 2],
    shape: AttentionShape,
) {
    for (i, (out, raw)) in out.into_iter().zip(raw).enumerate() {
        match (l.qk_norm, p.config.qk_norm_eps) {
            (Some(gains), Some(eps)) => b.rms_norm(out, raw, &p.list[gains[i]].value, eps),
            _ => b.copy(out, raw),
        }
        b.rope(out, shape);
    }
}

/// The half of the backward pass that ends in gradients of parameters.
struct Gradients<'a, B: Backend, F> {
    b: &'a mut B,
    p: &'a mut Params<B>,
    finished: F,
}

impl<B: Backend, F: FnMut(&mut B, &mut Params<B>, usize)> Gradients<'_, B, F> {
    fn finish(&mut self, index: usize) {
        (self.finished)(self.b, self.p, index);
    }

    /// A linear layer with parameter `index`: `dx` is written, or added to when it says so.
    fn linear(
        &mut self,
        index: usize,
        (dx, accumulate): (&mut B::Buffer, bool),
        dy: &B::Buffer,
        x: &B::Buffer,
    ) {
        let (w, dw) = self.p.value_and_grad(self.b, index);
        self.b.linear_backward(dx, accumulate, dw, dy, x, w);
        self.finish(index);
    }

    /// A norm whose gain is parameter `index`: `dx` is written, or added to when it says so.
    fn rms_norm(
        &mut self,
        index: usize,
        (dx, accumulate): (&mut B::Buffer, bool),
        dy: &B::Buffer,
        x: &B::Buffer,
        eps: f32,
    ) {
        let (gain, d_gain) = self.p.value_and_grad(self.b, index);
        self.b.rms_norm_backward(dx, accumulate, d_gain, [dy, x], gain, eps);
        self.finish(index);
    }

    /// Mirror of [`rotated`]: turns the gradients `d` into those of `raw`, by way of the scratch `d_raw`.
    fn rotated(
        &mut self,
        l: LayerIndex,
        d: [&mut B::Buffer; 2],
        d_raw: &mut [B::Buffer; 2],
        raw: [&B::Buffer; 2],
        shape: AttentionShape,
    ) {
        for (i, ((d, d_raw), raw)) in d.into_iter().zip(d_raw).zip(raw).enumerate() {
            self.b.rope_backward(d, shape);
            if let (Some(gains), Some(eps)) = (l.qk_norm, self.p.config.qk_norm_eps) {
                self.rms_norm(gains[i], (d_raw, false), d, raw, eps);
                std::mem::swap(d, d_raw);
            }
        }
    }
}

/// Logits of every token, `[t, vocab]`: after [`forward`]. For comparing programs, not for training.
pub fn logits<B: Backend>(b: &mut B, p: &Params<B>, a: &Activations<B>) -> Result<Vec<f32>> {
    let mut out = b.buffer(a.shape.batch * a.shape.seq * p.config.vocab);
    b.linear(&mut out, &a.shared.h, &p.list[p.head()].value);
    Ok(b.read(&out)?.into_owned())
}
