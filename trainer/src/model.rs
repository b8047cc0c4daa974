//! The network: `forward`, which keeps what `backward` needs, and `backward` as its mirror. Start here.
//!
//! Shapes: t = batch * seq tokens in flight; x is `[t, hidden]`. What is cheap to make again (norms, swiglu, the
//! rotated q and k) is made again in `backward` rather than kept: 5.6 numbers per hidden unit and layer instead of 9.

use bonsai_runtime::config::Config;

use crate::backend::{AttentionShape, Backend};
use crate::data::Batch;
use crate::params::{EMBED, LayerIndex, Params};

/// What one layer's forward pass leaves for its backward pass.
struct Kept<B: Backend> {
    /// Residual stream before the layer, `[t, hidden]`.
    x: B::Buffer,
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

/// Buffers of the forward and backward passes for batches of one shape.
pub struct Activations<B: Backend> {
    shape: AttentionShape,
    layers: Vec<Kept<B>>,
    /// Residual stream after the last layer, and its gradient.
    x: B::Buffer,
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

impl<B: Backend> Activations<B> {
    /// Buffers for `batch` sequences of `seq` tokens.
    pub fn new(b: &B, c: &Config, batch: usize, seq: usize) -> Self {
        let shape = AttentionShape { batch, seq, heads: c.heads, kv_heads: c.kv_heads, head_dim: c.head_dim };
        let t = batch * seq;
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let (hidden, wide) = (|| b.buffer(t * c.hidden), || b.buffer(t * c.intermediate));
        let (query, key) = (|| b.buffer(t * q), || b.buffer(t * kv));
        let kept = |_| Kept {
            x: hidden(),
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
            layers: (0..c.layers).map(kept).collect(),
            x: hidden(),
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
        }
    }

    /// Numbers that these buffers hold for a shape: the memory forecast asks.
    pub fn len(c: &Config, batch: usize, seq: usize) -> usize {
        let (q, kv, h, ff) = (c.heads * c.head_dim, c.kv_heads * c.head_dim, c.hidden, c.intermediate);
        let kept = 2 * h + 2 * q + 2 * kv + 2 * ff + c.heads;
        let shared = 4 * h + 4 * q + 4 * kv + 2 * ff;
        batch * seq * (c.layers * kept + shared)
    }
}

/// Runs the network over a batch and leaves the normed final residual stream, which the head reads, in the buffers.
pub fn forward<B: Backend>(b: &mut B, p: &Params<B>, a: &mut Activations<B>, batch: &Batch) {
    let c = &p.config;
    assert!(batch.batch == a.shape.batch && batch.seq == a.shape.seq, "buffers for another batch shape");
    let w = |index: usize| &p.list[index].value;
    b.embed(&mut a.x, w(EMBED), &batch.tokens);
    for (n, kept) in a.layers.iter_mut().enumerate() {
        let l = p.layer(n);
        std::mem::swap(&mut kept.x, &mut a.x);
        // attention: middle = x + wo attend(rope(norm(wq h)), rope(norm(wk h)), wv h), where h = norm(x)
        b.rms_norm(&mut a.h, &kept.x, w(l.attn_norm), c.norm_eps);
        b.linear(&mut kept.q, &a.h, w(l.q));
        b.linear(&mut kept.k, &a.h, w(l.k));
        b.linear(&mut kept.v, &a.h, w(l.v));
        rotated(b, p, l, [&mut a.q, &mut a.k], [&kept.q, &kept.k], a.shape);
        b.attention(&mut kept.attended, &mut kept.lse, [&a.q, &a.k, &kept.v], a.shape);
        b.linear(&mut kept.middle, &kept.attended, w(l.o));
        b.add(&mut kept.middle, &kept.x);
        // feed-forward: x = middle + down (silu(gate h) * (up h)), where h = norm(middle)
        b.rms_norm(&mut a.h, &kept.middle, w(l.ffn_norm), c.norm_eps);
        b.linear(&mut kept.gate, &a.h, w(l.gate));
        b.linear(&mut kept.up, &a.h, w(l.up));
        b.swiglu(&mut a.inner, &kept.gate, &kept.up);
        b.linear(&mut a.x, &a.inner, w(l.down));
        b.add(&mut a.x, &kept.middle);
    }
    b.rms_norm(&mut a.h, &a.x, w(p.final_norm()), c.norm_eps);
}

/// Summed loss of a batch, in nats: after [`forward`].
pub fn loss<B: Backend>(b: &mut B, p: &Params<B>, a: &Activations<B>, batch: &Batch) -> f64 {
    b.cross_entropy(&a.h, &p.list[p.head()].value, &batch.targets)
}

/// Adds the gradients of `scale * summed loss` to the parameters' and returns the summed loss: after [`forward`],
/// whose lines it takes in reverse.
pub fn backward<B: Backend>(
    b: &mut B,
    p: &mut Params<B>,
    a: &mut Activations<B>,
    batch: &Batch,
    scale: f32,
) -> f64 {
    let c = p.config.clone();
    let (head, final_norm) = (p.head(), p.final_norm());
    let Params { list, .. } = p;
    let (value, grad) = value_and_grad(list, head);
    let loss = b.cross_entropy_backward(&mut a.dh, grad, &a.h, value, &batch.targets, scale);
    b.clear(&mut a.dx);
    let (gain, d_gain) = value_and_grad(list, final_norm);
    b.rms_norm_backward(&mut a.dx, d_gain, &a.dh, &a.x, gain, c.norm_eps);
    for (n, kept) in a.layers.iter_mut().enumerate().rev() {
        let l = p.layer(n);
        // feed-forward
        b.rms_norm(&mut a.h, &kept.middle, &p.list[l.ffn_norm].value, c.norm_eps);
        b.swiglu(&mut a.inner, &kept.gate, &kept.up);
        linear_backward(b, p, l.down, (&mut a.d_inner, false), &a.dx, &a.inner);
        b.swiglu_backward(&mut kept.gate, &mut kept.up, &a.d_inner);
        linear_backward(b, p, l.up, (&mut a.dh, false), &kept.up, &a.h);
        linear_backward(b, p, l.gate, (&mut a.dh, true), &kept.gate, &a.h);
        let (gain, d_gain) = value_and_grad(&mut p.list, l.ffn_norm);
        b.rms_norm_backward(&mut a.dx, d_gain, &a.dh, &kept.middle, gain, c.norm_eps);
        // attention
        linear_backward(b, p, l.o, (&mut a.d_attended, false), &a.dx, &kept.attended);
        rotated(b, p, l, [&mut a.q, &mut a.k], [&kept.q, &kept.k], a.shape);
        let [dq, dk, dv] = &mut a.d_qkv;
        b.attention_backward(
            [dq, dk, dv],
            &a.d_attended,
            &kept.attended,
            &kept.lse,
            [&a.q, &a.k, &kept.v],
            a.shape,
        );
        rotated_backward(b, p, l, [dq, dk], &mut a.d_raw, [&kept.q, &kept.k], a.shape);
        b.rms_norm(&mut a.h, &kept.x, &p.list[l.attn_norm].value, c.norm_eps);
        linear_backward(b, p, l.v, (&mut a.dh, false), &a.d_qkv[2], &a.h);
        linear_backward(b, p, l.k, (&mut a.dh, true), &a.d_qkv[1], &a.h);
        linear_backward(b, p, l.q, (&mut a.dh, true), &a.d_qkv[0], &a.h);
        let (gain, d_gain) = value_and_grad(&mut p.list, l.attn_norm);
        b.rms_norm_backward(&mut a.dx, d_gain, &a.dh, &kept.x, gain, c.norm_eps);
    }
    b.embed_backward(&mut p.list[EMBED].grad, &a.dx, &batch.tokens);
    loss
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

/// Mirror of [`rotated`]: turns the gradients `d` into those of `raw`, by way of the scratch `d_raw`.
fn rotated_backward<B: Backend>(
    b: &mut B,
    p: &mut Params<B>,
    l: LayerIndex,
    d: [&mut B::Buffer; 2],
    d_raw: &mut [B::Buffer; 2],
    raw: [&B::Buffer; 2],
    shape: AttentionShape,
) {
    for (i, ((d, d_raw), raw)) in d.into_iter().zip(d_raw).zip(raw).enumerate() {
        b.rope_backward(d, shape);
        if let (Some(gains), Some(eps)) = (l.qk_norm, p.config.qk_norm_eps) {
            b.clear(d_raw);
            let (gain, d_gain) = value_and_grad(&mut p.list, gains[i]);
            b.rms_norm_backward(d_raw, d_gain, d, raw, gain, eps);
            std::mem::swap(d, d_raw);
        }
    }
}

/// The backward half of the linear layer with parameter `index`: `dx` is written, or added to when it says so.
fn linear_backward<B: Backend>(
    b: &mut B,
    p: &mut Params<B>,
    index: usize,
    (dx, accumulate): (&mut B::Buffer, bool),
    dy: &B::Buffer,
    x: &B::Buffer,
) {
    let (w, dw) = value_and_grad(&mut p.list, index);
    b.linear_backward(dx, accumulate, dw, dy, x, w);
}

fn value_and_grad<B: Backend>(
    list: &mut [crate::params::Param<B>],
    index: usize,
) -> (&B::Matrix, &mut B::Buffer) {
    let param = &mut list[index];
    (&param.value, &mut param.grad)
}

/// Logits of every token, `[t, vocab]`: after [`forward`]. For comparing programs, not for training.
pub fn logits<B: Backend>(b: &mut B, p: &Params<B>, a: &Activations<B>) -> Vec<f32> {
    let mut out = b.buffer(a.shape.batch * a.shape.seq * p.config.vocab);
    b.linear(&mut out, &a.h, &p.list[p.head()].value);
    b.read(&out).into_owned()
}
