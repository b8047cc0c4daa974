//! The shape of a model, and the one table of its tensors.
//!
//! The network is Qwen3 (dense): grouped-query attention, per-head RMSNorm on q and k, RoPE, SwiGLU. A
//! Llama-shaped checkpoint is the same network without the q/k norm ([`Config::qk_norm_eps`] is `None`).

mod rope;

use serde::{Deserialize, Serialize};

pub use rope::{Llama3, Rope, Scaling, Yarn};

/// Shape and constants of a model. Sizes count elements; `head_dim` is independent of `hidden / heads`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Rows of the embedding: token ids are `0..vocab`.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the SwiGLU feed-forward layer.
    pub intermediate: usize,
    /// Number of transformer layers.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Longest context the model was made for, in tokens.
    pub context: usize,
    /// Epsilon of the RMSNorms.
    pub norm_eps: f32,
    /// Epsilon of the per-head norms on q and k; `None` when the network has none (Llama).
    pub qk_norm_eps: Option<f32>,
    /// Rotary position embedding.
    pub rope: Rope,
    /// The head is the embedding matrix.
    pub tied: bool,
    /// Beginning-of-sequence token.
    pub bos: Option<u32>,
    /// Tokens that end a generation.
    pub eos: Vec<u32>,
}

/// What a tensor is for; decides rounding (everything but norms is ternary) and the optimizer's group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Token embedding, also the head when tied. `[vocab, hidden]`.
    Embedding,
    /// A matrix inside a layer. `[out, in]`.
    Linear,
    /// An untied head. `[vocab, hidden]`.
    Head,
    /// A norm's gain; stays in full precision. `[n]`.
    Norm,
}

/// One row of the table of tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Hugging Face name, used everywhere in this workspace.
    pub name: String,
    /// GGUF name, used only inside `gguf.rs`.
    pub gguf_name: String,
    /// Output features; 1 for a norm.
    pub rows: usize,
    /// Input features: consecutive in memory, and what a group of weights runs along.
    pub cols: usize,
    /// What it is for.
    pub kind: Kind,
}

impl TensorSpec {
    /// Number of weights.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// True for a tensor without weights; no valid config has one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shape as files write it: `[n]` for a norm, `[rows, cols]` otherwise.
    pub fn shape(&self) -> Vec<usize> {
        if self.kind == Kind::Norm { vec![self.cols] } else { vec![self.rows, self.cols] }
    }
}

impl Config {
    /// Every tensor of the model, in file order. Loaders, the trainer, exporters and tests all walk this.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let (h, q, kv, ff) =
            (self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim, self.intermediate);
        let mut table =
            vec![spec("model.embed_tokens.weight", "token_embd.weight", self.vocab, h, Kind::Embedding)];
        for n in 0..self.layers {
            let mut add = |name: &str, gguf: &str, rows, cols, kind| {
                let (name, gguf) =
                    (format!("model.layers.{n}.{name}.weight"), format!("blk.{n}.{gguf}.weight"));
                table.push(spec(&name, &gguf, rows, cols, kind));
            };
            add("input_layernorm", "attn_norm", 1, h, Kind::Norm);
            add("self_attn.q_proj", "attn_q", q, h, Kind::Linear);
            add("self_attn.k_proj", "attn_k", kv, h, Kind::Linear);
            add("self_attn.v_proj", "attn_v", kv, h, Kind::Linear);
            if self.qk_norm_eps.is_some() {
                add("self_attn.q_norm", "attn_q_norm", 1, self.head_dim, Kind::Norm);
                add("self_attn.k_norm", "attn_k_norm", 1, self.head_dim, Kind::Norm);
            }
            add("self_attn.o_proj", "attn_output", h, q, Kind::Linear);
            add("post_attention_layernorm", "ffn_norm", 1, h, Kind::Norm);
            add("mlp.gate_proj", "ffn_gate", ff, h, Kind::Linear);
            add("mlp.up_proj", "ffn_up", ff, h, Kind::Linear);
            add("mlp.down_proj", "ffn_down", h, ff, Kind::Linear);
        }
        table.push(spec("model.norm.weight", "output_norm.weight", 1, h, Kind::Norm));
        if !self.tied {
            table.push(spec("lm_head.weight", "output.weight", self.vocab, h, Kind::Head));
        }
        table
    }

    /// Number of weights of the whole model (a tied head counts once).
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(|tensor| tensor.len() as u64).sum()
    }

    /// Says in one sentence what is wrong with the sizes, if anything is. Everything below trusts them.
    pub fn check(&self) -> Result<(), String> {
        let sizes = [
            ("vocab", self.vocab),
            ("hidden", self.hidden),
            ("intermediate", self.intermediate),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("context", self.context),
        ];
        // 2^24 keeps every product of two sizes far from overflow and allows any model that fits a machine.
        if let Some((name, size)) = sizes.iter().find(|(_, size)| *size == 0 || *size > 1 << 24) {
            return Err(format!("{name} is {size}, expected 1 to {}", 1 << 24));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "{} query heads do not share {} key/value heads evenly",
                self.heads, self.kv_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("head_dim is {}, but rotary embedding needs pairs", self.head_dim));
        }
        let positive = |x: f32| x.is_finite() && x > 0.0;
        if !positive(self.norm_eps) || !self.qk_norm_eps.is_none_or(positive) {
            return Err("the epsilon of a norm must be a positive number".into());
        }
        if !self.rope.is_sensible() {
            return Err("the rotary embedding's base or scaling is not a sensible number".into());
        }
        Ok(())
    }
}

fn spec(name: &str, gguf_name: &str, rows: usize, cols: usize, kind: Kind) -> TensorSpec {
    TensorSpec { name: name.into(), gguf_name: gguf_name.into(), rows, cols, kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qwen3_0_6b() -> Config {
        Config {
            vocab: 151_936,
            hidden: 1024,
            intermediate: 3072,
            layers: 28,
            heads: 16,
            kv_heads: 8,
            head_dim: 128,
            context: 40_960,
            norm_eps: 1e-6,
            qk_norm_eps: Some(1e-6),
            rope: Rope::plain(1e6),
            tied: true,
            bos: None,
            eos: vec![151_645],
        }
    }

    #[test]
    fn qwen3_0_6b_has_310_tensors_and_596_million_weights() {
        assert_eq!(qwen3_0_6b().tensors().len(), 28 * 11 + 2);
        assert_eq!(qwen3_0_6b().parameters(), 596_049_920);
    }

    #[test]
    fn a_config_that_cannot_be_is_refused() {
        let bad = Config { kv_heads: 3, ..qwen3_0_6b() };
        assert!(bad.check().unwrap_err().contains("evenly"));
        let zero = Config { vocab: 0, ..qwen3_0_6b() };
        assert!(zero.check().unwrap_err().contains("vocab"));
        qwen3_0_6b().check().unwrap();
    }
}
