//! The program with a GPU, without one, and with one that is not what was asked for.
#![cfg(all(feature = "cli", feature = "gpu"))]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::{Command, Output};

use bonsai_runtime::gguf::{ModelTensor, PackedFormat, write_model};
use bonsai_runtime::tensor::Format;
use bonsai_runtime::ternary::Packing;
use safetensors::SafeTensors;
use support::*;

/// A random model as a GGUF file.
fn model() -> tempfile::NamedTempFile {
    let file = model_file(&tiny_128(), Format::Ternary(Packing::Q2_0), 31);
    let tensor =
        |spec: &bonsai_runtime::config::TensorSpec| ModelTensor::Stored(file.tensors[&spec.name].clone());
    let mut bytes = Vec::new();
    write_model(&mut bytes, &file.config, "random", None, PackedFormat::Q2_0, tensor).unwrap();
    let out = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&out, bytes).unwrap();
    out
}

/// Runs `bonsai`, on a machine without drivers or with an adapter asked for by name.
fn bonsai(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bonsai"))
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const NO_DRIVERS: [(&str, &str); 2] =
    [("VK_ICD_FILENAMES", "/nonexistent.json"), ("VK_DRIVER_FILES", "/nonexistent.json")];

#[test]
fn the_same_text_as_the_cpu() {
    let model = model();
    let path = model.path().to_str().unwrap();
    let text = |more: &[&str]| {
        let run = ["run", "-m", path, "--tokens", "1,2,3", "-n", "64", "--temp", "0"];
        let output = bonsai(&[&run[..], more].concat(), &[]);
        assert!(output.status.success(), "{}", stderr(&output));
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (cpu, _) = text(&["--exact", "--kv", "f16"]);
    let (gpu, status) = text(&["--device", "gpu"]);
    assert!(cpu.split_whitespace().count() >= 64, "{cpu}");
    assert_eq!(cpu, gpu);
    assert!(status.contains("GPU, "), "{status}");
}

#[test]
fn the_same_logits_as_the_cpu() {
    let (model, out) = (model(), tempfile::tempdir().unwrap());
    let logits = |name: &str, more: &[&str]| {
        let to = out.path().join(name);
        let tokens = "5,1,96,0,7,7,7,30,31,32,33,34";
        let logits =
            ["logits", "-m", model.path().to_str().unwrap(), "--tokens", tokens, "-o", to.to_str().unwrap()];
        let output = bonsai(&[&logits[..], more].concat(), &[]);
        assert!(output.status.success(), "{}", stderr(&output));
        let bytes = std::fs::read(to).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let data = tensors.tensor("logits").unwrap().data().to_vec();
        data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>()
    };
    let exact: Vec<f64> = logits("cpu", &["--exact"]).into_iter().map(f64::from).collect();
    let error = nmse(&logits("gpu", &["--device", "gpu"]), &exact);
    println!("{error:.1e}");
    assert!(error < 1e-6, "{error:e}: f16 keys and values cost about 1e-7");
}

#[test]
fn without_a_driver() {
    let model = model();
    let path = model.path().to_str().unwrap();
    let run = |device| {
        bonsai(
            &["run", "-m", path, "--tokens", "1,2", "-n", "4", "--temp", "0", "--device", device],
            &NO_DRIVERS,
        )
    };
    let refused = run("gpu");
    assert_eq!(refused.status.code(), Some(6), "{}", stderr(&refused));
    assert!(
        refused.stdout.is_empty() && stderr(&refused).contains("is a driver for Vulkan"),
        "{}",
        stderr(&refused)
    );
    let elsewhere = run("auto");
    assert!(
        elsewhere.status.success()
            && stderr(&elsewhere).contains("not on a GPU: ")
            && !stderr(&elsewhere).contains("GPU: GPU"),
        "{}",
        stderr(&elsewhere)
    );
    assert_eq!(elsewhere.stdout, run("cpu").stdout);
    let none = bonsai(&["devices"], &NO_DRIVERS);
    assert!(String::from_utf8_lossy(&none.stdout).contains("gpu   none"), "{}", stderr(&none));
}

#[test]
fn an_adapter_by_name() {
    let listed = bonsai(&["devices", "--json"], &[]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let name = listed["gpus"][0]["name"].as_str().unwrap();
    let model = model();
    let arguments =
        ["run", "-m", model.path().to_str().unwrap(), "--tokens", "1", "-n", "1", "--device", "gpu"];
    let found = bonsai(&arguments, &[("BONSAI_GPU_ADAPTER", &name.to_uppercase())]);
    assert!(found.status.success() && stderr(&found).contains(name), "{}", stderr(&found));
    let missing = bonsai(&arguments, &[("BONSAI_GPU_ADAPTER", "no such thing")]);
    assert_eq!(missing.status.code(), Some(6));
    assert!(
        stderr(&missing).contains(name) && stderr(&missing).contains("no such thing"),
        "{}",
        stderr(&missing)
    );
}

#[test]
fn bench_says_where_it_ran() {
    let model = model();
    let bench = ["bench", "-m", model.path().to_str().unwrap(), "-p", "3", "-n", "2", "-r", "1", "--json"];
    let ran_on = |device: &[&str], environment: &[(&str, &str)]| -> serde_json::Value {
        let output = bonsai(&[&bench[..], device].concat(), environment);
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (gpu, cpu) = (ran_on(&["--device", "gpu"], &[]), ran_on(&["--device", "auto"], &NO_DRIVERS));
    for (tests, backend) in [(&gpu, "GPU"), (&cpu, "CPU")] {
        let tests = tests.as_array().unwrap();
        assert_eq!(tests.len(), 2);
        for test in tests {
            assert_eq!(test["backends"], backend);
            assert!(test["avg_ts"].as_f64().unwrap() > 0.0);
        }
    }
    assert!(gpu[1]["read_share"].is_null() && cpu[1]["read_share"].as_f64().unwrap() > 0.0);
}

#[test]
fn autotune_is_remembered_and_a_foreign_file_counts_as_none() {
    let (model, cache) = (model(), tempfile::tempdir().unwrap());
    let (path, file) = (model.path().to_str().unwrap(), cache.path().join("gpu_kernels.json"));
    let environment = [("BONSAI_CACHE", cache.path().to_str().unwrap())];
    let run = || {
        let run = ["run", "-m", path, "--tokens", "1,2,3", "-n", "24", "--temp", "0", "--device", "gpu"];
        let output = bonsai(&run, &environment);
        assert!(output.status.success(), "{}", stderr(&output));
        (stderr(&output).contains("kernels tuned for it"), output.stdout)
    };
    let (tuned, text) = run();
    assert!(!tuned, "nothing was measured yet");
    let bench = ["bench", "-m", path, "--autotune", "-n", "9"];
    assert_eq!(bonsai(&bench, &environment).status.code(), Some(2), "a CPU has nothing to tune");
    let output = bonsai(&[&bench[..], &["--device", "gpu"]].concat(), &environment);
    assert!(output.status.success(), "{}", stderr(&output));
    let block = String::from_utf8(output.stdout).unwrap();
    println!("{block}");
    for line in ["device ", "limits ", "small halves ", "reading ", "dispatches ", "decode ", "remembered "] {
        assert!(block.contains(&format!("\n{line}")), "{line}: {block}");
    }
    let shapes = block.matches(" matrices in groups of ").count();
    assert_eq!((shapes, block.matches("  * ").count()), (5, 5), "a choice for each shape: {block}");
    assert!(!block.contains("WRONG") && !block.contains("not possible"), "{block}");
    assert_eq!(run(), (true, text.clone()));
    let remembered = std::fs::read_to_string(&file).unwrap();
    let others = [
        remembered[..remembered.len() / 2].to_string(),
        remembered.replace("wgpu ", "another "),
        remembered.replace("\"threads\": ", "\"threads\": 1"),
        "[]".into(),
    ];
    for other in others {
        std::fs::write(&file, &other).unwrap();
        assert_eq!(run(), (false, text.clone()), "{other}");
    }
}
