//! Small random models in every number format, and a plain f64 forward pass to hold them against.

#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "clippy does not count helpers as parts of tests")]

use std::collections::HashMap;
use std::path::PathBuf;

use bonsai_runtime::config::{Config, Kind, Rope};
pub use bonsai_runtime::random::Random;
use bonsai_runtime::tensor::{Format, StoredTensor};
use bonsai_runtime::ternary::{ScaleRule, TernaryMatrix};
use bonsai_runtime::{Model, ModelFile};
use half::{bf16, f16};

/// A Qwen3 of a few thousand weights: widths are multiples of 64 but not all of 128.
pub fn tiny() -> Config {
    Config {
        vocab: 97,
        hidden: 192,
        intermediate: 320,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        context: 400,
        norm_eps: 1e-6,
        qk_norm_eps: Some(1e-6),
        rope: Rope::plain(1e4),
        tied: true,
        bos: None,
        eos: vec![],
    }
}

/// The same with widths that groups of 128 divide.
pub fn tiny_128() -> Config {
    Config { hidden: 256, intermediate: 384, ..tiny() }
}

/// The same in groups of 256.
pub fn tiny_256() -> Config {
    Config { hidden: 256, intermediate: 512, heads: 32, kv_heads: 16, head_dim: 16, ..tiny() }
}

/// A random model whose matrices are written as `format`.
pub fn model_file(config: &Config, format: Format, seed: u64) -> ModelFile {
    let mut random = Random(seed);
    let mut tensors = HashMap::new();
    for spec in config.tensors() {
        let values = random.normals(spec.len());
        let tensor = if spec.kind == Kind::Norm {
            StoredTensor::from_f32(1, spec.cols, &values.iter().map(|x| 1.0 + 0.2 * x).collect::<Vec<_>>())
        } else {
            let deviation = 1.0 / (spec.cols as f32).sqrt();
            let values: Vec<f32> = values.iter().map(|x| deviation * x).collect();
            stored(spec.rows, spec.cols, &values, format)
        };
        tensors.insert(spec.name, tensor);
    }
    let description = format!("random, {}", format.name());
    ModelFile { config: config.clone(), tokenizer: None, tensors, description }
}

/// See [`model_file`].
pub fn model(config: &Config, format: Format, seed: u64) -> Model {
    Model::from_file(model_file(config, format, seed)).unwrap()
}

/// The same weights, dense.
pub fn unpacked(file: &ModelFile) -> ModelFile {
    let dense = |t: &StoredTensor| StoredTensor::from_f32(t.rows, t.cols, &t.to_f32());
    let tensors = file.tensors.iter().map(|(name, t)| (name.clone(), dense(t))).collect();
    ModelFile { config: file.config.clone(), tokenizer: None, tensors, description: "dense".into() }
}

/// Values written as `format`; ternary formats round.
pub fn stored(rows: usize, cols: usize, values: &[f32], format: Format) -> StoredTensor {
    let bytes: Vec<u8> = match format {
        Format::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Format::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        Format::Bf16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        Format::Ternary(packing) => {
            let matrix = TernaryMatrix::project(values, rows, cols, packing.group(), ScaleRule::Absmean);
            let mut blocks = Vec::new();
            packing.encode(&matrix, &mut blocks).expect("groups of the packing");
            blocks
        }
        Format::Quantized(_) => unreachable!("only read: {} is not written", format.name()),
    };
    StoredTensor { format, rows, cols, bytes: bytes.into() }
}

/// A folder that a checkout may have beside it.
pub fn shared(path: &str) -> Option<PathBuf> {
    let found = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(path);
    found.exists().then_some(found)
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Normalised mean square error of `got` against `exact`.
pub fn nmse(got: &[f32], exact: &[f64]) -> f64 {
    assert_eq!(got.len(), exact.len());
    let error: f64 = got.iter().zip(exact).map(|(&g, e)| (f64::from(g) - e).powi(2)).sum();
    error / exact.iter().map(|e| e * e).sum::<f64>()
}

/// The network as formats.md writes it down, in f64, one token after the other, nothing shared with the library:
/// logits `[tokens, vocab]`.
pub fn reference(file: &ModelFile, tokens: &[u32]) -> Vec<f64> {
    let c = &file.config;
    let weights: HashMap<&str, Vec<f64>> = (file.tensors.iter())
        .map(|(name, t)| (name.as_str(), t.to_f32().into_iter().map(f64::from).collect()))
        .collect();
    let layer = |n: usize, part: &str| &weights[format!("model.layers.{n}.{part}.weight").as_str()][..];
    let embed = &weights["model.embed_tokens.weight"];
    let mut keys = vec![Vec::<Vec<f64>>::new(); c.layers];
    let mut values = keys.clone();
    let mut logits = Vec::new();
    for (position, &id) in tokens.iter().enumerate() {
        let mut x = embed[id as usize * c.hidden..][..c.hidden].to_vec();
        for n in 0..c.layers {
            let h = norm(&x, layer(n, "input_layernorm"), c.norm_eps);
            let mut q = times(layer(n, "self_attn.q_proj"), &h);
            let mut k = times(layer(n, "self_attn.k_proj"), &h);
            for (x, part) in [(&mut q, "self_attn.q_norm"), (&mut k, "self_attn.k_norm")] {
                for head in x.chunks_exact_mut(c.head_dim) {
                    if let Some(eps) = c.qk_norm_eps {
                        head.copy_from_slice(&norm(head, layer(n, part), eps));
                    }
                    rotate(head, position, &c.rope);
                }
            }
            keys[n].push(k);
            values[n].push(times(layer(n, "self_attn.v_proj"), &h));
            let mut found = Vec::new();
            for (head, q) in q.chunks_exact(c.head_dim).enumerate() {
                let at = head / (c.heads / c.kv_heads) * c.head_dim;
                let score = |k: &Vec<f64>| dot(q, &k[at..at + c.head_dim]) / (c.head_dim as f64).sqrt();
                let scores: Vec<f64> = keys[n].iter().map(|k| score(k).exp()).collect();
                let total: f64 = scores.iter().sum();
                let mix = |i| scores.iter().zip(&values[n]).map(|(s, v)| s / total * v[at + i]).sum::<f64>();
                found.extend((0..c.head_dim).map(mix));
            }
            add(&mut x, &times(layer(n, "self_attn.o_proj"), &found));
            let h = norm(&x, layer(n, "post_attention_layernorm"), c.norm_eps);
            let gate = times(layer(n, "mlp.gate_proj"), &h);
            let up = times(layer(n, "mlp.up_proj"), &h);
            let inner: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            add(&mut x, &times(layer(n, "mlp.down_proj"), &inner));
        }
        let head = if c.tied { embed } else { &weights["lm_head.weight"] };
        logits.extend(times(head, &norm(&x, &weights["model.norm.weight"], c.norm_eps)));
    }
    logits
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn times(matrix: &[f64], x: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(x.len()).map(|row| dot(row, x)).collect()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn norm(x: &[f64], gain: &[f64], eps: f32) -> Vec<f64> {
    let scale = 1.0 / (dot(x, x) / x.len() as f64 + f64::from(eps)).sqrt();
    x.iter().zip(gain).map(|(x, gain)| x * scale * gain).collect()
}

fn rotate(x: &mut [f64], position: usize, rope: &Rope) {
    let (frequencies, factor) = rope.frequencies(x.len());
    for (i, frequency) in frequencies.iter().enumerate() {
        let (sin, cos) = (position as f64 * frequency).sin_cos();
        let (a, b) = (x[i], x[i + frequencies.len()]);
        x[i] = (a * cos - b * sin) * factor;
        x[i + frequencies.len()] = (b * cos + a * sin) * factor;
    }
}
