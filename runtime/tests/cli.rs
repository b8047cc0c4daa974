//! The program as scripts see it: standard output, exit codes, JSON.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "clippy does not count helpers as parts of tests")]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use bonsai_runtime::config::Config;
use bonsai_runtime::gguf::{ModelTensor, PackedFormat, write_model};
use bonsai_runtime::random_model::random_model;
use bonsai_runtime::tensor::Format;
use bonsai_runtime::ternary::Packing;
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
    // More rows than the tokenizer's 707 tokens, as real models have.
    model_of(if tokenizer { 1200 } else { 97 }, tokenizer)
}

fn model_of(vocab: usize, tokenizer: bool) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let c = Config { vocab, ..tiny() };
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
    if cfg!(not(feature = "gpu")) {
        assert_eq!(code(&["run", "-m", m, "--tokens", "1", "--device", "gpu"]), 6);
        let auto = bonsai(&["run", "-m", m, "--tokens", "1", "-n", "1", "--device", "auto"]);
        assert!(String::from_utf8_lossy(&auto.stderr).contains("; not on a GPU: this program"));
    }
    assert_eq!(code(&["--help"]), 0);
    assert_eq!(code(&["--version"]), 0);
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let model = model(false);
    let run = |more: &[&str]| {
        bonsai(&[&["run", "-m", path(model.path()), "--tokens", "1", "-n", "3", "-q"], more].concat())
    };
    for (option, value, says) in [
        ("--temp", "nan", "from 0 on"),
        ("--temp", "-1", "from 0 on"),
        ("--top-p", "2", "from 0 to 1"),
        ("--min-p", "-0.1", "from 0 to 1"),
        ("--repeat-penalty", "0", "above 0"),
        ("--seed", "-2", "or -1"),
    ] {
        let output = run(&[option, value]);
        assert_eq!(output.status.code(), Some(2), "{option} {value}");
        assert!(String::from_utf8(output.stderr).unwrap().contains(says), "{option} {value}");
    }
    assert_eq!(stdout(&run(&["--seed", "-1"])).split_whitespace().count(), 3);
}

#[test]
fn instructions_that_are_not_there_are_named() {
    let devices = |isa: &str| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_bonsai")).arg("devices").env("BONSAI_ISA", isa).output();
        String::from_utf8(output.unwrap().stderr).unwrap()
    };
    assert!(devices("avx3").contains("BONSAI_ISA=avx3: this processor has scalar"), "{}", devices("avx3"));
    assert!(!devices("scalar").contains("BONSAI_ISA"));
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
    assert_eq!(object["kv_bytes_per_token"], 2 * 2 * 2 * (2 * 32 + 4)); // int16
    assert_eq!(object["bits_per_weight"], 32.0);
}

/// A file is written where its name leads: a link, or a device, stays what it is.
#[cfg(unix)]
#[test]
fn logits_are_written_through_a_link() {
    let (model, place) = (model(false), tempfile::tempdir().unwrap());
    let (link, file) = (place.path().join("link"), place.path().join("file"));
    std::fs::write(&file, "old").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    stdout(&bonsai(&["logits", "-m", path(model.path()), "--tokens", "5,6", "-o", path(&link)]));
    assert!(link.is_symlink() && std::fs::read(&file).unwrap().len() > 8);
    let output = bonsai(&["info", "-m", path(place.path())]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("a directory without a model"));
}

#[test]
fn logits_are_those_of_the_library() {
    let model = model(false);
    let out = model.path().join("out.safetensors");
    stdout(&bonsai(&["logits", "-m", path(model.path()), "--tokens", "5,6,7", "-o", path(&out)]));
    let piped = bonsai(&["logits", "-m", path(model.path()), "--tokens", "5,6,7", "-o", "-"]);
    assert!(piped.status.success() && piped.stdout == std::fs::read(&out).unwrap());
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
    let weights = model.path().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&weights, bytes).unwrap();
    let damaged = bonsai(&arguments);
    assert_eq!(damaged.status.code(), Some(3));
    assert!(damaged.stdout.is_empty() && String::from_utf8(damaged.stderr).unwrap().contains("not numbers"));
}

/// A random ternary model as a GGUF file, its bytes changed as asked.
fn ternary(change: impl FnOnce(&mut Vec<u8>, &bonsai_runtime::ModelFile)) -> tempfile::NamedTempFile {
    let config = Config { hidden: 256, intermediate: 384, ..tiny() };
    let file = random_model(config.clone(), Packing::Q2_0).unwrap();
    let tensor =
        |spec: &bonsai_runtime::config::TensorSpec| ModelTensor::Stored(file.tensors[&spec.name].clone());
    let mut bytes = Vec::new();
    write_model(&mut bytes, &config, "random", None, PackedFormat::Q2_0, tensor).unwrap();
    change(&mut bytes, &file);
    let out = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&out, bytes).unwrap();
    out
}

#[test]
fn bench_needs_no_model_and_prints_what_llama_bench_does() {
    let run =
        |more: &[&str]| bonsai(&[&["bench", "-p", "4", "-n", "2", "-r", "1", "-t", "2"], more].concat());
    let table = run(&["-q"]);
    assert!(table.stderr.is_empty());
    let lines: Vec<&str> = stdout(&table).lines().collect();
    assert!(lines[0].starts_with("| model ") && lines[0].contains("| of read | GMAC/s |"), "{lines:?}");
    assert!(lines[2].starts_with("| random 0.6b q2_0 |") && lines[2].contains("| pp4 "), "{lines:?}");
    assert!(
        lines[3].contains(" 596.0 M |") && lines[3].contains("| tg2 ") && lines[3].contains("%"),
        "{lines:?}"
    );
    assert!(lines[5].starts_with("read bandwidth, streaming through 158 MB of weights: "), "{lines:?}");
    let widths: Vec<usize> = lines[..4].iter().map(|line| line.chars().count()).collect();
    assert_eq!(widths, [widths[0]; 4], "{lines:?}");
}

#[test]
fn bench_as_json_and_csv() {
    let model = ternary(|_, _| {});
    let run = |more: &[&str]| {
        let all =
            ["bench", "-m", path(model.path()), "-p", "5,9", "-n", "3", "-d", "0,7", "-t", "1,2", "-r", "2"];
        bonsai(&[&all[..], more].concat())
    };
    let tests: Value = serde_json::from_str(stdout(&run(&["-o", "json"]))).unwrap();
    let tests = tests.as_array().unwrap();
    let names: Vec<&str> = tests.iter().map(|test| test["test"].as_str().unwrap()).collect();
    assert_eq!(names[..6], ["pp5", "pp9", "tg3", "pp5 @ d7", "pp9 @ d7", "tg3 @ d7"]);
    assert_eq!(names[6..], names[..6]);
    let number = |test: usize, key: &str| tests[test][key].as_f64().unwrap();
    assert_eq!((number(5, "n_threads"), number(6, "n_threads")), (1.0, 2.0));
    assert_eq!((number(5, "n_prompt"), number(5, "n_gen"), number(5, "n_depth")), (0.0, 3.0, 7.0));
    assert_eq!(tests[5]["samples_ts"].as_array().unwrap().len(), 2);
    assert!(
        (number(5, "gb_per_s") / number(5, "read_gb_per_s") / number(5, "read_share") - 1.0).abs() < 1e-9
    );
    assert!(
        number(0, "gmac_per_s") > 0.0 && tests[0]["gb_per_s"].is_null() && tests[5]["gmac_per_s"].is_null()
    );
    let csv = run(&["-o", "csv"]);
    let lines: Vec<&str> = stdout(&csv).lines().collect();
    assert_eq!(lines.len(), 13);
    assert!(lines[0].split(',').any(|key| key == "median_ts"));
}

#[test]
fn bench_says_what_cannot_be_measured() {
    let model = ternary(|_, _| {});
    let fails = |arguments: &[&str], message: &str| {
        let output = bonsai(&[&["bench", "-m", path(model.path()), "-q"], arguments].concat());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(message), "{error}");
    };
    fails(&["-p", "0", "-n", "0"], "nothing to measure");
    fails(
        &["-p", "500", "-n", "0"],
        "500 tokens behind 0 need a context of 500, but the model's ends at 400",
    );
    fails(&["-p", "0", "-n", "2", "-d", "399"], "2 tokens behind 399");
    fails(&["-p", "4", "-t", "0"], "0 threads: expected 1 to 1024");
    fails(&["-p", "4", "-t", "100000"], "100000 threads: expected 1 to 1024");
    fails(&["-r", "0"], "--repetitions");
    fails(&["--shape", "0.6b"], "--shape");
    let unknown = bonsai(&["bench", "--shape", "7b"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8(unknown.stderr).unwrap().contains("expected one of 0.6b, 1.7b"));
}

#[test]
fn verify_passes_a_sound_model() {
    let model = ternary(|_, _| {});
    let run = |more: &[&str]| bonsai(&[&["verify", "-m", path(model.path()), "-n", "40"], more].concat());
    let report: Value = serde_json::from_str(stdout(&run(&["-o", "json"]))).unwrap();
    assert_eq!((&report["ok"], &report["problems"]), (&json!(true), &json!([])));
    assert_eq!(report["tensors"].as_array().unwrap().len(), 8);
    assert_eq!(report["tensors"][1]["count"], 2);
    assert!(report["ternary_matrices"].as_u64() > Some(8));
    let modes = &report["fast_against_exact"];
    let kl = modes["kl_mean"].as_f64().unwrap();
    assert!(kl > 0.0 && kl < 0.01 && modes["tokens"] == 40, "{modes}");
    let text = run(&["-q"]);
    assert!(stdout(&text).contains("| q_proj ") && stdout(&text).contains("same bits as scalar"));
    assert!(text.stderr.is_empty());
    let strict = run(&["--max-kl", "0", "-q"]);
    assert_eq!(strict.status.code(), Some(1));
    assert!(String::from_utf8(strict.stderr).unwrap().contains("nats from the exact one"));
}

#[test]
fn verify_finds_a_code_that_is_not_ternary() {
    let model = ternary(|bytes, file| {
        let matrix = &file.tensors["model.layers.1.mlp.up_proj.weight"].bytes;
        let at = bytes.windows(64).position(|window| window == &matrix[..64]).unwrap();
        bytes[at + 34 + 2 + 5] = 0b1100;
    });
    let output = bonsai(&["verify", "-m", path(model.path()), "-n", "4", "-q", "--max-kl", "9"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "error: verification failed: model.layers.1.mlp.up_proj.weight: a code 3, which is not ternary, in row 0, \
         column 149\n"
    );
    assert!(String::from_utf8(output.stdout).unwrap().contains("| NO: 1 of 2 |"));
}

#[test]
fn verify_reads_a_text_where_there_is_a_tokenizer() {
    let with = model(true);
    let output = bonsai(&["verify", "-m", path(with.path()), "-n", "30", "--json"]);
    let report: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(report["ternary_matrices"], 0);
    assert!(String::from_utf8(output.stderr).unwrap().contains("no matrix of this model is ternary"));
    // Not ternary: nothing but keys and values is rounded, to int16.
    assert!(report["fast_against_exact"]["kl_max"].as_f64().unwrap() < 1e-5);
    assert_eq!(report["tensors"][0]["zeros"], Value::Null);
    let text = with.path().join("text.txt");
    std::fs::write(&text, "The little bird.").unwrap();
    let report = bonsai(&["verify", "-m", path(with.path()), "-f", path(&text), "--json"]);
    let report: Value = serde_json::from_str(stdout(&report)).unwrap();
    assert!((3..20).contains(&report["fast_against_exact"]["tokens"].as_u64().unwrap()));
    let without = model(false);
    let failed = bonsai(&["verify", "-m", path(without.path()), "-f", path(&text)]);
    assert_eq!(failed.status.code(), Some(3));
    let nothing = bonsai(&["verify", "-m", path(without.path()), "-n", "0"]);
    assert_eq!(nothing.status.code(), Some(2));
}

#[test]
fn the_memory_forecast_adds_up_and_its_longest_context_is_one_that_fits() {
    let model = model(false);
    let fit = |arguments: &[&str]| -> Value {
        let output = bonsai(&[&["fit", "-m", path(model.path()), "--json"], arguments].concat());
        serde_json::from_str(stdout(&output)).unwrap()
    };
    let number = |row: &Value, key: &str| row[key].as_u64().unwrap();
    let rows = fit(&["--context", "64"])["formats"].as_array().unwrap().clone();
    assert_eq!(rows.len(), 5); // f32, f16, int16, int8, int4
    for row in &rows {
        let parts = ["weights", "cache", "activations"].map(|key| number(row, key));
        assert_eq!(parts.iter().sum::<u64>(), number(row, "total"));
        assert_eq!(number(row, "cache"), 64 * number(row, "cache_per_token"));
    }
    let memory = number(&rows[0], "total").to_string();
    let tight = fit(&["--context", "64", "--kv", rows[0]["kv"].as_str().unwrap(), "--memory", &memory]);
    assert_eq!(number(&tight["formats"][0], "longest_context"), 64);
    assert_eq!(bonsai(&["fit", "-m", path(model.path()), "--context", "1000000000"]).status.code(), Some(2));
}

const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<a{{ '' if enable_thinking is undefined else ' think' if enable_thinking else ' plain' }}>{% endif %}";

/// What `bonsai chat` prints for these lines of input.
fn chat(model: &Path, lines: &str, more: &[&str]) -> Output {
    let arguments = ["chat", "-m", path(model), "-n", "6", "--temp", "0"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_bonsai"))
        .args([&arguments, more].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn chat_answers_each_line_as_run_answers_the_whole_conversation() {
    let model = model_of(707, true); // so that every token is text
    std::fs::write(model.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    let run = |prompt: &str| {
        let arguments = ["run", "-m", path(model.path()), "-p", prompt, "-n", "6", "--temp", "0", "--json"];
        let object: Value = serde_json::from_str(stdout(&bonsai(&arguments))).unwrap();
        object["text"].as_str().unwrap().to_string()
    };
    let printed = |text: &str| text.trim_start().to_string() + "\n";
    let first = run("<system>Be brief.\n<user>Once\n<a plain>");
    let second =
        run(&format!("<system>Be brief.\n<user>Once\n<assistant>{first}\n<user>upon a time\n<a plain>"));
    assert_ne!(first, second);
    let options = ["--system", "Be brief.", "--think", "off"];
    let two = chat(model.path(), "Once\n\nupon a time\n", &options);
    assert_eq!(stdout(&two), printed(&first) + &printed(&second));
    let again = chat(model.path(), "Once\n/reset\n/help\n  Once  \n/exit\nupon a time", &options);
    assert_eq!(stdout(&again), printed(&first).repeat(2));
    let mistyped = chat(model.path(), "/rest\nOnce\n", &[]);
    assert_eq!(stdout(&mistyped).lines().count(), 1); // it went to the person, not to the model
    let status = String::from_utf8(mistyped.stderr).unwrap();
    assert!(status.contains("there is no /rest") && status.contains("cut after 6 tokens"), "{status}");
    let full = chat(model.path(), "Once\n", &["-c", "3"]);
    assert_eq!(full.status.code(), Some(4));
}

#[test]
fn template_shows_what_the_model_will_see() {
    let model = model(true);
    let show = |more: &[&str]| bonsai(&[&["template", "-m", path(model.path()), "-p", "Hi"], more].concat());
    let plain = show(&[]);
    assert_eq!(stdout(&plain), "User: Hi\nAssistant:\n");
    let off = show(&["--think", "off"]);
    assert!(String::from_utf8(off.stderr).unwrap().contains("--think changes nothing"));
    assert!(String::from_utf8(plain.stderr).unwrap().contains("without a chat template"));
    std::fs::write(model.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    assert_eq!(stdout(&show(&[])), "<user>Hi\n<a>\n");
    let object: Value = serde_json::from_str(stdout(&show(&["--think", "on", "--json"]))).unwrap();
    assert_eq!(object["text"], "<user>Hi\n<a think>");
    let tokenizer = bonsai_runtime::Tokenizer::from_file(Path::new(TOKENIZER)).unwrap();
    assert_eq!(object["tokens"], json!(tokenizer.encode("<user>Hi\n<a think>").unwrap()));
    let file = model.path().join("messages.json");
    let of_file = |json: &str| {
        std::fs::write(&file, json).unwrap();
        bonsai(&["template", "-m", path(model.path()), "-f", path(&file)])
    };
    let list = r#"[{"role": "user", "content": "Hi"}]"#;
    assert_eq!(stdout(&of_file(list)), "<user>Hi\n<a>\n");
    assert_eq!(stdout(&of_file(&format!(r#" {{"model": "x", "messages": {list}}}"#))), "<user>Hi\n<a>\n");
    for wrong in ["[", "{", r#"{"messages": 3}"#, r#"{"message": []}"#, "[3]"] {
        assert_eq!(of_file(wrong).status.code(), Some(3), "{wrong}");
    }
    std::fs::write(model.path().join("chat_template.jinja"), "{% if %}").unwrap();
    assert_eq!(show(&[]).status.code(), Some(3));
}
