//! GGUF files that other people's programs wrote (tools/interop/make_gguf.py), and what these programs make of them:
//! quantised blocks as the `gguf` package decodes them; a model of architecture `llama`, ids and logits of llama.cpp.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use bonsai_runtime::config::Kind;
use bonsai_runtime::gguf::{Gguf, ModelTensor, PackedFormat, write_model};
use bonsai_runtime::quantized::Quantized;
use bonsai_runtime::ternary::{ScaleRule, TernaryMatrix};
use bonsai_runtime::{Model, ModelFile, SessionOptions};
use serde::Deserialize;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf").join(name)
}

#[derive(Deserialize)]
struct LlamaCpp {
    texts: Vec<Text>,
    prompt: Vec<u32>,
    last_logits: Vec<f32>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
}

fn llama_cpp() -> LlamaCpp {
    serde_json::from_slice(&std::fs::read(fixture("llama.json")).unwrap()).unwrap()
}

fn exact_logits(file: ModelFile, tokens: &[u32]) -> Vec<f32> {
    let options = SessionOptions { exact: true, ..SessionOptions::default() };
    Model::from_file(file).unwrap().session(options).unwrap().logits(tokens).unwrap()
}

#[test]
fn quantised_blocks_are_decoded_as_ggml_does() {
    let file = Gguf::open(&fixture("blocks.gguf")).unwrap();
    for kind in Quantized::ALL {
        let found = file.tensor(kind.name()).unwrap();
        assert_eq!((found.rows, found.cols, found.format.name()), (2, 512, kind.name()));
        let expected = file.tensor(&format!("{}.f32", kind.name())).unwrap();
        assert_eq!(found.to_f32(), expected.to_f32(), "{}", kind.name());
    }
}

#[test]
fn a_llama_file_has_the_shape_and_the_ids_of_llama_cpp() {
    let file = ModelFile::open(&fixture("llama.gguf")).unwrap();
    assert_eq!(file.description, "GGUF v3, llama, 11 as F32");
    let config = &file.config;
    assert_eq!((config.qk_norm_eps, config.head_dim, config.rope.theta), (None, 32, 1e5));
    assert_eq!((config.bos, &config.eos[..]), (Some(1), &[2, 0][..]));
    let tokenizer = file.tokenizer().unwrap().unwrap();
    for Text { text, ids } in llama_cpp().texts {
        assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
    // The name of the way that text is cut comes back from a tokenizer.json, too.
    let json = tokenizer.to_json().unwrap();
    let again = bonsai_runtime::Tokenizer::from_json(json.as_bytes()).unwrap();
    assert_eq!(again.vocabulary().unwrap().pre, "smollm");
}

#[test]
fn a_llama_file_gives_the_logits_of_llama_cpp() {
    let expected = llama_cpp();
    let logits = exact_logits(ModelFile::open(&fixture("llama.gguf")).unwrap(), &expected.prompt);
    let vocab = expected.last_logits.len();
    let last = &logits[logits.len() - vocab..];
    let worst = last.iter().zip(&expected.last_logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let largest = expected.last_logits.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    // Both are f32; with rows in the wrong order the first digit differs.
    assert!(worst < 1e-4 * largest, "{worst} of {largest}");
}

#[test]
fn a_llama_model_is_written_as_it_was_read() {
    let read = || ModelFile::open(&fixture("llama.gguf")).unwrap();
    let (file, tokenizer) = (read(), read().tokenizer.unwrap().into_tokenizer().unwrap());
    let written = |stored: bool| {
        let mut bytes = Vec::new();
        write_model(&mut bytes, &file.config, "llama", Some(&tokenizer), PackedFormat::Q2_0G64, |spec| {
            let tensor = file.tensors[&spec.name].clone();
            if stored { ModelTensor::Stored(tensor) } else { ModelTensor::Dense(tensor.to_f32().into()) }
        })
        .unwrap();
        bytes
    };
    let original = Gguf::open(&fixture("llama.gguf")).unwrap();
    for stored in [true, false] {
        let again = Gguf::from_bytes(written(stored).into(), Path::new("again.gguf")).unwrap();
        for info in original.tensors() {
            assert_eq!(again.tensor(&info.name), original.tensor(&info.name), "{}", info.name);
        }
        assert_eq!(again.metadata().str("general.architecture").unwrap(), Some("llama"));
        assert_eq!(again.metadata().str("tokenizer.ggml.pre").unwrap(), Some("smollm"));
    }
    let again = ModelFile::from_bytes(&written(true).into(), Path::new("again.gguf")).unwrap();
    assert_eq!(again.config, file.config);
    let prompt = llama_cpp().prompt;
    assert_eq!(exact_logits(again, &prompt), exact_logits(file, &prompt));
}

#[test]
fn a_ternary_llama_model_comes_back_in_its_own_order() {
    let mut config = ModelFile::open(&fixture("llama.gguf")).unwrap().config;
    (config.bos, config.eos) = (None, vec![]);
    let values = |len: usize| (0..len).map(|i| (i * 7919 % 1009) as f32 - 504.0).collect::<Vec<_>>();
    let matrix = |spec: &bonsai_runtime::config::TensorSpec| {
        TernaryMatrix::project(&values(spec.len()), spec.rows, spec.cols, 64, ScaleRule::Refit)
    };
    let mut bytes = Vec::new();
    write_model(&mut bytes, &config, "ternary", None, PackedFormat::Q2_0G64, |spec| match spec.kind {
        Kind::Norm => ModelTensor::Dense(values(spec.len()).into()),
        _ => ModelTensor::Ternary(Cow::Owned(matrix(spec))),
    })
    .unwrap();
    let file = ModelFile::from_bytes(&bytes.into(), Path::new("ternary.gguf")).unwrap();
    for spec in config.tensors().iter().filter(|spec| spec.kind != Kind::Norm) {
        assert_eq!(file.tensors[&spec.name].to_f32(), matrix(spec).to_f32(), "{}", spec.name);
    }
}
