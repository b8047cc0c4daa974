//! A GGUF file of somebody else's as the start of a run, and as other kinds of file.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tiny_run;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bonsai_runtime::ModelFile;
use bonsai_runtime::gguf::PackedFormat;
use bonsai_trainer::config::{OptimizerKind, Precision, RunConfig};
use bonsai_trainer::convert::convert;
use bonsai_trainer::rotation::Rotation;
use bonsai_trainer::run::{self, Watch};
use bonsai_trainer::{eval, export, stories, verify};
use tiny_run::settings;

static NEVER: AtomicBool = AtomicBool::new(false);
const QUIET: Watch<'_> = Watch { cancelled: &NEVER, quiet: true };

/// A random model of architecture `llama`, 64 wide, with a tokenizer (tools/interop/make_gguf.py).
fn llama() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/tests/gguf/llama.gguf")
}

/// Settings of a conversion of it.
fn conversion(dir: &Path) -> RunConfig {
    let text = dir.join("text.txt");
    std::fs::write(&text, stories::corpus(1, 20_000).join("\n\n")).unwrap();
    let init = llama().to_str().unwrap().to_owned();
    RunConfig { init, data: vec![text], group: 64, lr: 1e-2, ..settings(&dir.join("run")) }
}

#[test]
fn a_run_starts_from_a_gguf_file_and_ends_in_one() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = run::start(conversion(dir.path()), &QUIET).unwrap();
    assert!(outcome.last_loss < outcome.first_loss.unwrap(), "{outcome:?}");

    let out = dir.path().join("ternary.gguf");
    let proof = export::export(&dir.path().join("run"), PackedFormat::Q2_0G64, &out).unwrap();
    assert_eq!((proof.ternary_tensors, proof.dense_tensors), (8, 3));
    verify::verify(&out).unwrap();
    let (before, after) = (ModelFile::open(&llama()).unwrap(), ModelFile::open(&out).unwrap());
    assert!(after.description.starts_with("GGUF v3, llama, "), "{}", after.description);
    assert_eq!(after.config, before.config);
    let ids = |file: &ModelFile| file.tokenizer().unwrap().unwrap().encode("there, 12 herd").unwrap();
    assert_eq!(ids(&after), ids(&before));
}

#[test]
fn a_conversion_without_a_learning_rate_takes_one_in_units_of_the_scale() {
    let dir = tempfile::tempdir().unwrap();
    let config = RunConfig { lr: 0.0, optimizer: OptimizerKind::Adamw, ..conversion(dir.path()) };
    run::start(config, &QUIET).unwrap();
    let saved = RunConfig::load(Some(&dir.path().join("run/run.toml")), &[]).unwrap();
    let file = ModelFile::open(&llama()).unwrap();
    let ternary = file.tensors.iter().filter(|(name, _)| name.contains("_proj"));
    let magnitudes: Vec<f32> = ternary.flat_map(|(_, tensor)| tensor.to_f32()).map(f32::abs).collect();
    let mean = magnitudes.iter().sum::<f32>() as f64 / magnitudes.len() as f64;
    // A scale is the mean magnitude of the weights of a group that are not rounded to zero: above the mean of all, and
    // not above twice that.
    assert!((0.01 * mean..0.02 * mean).contains(&saved.lr), "{} for {mean}", saved.lr);
}

#[test]
fn groups_that_do_not_fit_are_an_error_that_names_those_that_do() {
    let dir = tempfile::tempdir().unwrap();
    let config = RunConfig { group: 128, ..conversion(dir.path()) };
    let error = run::start(config, &QUIET).unwrap_err().to_string();
    assert!(error.contains("--set group=64"), "{error}");
}

#[test]
fn a_gguf_file_becomes_a_directory_and_a_gguf_file_again() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, again) = (dir.path().join("hf"), dir.path().join("again.gguf"));
    let there = convert(&llama(), &folder, None).unwrap();
    assert!(there.to.starts_with("Hugging Face directory, llama"), "{there}");
    let back = convert(&folder, &again, None).unwrap();
    assert_eq!((back.tensors, back.to.as_str()), (11, "GGUF v3, llama, 11 as F32"));
    assert_eq!(ModelFile::open(&again).unwrap().config, ModelFile::open(&llama()).unwrap().config);
    let error = convert(&llama(), &again, None).unwrap_err().to_string();
    assert!(error.contains("is there already"), "{error}");
}

#[test]
fn ternary_numbers_are_packed_and_dense_ones_refuse_a_packing() {
    let dir = tempfile::tempdir().unwrap();
    // The name of a file becomes the name of the model in it.
    let [packed, folder, again] =
        ["a/stories.gguf", "hf", "b/stories.gguf"].map(|name| dir.path().join(name));
    for path in [&packed, &again] {
        std::fs::create_dir(path.parent().unwrap()).unwrap();
    }
    let stories = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../wasm/demo/stories.gguf"));
    convert(stories, &packed, None).unwrap();
    assert!(convert(&packed, &folder, None).unwrap().to.contains("as F32"));
    convert(&folder, &again, None).unwrap();
    let [packed, again] = [packed, again].map(|path| std::fs::read(path).unwrap());
    assert!(packed == again, "{} and {} bytes", packed.len(), again.len());
    let refused = |source: &Path, format: PackedFormat| {
        convert(source, &dir.path().join("other.gguf"), Some(format)).unwrap_err().to_string()
    };
    let groups = refused(&folder, PackedFormat::Tq2_0);
    assert!(groups.contains("groups of 256") && groups.contains("groups of 128"), "{groups}");
    let dense = refused(&llama(), PackedFormat::Q2_0);
    assert!(dense.contains("no matrix of this model is ternary"), "{dense}");
}

#[test]
fn a_run_is_named_as_what_it_is_and_the_state_of_another_trainer_makes_no_run() {
    let dir = tempfile::tempdir().unwrap();
    let (run, folder, out) = (dir.path().join("run"), dir.path().join("hf"), dir.path().join("out.gguf"));
    run::start(RunConfig { steps: 1, ..conversion(dir.path()) }, &QUIET).unwrap();
    let error = convert(&run, &out, None).unwrap_err().to_string();
    assert!(error.contains("bonsai-trainer export"), "{error}");
    let description = ModelFile::open(&run).unwrap().description;
    assert!(description.contains("not rounded yet"), "{description}");

    convert(&llama(), &folder, None).unwrap();
    std::fs::write(folder.join("trainer_state.json"), "{}").unwrap(); // as transformers leaves it
    eval::open(&folder).unwrap();
    convert(&folder, &out, None).unwrap();
}

/// Another basis is the same function: the loss of the dense weights stays, and the ternary ones export as ever.
#[test]
fn a_rotated_start_is_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let gains = ModelFile::open(&llama()).unwrap().tensors["model.norm.weight"].to_f32();
    assert!(gains.iter().any(|gain| (gain - 1.0).abs() > 0.02), "gains of 1 would prove nothing: {gains:?}");
    let first_loss = |rotation, precision, name: &str| {
        let base = conversion(dir.path());
        let run = RunConfig { rotation, precision, steps: 1, out: dir.path().join(name), ..base };
        run::start(run, &QUIET).unwrap().first_loss.unwrap()
    };
    let plain = first_loss(Rotation::None, Precision::Fp, "plain");
    for (rotation, name) in [(Rotation::Residual, "residual"), (Rotation::Full, "full")] {
        let rotated = first_loss(rotation, Precision::Fp, name);
        assert!((rotated - plain).abs() < 1e-5, "{name}: {rotated} instead of {plain}");
        first_loss(rotation, Precision::Ternary, &format!("{name}_ternary"));
        let out = dir.path().join("rotated.gguf");
        export::export(&dir.path().join(format!("{name}_ternary")), PackedFormat::Q2_0G64, &out).unwrap();
        let file = ModelFile::open(&out).unwrap();
        assert!(!file.config.tied && file.tensors.contains_key("lm_head.weight"));
    }
    let scratch = RunConfig { rotation: Rotation::Full, ..RunConfig::default() };
    assert!(scratch.check().unwrap_err().to_string().contains("conversions"));
}
