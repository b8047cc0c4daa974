//! Times training steps of burn on a GPU, on the model that `train_step 3m BATCH SEQ STEPS device=gpu` of bonsai-benches
//! trains: the same sizes (norms of queries and keys, rotary positions, grouped heads, SwiGLU, tied head), AdamW, each
//! tensor clipped by its norm, and the loss read back after every step. burn's weights are dense: it rounds nothing.
//!
//! `cargo run --release -- BATCH SEQ STEPS` prints one JSON line. The first steps tune and compile.

use std::time::Instant;

use burn::grad_clipping::GradientClippingConfig;
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{
    Embedding, EmbeddingConfig, Initializer, Linear, LinearConfig, RmsNorm, RmsNormConfig, RotaryEncoding,
    RotaryEncodingConfig,
};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::{silu, softmax};
use burn::tensor::{Bool, Device, DeviceKind, Int, Tensor, TensorData};

const VOCAB: usize = 4096;
const HIDDEN: usize = 256;
const LAYERS: usize = 3;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 64;
const INNER: usize = 640;

#[derive(Module, Debug)]
struct Layer {
    attn_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    o: Linear,
    ffn_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

#[derive(Module, Debug)]
struct Model {
    embed: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    rope: RotaryEncoding,
}

fn normal() -> Initializer {
    Initializer::Normal { mean: 0.0, std: 0.02 }
}

fn linear(from: usize, to: usize, device: &Device) -> Linear {
    LinearConfig::new(from, to).with_bias(false).with_initializer(normal()).init(device)
}

fn norm(n: usize, device: &Device) -> RmsNorm {
    RmsNormConfig::new(n).with_epsilon(1e-6).init(device)
}

impl Layer {
    fn new(d: &Device) -> Self {
        let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
        Self {
            attn_norm: norm(HIDDEN, d),
            q: linear(HIDDEN, q, d),
            k: linear(HIDDEN, kv, d),
            v: linear(HIDDEN, kv, d),
            q_norm: norm(HEAD_DIM, d),
            k_norm: norm(HEAD_DIM, d),
            o: linear(q, HIDDEN, d),
            ffn_norm: norm(HIDDEN, d),
            gate: linear(HIDDEN, INNER, d),
            up: linear(HIDDEN, INNER, d),
            down: linear(INNER, HIDDEN, d),
        }
    }

    fn forward(&self, x: Tensor<3>, rope: &RotaryEncoding, future: &Tensor<4, Bool>) -> Tensor<3> {
        let [batch, seq, _] = x.dims();
        let h = self.attn_norm.forward(x.clone());
        let heads = |x: Tensor<3>, n: usize| x.reshape([batch, seq, n, HEAD_DIM]);
        let q = self.q_norm.forward(heads(self.q.forward(h.clone()), HEADS)).swap_dims(1, 2);
        let k = self.k_norm.forward(heads(self.k.forward(h.clone()), KV_HEADS)).swap_dims(1, 2);
        let v = heads(self.v.forward(h), KV_HEADS).swap_dims(1, 2);
        let (q, k) = (rope.forward(q), rope.forward(k));
        let shared = |x: Tensor<4>| {
            let wide: Tensor<5> = x.reshape([batch, KV_HEADS, 1, seq, HEAD_DIM]);
            wide.repeat_dim(2, HEADS / KV_HEADS).reshape([batch, HEADS, seq, HEAD_DIM])
        };
        let (k, v) = (shared(k), shared(v));
        let scores = q.matmul(k.swap_dims(2, 3)).div_scalar((HEAD_DIM as f32).sqrt());
        let weights = softmax(scores.mask_fill(future.clone(), -1e9), 3);
        let attended = weights.matmul(v).swap_dims(1, 2).reshape([batch, seq, HEADS * HEAD_DIM]);
        let x = x + self.o.forward(attended);
        let h = self.ffn_norm.forward(x.clone());
        let inner = silu(self.gate.forward(h.clone())) * self.up.forward(h);
        x + self.down.forward(inner)
    }
}

impl Model {
    fn new(seq: usize, d: &Device) -> Self {
        Self {
            embed: EmbeddingConfig::new(VOCAB, HIDDEN).with_initializer(normal()).init(d),
            layers: (0..LAYERS).map(|_| Layer::new(d)).collect(),
            norm: norm(HIDDEN, d),
            rope: RotaryEncodingConfig::new(seq, HEAD_DIM).init(d),
        }
    }

    /// Logits, `[tokens, vocabulary]`.
    fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<2> {
        let [batch, seq] = tokens.dims();
        let device = tokens.device();
        // True where a position must not look: burn fills what the mask says.
        let future = Tensor::<2, Bool>::tril_mask([seq, seq], 0, &device);
        let future: Tensor<4, Bool> = future.unsqueeze::<4>().expand([batch, HEADS, seq, seq]);
        let x = self.embed.forward(tokens);
        let x = self.layers.iter().fold(x, |x, layer| layer.forward(x, &self.rope, &future));
        let h = self.norm.forward(x).reshape([batch * seq, HIDDEN]);
        h.matmul(self.embed.weight.val().transpose())
    }
}

/// Made-up tokens: windows of a fixed sequence that no model can learn at once.
fn tokens(step: usize, batch: usize, seq: usize) -> (Vec<i32>, Vec<i32>) {
    let id = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7) as i32 & (VOCAB as i32 - 1);
    let first = step * batch * seq;
    let ids = |shift: usize| (0..batch * seq).map(|i| id(first + i + shift)).collect();
    (ids(0), ids(1))
}

fn main() {
    let arguments: Vec<usize> = std::env::args().skip(1).map(|n| n.parse().expect("a whole number")).collect();
    let [batch, seq, steps] = arguments[..] else { panic!("usage: burn-step BATCH SEQ STEPS") };
    let device = Device::wgpu(DeviceKind::DefaultDevice).autodiff();
    let mut model = Model::new(seq, &device);
    let clip = Some(GradientClippingConfig::Norm(1.0));
    let adamw = AdamWConfig::new().with_beta_2(0.95).with_epsilon(1e-8).with_weight_decay(0.0);
    let mut optimizer = adamw.with_grad_clipping(clip).init();
    let criterion = CrossEntropyLossConfig::new().init(&device);
    let (mut seconds, mut losses) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let (inputs, targets) = tokens(step, batch, seq);
        let clock = Instant::now();
        let inputs = Tensor::<2, Int>::from_data(TensorData::new(inputs, [batch, seq]), &device);
        let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [batch * seq]), &device);
        let loss = criterion.forward(model.forward(inputs), targets);
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(1e-3, model, gradients);
        losses.push(loss.into_scalar::<f32>());
        device.sync().expect("a device that answers");
        seconds.push(clock.elapsed().as_secs_f64());
        eprintln!("step {step}: {:.3} s", seconds[step]);
    }
    let mut sorted = seconds[steps / 2..].to_vec();
    sorted.sort_by(f64::total_cmp);
    let (parameters, median) = (model.num_params(), sorted[sorted.len() / 2]);
    println!(
        "{{\"parameters\": {parameters}, \"tokens\": {}, \"seconds\": {seconds:.3?}, \"median_s\": {median:.4}, \"losses\": {losses:.4?}}}",
        batch * seq
    );
}
