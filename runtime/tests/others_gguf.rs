//! GGUF files that other people's programs wrote (tools/interop/make_gguf.py), and what these programs make of them:
//! quantised blocks as the `gguf` package decodes them; a model of architecture `llama`, ids and logits of llama.cpp.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::borrow::Cow;
use std::io::Write;
use std::path::{Path, PathBuf};

use bonsai_runtime::config::{Kind, Llama3, Rope, Scaling, TensorSpec};
use bonsai_runtime::gguf::{Gguf, ModelTensor, NewTensor, PackedFormat, write, write_model};
use bonsai_runtime::quantized::Quantized;
use bonsai_runtime::tensor::Bytes;
use bonsai_runtime::ternary::{ScaleRule, TernaryMatrix};
use bonsai_runtime::{Error, Model, ModelFile, SessionOptions, Tokenizer};
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

fn llama_cpp(name: &str) -> LlamaCpp {
    serde_json::from_slice(&std::fs::read(fixture(&format!("{name}.json"))).unwrap()).unwrap()
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

/// llama.cpp's ids, and the name of the way that text is cut also from a tokenizer.json.
#[track_caller]
fn check_tokenizer(tokenizer: &Tokenizer, texts: &[Text], pre: &str) {
    for Text { text, ids } in texts {
        let bos = tokenizer.bos().filter(|bos| tokenizer.add_bos() && ids[0] != *bos);
        let expected: Vec<u32> = bos.into_iter().chain(ids.iter().copied()).collect();
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "{text:?}");
        assert_eq!(&tokenizer.decode(ids).unwrap(), text);
    }
    let again = Tokenizer::from_json(tokenizer.to_json().unwrap().as_bytes()).unwrap();
    assert_eq!(again.vocabulary().unwrap().pre, pre);
}

/// Both compute in f32; with rows in the wrong order the first digit differs.
fn same_logits(file: ModelFile, expected: &LlamaCpp) -> bool {
    let logits = exact_logits(file, &expected.prompt);
    let last = &logits[logits.len() - expected.last_logits.len()..];
    let worst = last.iter().zip(&expected.last_logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let largest = expected.last_logits.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    worst < 1e-4 * largest
}

#[test]
fn a_llama_file_has_the_shape_the_ids_and_the_logits_of_llama_cpp() {
    let file = ModelFile::open(&fixture("llama.gguf")).unwrap();
    assert_eq!(file.description, "GGUF v3, llama, 11 as F32");
    let config = &file.config;
    assert_eq!((config.qk_norm_eps, config.head_dim, config.rope), (None, 32, Rope::plain(1e5)));
    assert_eq!((config.bos, &config.eos[..]), (Some(1), &[2, 0][..]));
    let (tokenizer, expected) = (file.tokenizer().unwrap().unwrap(), llama_cpp("llama"));
    check_tokenizer(tokenizer, &expected.texts, "smollm");
    assert!(!tokenizer.add_bos() && same_logits(file, &expected));
}

#[test]
fn a_llama_3_file_has_its_tokenizer_and_its_table_of_factors() {
    let read = || ModelFile::open(&fixture("llama3.gguf")).unwrap();
    let (file, expected) = (read(), llama_cpp("llama3"));
    let llama3 = Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
    assert_eq!(file.config.rope, Rope { theta: 1e5, scaling: Some(Scaling::Llama3(llama3)) });
    let tokenizer = file.tokenizer().unwrap().unwrap();
    check_tokenizer(tokenizer, &expected.texts, "llama-bpe");
    assert!(
        tokenizer.add_bos(),
        "llama.cpp puts it in front of what this pre-tokenizer cuts, unless a file forbids it"
    );
    let mut plain = read();
    plain.config.rope.scaling = None;
    assert!(same_logits(read(), &expected) && !same_logits(plain, &expected));
    // And it is written as it was read.
    let mut bytes = Vec::new();
    let tensor = |spec: &TensorSpec| ModelTensor::Stored(file.tensors[&spec.name].clone());
    write_model(&mut bytes, &file.config, "llama3", Some(tokenizer), PackedFormat::Q2_0G64, tensor).unwrap();
    let bytes = Bytes::from(bytes);
    assert_eq!(ModelFile::from_bytes(&bytes, Path::new("again.gguf")).unwrap().config, file.config);
    let again = Gguf::from_bytes(bytes, Path::new("again.gguf")).unwrap();
    let original = Gguf::open(&fixture("llama3.gguf")).unwrap();
    assert_eq!(again.tensor("rope_freqs.weight"), original.tensor("rope_freqs.weight"));
}

/// A file with other factors; `count` of them.
fn with_factors(count: usize, factor: impl Fn(usize, f32) -> f32) -> Result<ModelFile, Error> {
    let file = Gguf::open(&fixture("llama3.gguf")).unwrap();
    let tensors: Vec<_> = file
        .tensors()
        .iter()
        .map(|info| {
            let mut values = file.tensor(&info.name).unwrap().to_f32();
            let mut ne = info.ne.clone();
            if info.name == "rope_freqs.weight" {
                values = values.iter().enumerate().map(|(i, &f)| factor(i, f)).take(count).collect();
                ne = vec![count];
            }
            let source =
                move |out: &mut dyn Write| values.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()));
            NewTensor { name: info.name.clone(), ne, kind: info.kind, source: Box::new(source) }
        })
        .collect();
    let mut bytes = Vec::new();
    write(&mut bytes, file.metadata().entries(), &tensors).unwrap();
    ModelFile::from_bytes(&bytes.into(), Path::new("factors.gguf"))
}

#[test]
fn a_table_of_factors_by_another_rule_is_refused() {
    let of = |count, factor: fn(usize, f32) -> f32| with_factors(count, factor);
    assert_eq!(of(16, |_, _| 1.0).unwrap().config.rope, Rope::plain(1e5));
    let refused = |result: Result<ModelFile, Error>, expected: &str| {
        let error = result.err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(of(16, |i, f| if i == 12 { f * 1.01 } else { f }), "that is not that of Llama 3");
    refused(of(16, |_, _| f32::NAN), "that is not that of Llama 3");
    refused(of(15, |_, f| f), "'rope_freqs.weight' has 15 numbers, expected 16");
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
    let prompt = llama_cpp("llama").prompt;
    assert_eq!(exact_logits(again, &prompt), exact_logits(file, &prompt));
}

#[test]
fn a_ternary_llama_model_comes_back_in_its_own_order() {
    let mut config = ModelFile::open(&fixture("llama.gguf")).unwrap().config;
    (config.bos, config.eos) = (None, vec![]);
    let values = |len: usize| (0..len).map(|i| (i * 7919 % 1009) as f32 - 504.0).collect::<Vec<_>>();
    let matrix = |spec: &TensorSpec| {
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
