//! The program as scripts see it: standard output, exit codes, JSON.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "clippy does not count helpers as parts of tests")]

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use bonsai_runtime::config::Config;
use bonsai_runtime::tensor::Format;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use support::*;

const TOKENIZER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tokenizer/tokenizer.json");

fn bonsai(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bonsai")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::str::from_utf8(&output.stdout).unwrap()
}

/// A random model as a Hugging Face directory, with a tokenizer if asked for.
fn model(tokenizer: bool) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    // More rows than the tokenizer's 707 tokens, as real models have.
    let c = Config { vocab: if tokenizer { 1200 } else { 97 }, ..tiny() };
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu",
        "vocab_size": c.vocab, "hidden_size": c.hidden, "intermediate_size": c.intermediate,
        "num_hidden_layers": c.layers, "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim, "max_position_embeddings": c.context, "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope.theta, "tie_word_embeddings": c.tied, "attention_bias": false,
    });
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let file = model_file(&c, Format::F32, 1);
    let views = c.tensors().into_iter().map(|spec| {
        let bytes = &file.tensors[&spec.name].bytes[..];
        let view = TensorView::new(Dtype::F32, spec.shape(), bytes).unwrap();
        (spec.name, view)
    });
    serialize_to_file(views, None, &directory.path().join("model.safetensors")).unwrap();
    if tokenizer {
        std::fs::copy(TOKENIZER, directory.path().join("tokenizer.json")).unwrap();
    }
    directory
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn run_prints_the_result_and_nothing_else() {
    let model = model(true);
    let run = |more: &[&str]| {
        bonsai(&[&["run", "-m", path(model.path()), "-p", "Once upon", "-n", "12"], more].concat())
    };
    let text = run(&["--seed", "3"]);
    let object: Value = serde_json::from_str(stdout(&run(&["--seed", "3", "--json"]))).unwrap();
    assert_eq!(stdout(&text), format!("{}\n", object["text"].as_str().unwrap()));
    assert_eq!(object["tokens"].as_array().unwrap().len(), 12);
    assert_eq!((&object["stop"], &object["seed"]), (&json!("limit"), &json!(3)));
    let status = String::from_utf8(text.stderr).unwrap();
    assert!(status.contains("top-k 40") && status.contains("kernel") && !status.contains('\x1b'), "{status}");
    assert!(run(&["--quiet"]).stderr.is_empty());
    for threads in ["1", "3"] {
        let same = run(&["--seed", "3", "-t", threads]);
        assert_eq!(same.stdout, text.stdout);
    }
}

#[test]
fn ids_in_ids_out_without_a_tokenizer() {
    let model = model(false);
    let run = |n: &str, context: &str| {
        let output = bonsai(&[
            "run",
            "-m",
            path(model.path()),
            "--tokens",
            "1,2,3",
            "--temp",
            "0",
            "-n",
            n,
            "-c",
            context,
        ]);
        (stdout(&output).split_whitespace().count(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(run("5", "100").0, 5);
    assert_eq!(run("0", "100").0, 0);
    let (count, status) = run("-1", "10"); // 3 + 7 fill the context, and one more needs no room
    assert_eq!(count, 8);
    assert!(status.contains("full context"), "{status}");
    let no_tokenizer = bonsai(&["run", "-m", path(model.path()), "-p", "x"]);
    assert_eq!(no_tokenizer.status.code(), Some(3));
    assert!(String::from_utf8(no_tokenizer.stderr).unwrap().contains("--tokens"));
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let model = model(false);
    let m = path(model.path());
    let code = |arguments: &[&str]| bonsai(arguments).status.code().unwrap();
    assert_eq!(code(&["run"]), 2);
    assert_eq!(code(&["run", "-m", m]), 2);
    assert_eq!(code(&["run", "-m", m, "-p", "x", "--no-such-flag"]), 2);
    assert_eq!(code(&["run", "-m", m, "--tokens", "97"]), 2);
    assert_eq!(code(&["run", "-m", m, "--tokens", "1", "-t", "0"]), 2);
    assert_eq!(code(&["run", "-m", "no-such-file.gguf", "-p", "x"]), 3);
    assert_eq!(code(&["run", "-m", TOKENIZER, "-p", "x"]), 3);
    assert_eq!(code(&["run", "-m", m, "-f", "no-such-file.txt"]), 3);
    assert_eq!(code(&["run", "-m", m, "--tokens", "1,2,3,4", "-c", "3"]), 4);
    assert_eq!(code(&["--help"]), 0);
    assert_eq!(code(&["--version"]), 0);
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let model = model(false);
    let mut child = Command::new(env!("CARGO_BIN_EXE_bonsai"))
        .args(["run", "-m", path(model.path()), "--tokens", "1", "-n", "300", "--quiet"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn info_says_what_is_inside() {
    let model = model(true);
    let text = bonsai(&["info", "-m", path(model.path())]);
    assert!(stdout(&text).contains("layers        2 of width 192"));
    let object: Value =
        serde_json::from_str(stdout(&bonsai(&["info", "-m", path(model.path()), "--json"]))).unwrap();
    assert_eq!(object["config"]["kv_heads"], 2);
    assert_eq!(object["kv_bytes_per_token"], 2 * 2 * 2 * 2 * 32); // f16
    assert_eq!(object["bits_per_weight"], 32.0);
}

#[test]
fn logits_are_those_of_the_library() {
    let model = model(false);
    let out = model.path().join("out.safetensors");
    stdout(&bonsai(&["logits", "-m", path(model.path()), "--tokens", "5,6,7", "-o", path(&out)]));
    let bytes = std::fs::read(out).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor("logits").unwrap();
    assert_eq!((tensor.shape(), tensor.dtype()), (&[3, 97][..], Dtype::F32));
    let expected =
        support::model(&tiny(), Format::F32, 1).session(Default::default()).unwrap().logits(&[5, 6, 7]);
    let expected: Vec<u8> = expected.unwrap().iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(tensor.data(), expected);
}

#[test]
fn perplexity_of_a_text() {
    let model = model(true);
    let text = model.path().join("text.txt");
    std::fs::write(&text, "The little bird flew over the garden. ".repeat(20)).unwrap();
    let arguments = ["perplexity", "-m", path(model.path()), "-f", path(&text), "--window", "50"];
    let object: Value =
        serde_json::from_str(stdout(&bonsai(&[&arguments[..], &["--json"]].concat()))).unwrap();
    let value = object["perplexity"].as_f64().unwrap();
    assert!((300.0..5000.0).contains(&value), "{value}"); // random weights: about the vocabulary
    let (nll, tokens) = (object["nll_sum"].as_f64().unwrap(), object["scored_tokens"].as_f64().unwrap());
    assert!(((nll / tokens).exp() / value - 1.0).abs() < 1e-9);
    assert!(object["bits_per_byte"].as_f64().unwrap() > 0.0);
    assert!(stdout(&bonsai(&arguments)).starts_with("perplexity "));
}
