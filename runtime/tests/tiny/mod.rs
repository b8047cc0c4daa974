//! Tiny models for tests, made from a config and a seed.
#![allow(dead_code, reason = "each test program uses a part")]

use std::borrow::Cow;

use bonsai_runtime::config::{Config, Kind, Rope, TensorSpec};
use bonsai_runtime::gguf::{ModelTensor, PackedFormat, write_model};
use bonsai_runtime::ternary::{ScaleRule, TernaryMatrix};
use bonsai_runtime::tokenizer::{Tokenizer, Vocabulary};

/// One layer, 64 wide, 260 tokens.
pub fn config() -> Config {
    Config {
        vocab: 260,
        hidden: 64,
        intermediate: 128,
        layers: 1,
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        context: 96,
        norm_eps: 1e-6,
        qk_norm_eps: Some(1e-6),
        rope: Rope::plain(1e6),
        tied: true,
        bos: None,
        eos: vec![256],
    }
}

/// One layer, 128 wide: groups of 128 fit.
pub fn wide() -> Config {
    Config { hidden: 128, ..config() }
}

/// 256 bytes, an end, a mark, one merge.
pub fn vocabulary() -> Vocabulary {
    let mut tokens: Vec<String> = (0..=255).map(|byte| spelling(byte).to_string()).collect();
    tokens.extend(["<|endoftext|>".into(), "<think>".into(), "he".into()]);
    let mut token_types = vec![1; 259];
    token_types[256] = 3;
    token_types[257] = 4;
    Vocabulary {
        pre: "qwen2".into(),
        tokens,
        token_types,
        merges: vec!["h e".into()],
        bos: None,
        eos: Some(256),
        padding: Some(256),
        add_bos: false,
        chat_template: Some("{{ messages[0].content }}".into()),
    }
}

/// The character that stands for a byte in byte-level BPE: printable ones for themselves, the others from U+0100.
fn spelling(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    if printable(byte) {
        return byte.into();
    }
    char::from_u32(256 + (0..byte).filter(|&b| !printable(b)).count() as u32).unwrap()
}

/// Values in -0.1..0.1 that depend on the tensor and the place.
pub fn values(spec: &TensorSpec) -> Vec<f32> {
    let mut state = spec.name.bytes().fold(17u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 * 0.2 - 0.1
    };
    (0..spec.len()).map(next).collect()
}

/// The tensor of the model, ternary in groups of `group` unless it is a norm.
pub fn ternary(spec: &TensorSpec, group: usize) -> ModelTensor<'static> {
    let values = values(spec);
    if spec.kind == Kind::Norm {
        return ModelTensor::Dense(Cow::Owned(values));
    }
    let matrix = TernaryMatrix::project(&values, spec.rows, spec.cols, group, ScaleRule::Absmean);
    ModelTensor::Ternary(Cow::Owned(matrix))
}

/// A whole file.
pub fn gguf(config: &Config, format: PackedFormat) -> Vec<u8> {
    let tokenizer = Tokenizer::from_vocabulary(vocabulary()).unwrap();
    let mut out = Vec::new();
    write_model(&mut out, config, "tiny", Some(&tokenizer), format, |spec| {
        ternary(spec, format.packing().group())
    })
    .unwrap();
    out
}
