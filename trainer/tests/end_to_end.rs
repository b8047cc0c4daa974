//! The program as people use it: every command once, and what it says about bad input.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bonsai_trainer::checkpoint::{self, Saved};
use bonsai_trainer::stories;

fn trainer(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bonsai-trainer")).arg("--quiet").args(arguments).output().unwrap()
}

/// Runs a command that must succeed and returns what it printed.
fn done(arguments: &[&str]) -> String {
    let output = trainer(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
    assert_eq!(stderr, "", "{arguments:?} is not quiet");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail with `code` and one line on stderr that says each of `parts`.
fn fails(arguments: &[&str], code: i32, parts: &[&str]) {
    let output = trainer(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{arguments:?}: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{arguments:?}: '{part}' is not in: {stderr}");
    }
    assert!(output.stdout.is_empty(), "{arguments:?} printed something");
}

/// A scratch folder with a text to train on.
struct Place(tempfile::TempDir);

const TINY: [&str; 8] = ["--preset", "1m", "--seq-len", "32", "--batch-size", "4", "--set", "vocab_size=300"];

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let text = stories::corpus(1, 60_000).join("\n<|endoftext|>\n");
        std::fs::write(place.0.path().join("text.txt"), text).unwrap();
        place
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// A finished run of two steps, with more `settings`.
    fn train(&self, name: &str, settings: &[&str]) -> String {
        let (text, out) = (self.at("text.txt"), self.at(name));
        let given = ["train", "--data", &text, "--out", &out, "--steps", "2", "--set", "sample_every=0"];
        let printed = done(&[&given[..], &TINY, settings].concat());
        assert!(printed.starts_with("step 2: valid loss "), "{printed}");
        out
    }

    fn export(&self, run: &str, format: &str, name: &str) -> String {
        let out = self.at(name);
        let printed = done(&["export", run, "--format", format, "--out", &out]);
        assert!(printed.contains("every code and scale equal"), "{printed}");
        out
    }
}

#[test]
fn quickstart_goes_all_the_way() {
    let place = Place::new();
    let out = place.at("quick");
    let printed = done(&["quickstart", "--steps", "20", "--out", &out]);
    for part in ["trained in", "Validation perplexity", "Proof: ternary", "every code and scale equal"] {
        assert!(printed.contains(part), "'{part}' is not in: {printed}");
    }
    assert!(done(&["verify", &format!("{out}/stories.gguf")]).contains("ternary: all "));
    assert!(Path::new(&out).join("loss.svg").exists());
    // Its own run gives way to the next one; anything else stays.
    let again = ["quickstart", "--steps", "1", "--out", &out];
    done(&again);
    let note = Path::new(&out).join("run/notes.txt");
    std::fs::write(&note, "mine").unwrap();
    fails(&again, 2, &["run", "earlier quickstart", "--out"]);
    assert!(note.exists() && checkpoint::exists(note.parent().unwrap()));
    let stopped = place.at("stopped"); // while it wrote its first token shard
    std::fs::create_dir_all(format!("{stopped}/run/data")).unwrap();
    std::fs::write(format!("{stopped}/run/data/train.bin"), [1, 0]).unwrap();
    done(&["quickstart", "--steps", "1", "--out", &stopped]);
    let model = place.at("download");
    std::fs::create_dir_all(format!("{model}/run")).unwrap();
    std::fs::write(format!("{model}/run/model.safetensors"), "weights").unwrap();
    fails(&["quickstart", "--steps", "1", "--out", &model], 2, &["run", "earlier quickstart"]);
    assert!(!Path::new(&model).join("stories.txt").exists(), "refused before anything is written");
}

#[test]
fn a_single_document_is_trained_on() {
    let place = Place::new();
    let text = place.at("one.txt");
    std::fs::write(&text, stories::corpus(3, 3_000).join("\n")).unwrap();
    let command =
        ["train", "--data", &text, "--out", &place.at("one"), "--steps", "1", "--set", "sample_every=0"];
    let output =
        Command::new(env!("CARGO_BIN_EXE_bonsai-trainer")).args(command).args(TINY).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("single document"), "{stderr}");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.starts_with("step 1: valid loss 5."), "the loss of a short window: {printed}");
}

#[test]
fn text_to_talking_model_by_every_command() {
    let place = Place::new();
    let run = place.train("run", &[]);
    let printed = done(&["train", "--resume", &run, "--steps", "4"]);
    assert!(printed.starts_with("step 4: valid loss "), "{printed}");
    let text = place.at("text.txt");
    let short = place.at("short.txt");
    std::fs::write(&short, stories::corpus(2, 1_500).join("\n")).unwrap();
    let mut models = vec![run.clone()];
    for format in ["q2_0", "q2_0_g64", "pq2_0"] {
        models.push(place.export(&run, format, &format!("{format}.gguf")));
    }
    models.push(place.export(&run, "hf", "hf"));
    let mut scores = Vec::new();
    for model in &models {
        let printed = done(&["verify", model]);
        assert!(
            printed.contains("ternary: all ") && printed.contains("model.embed_tokens.weight"),
            "{printed}"
        );
        let json = done(&["eval", model, "--data", &short, "--window", "32", "--exact", "--json"]);
        let score: serde_json::Value = serde_json::from_str(&json).unwrap();
        scores.push(score["loss"].as_f64().unwrap());
        assert!(done(&["sample", model, "--prompt", "One day", "-n", "8"]).starts_with("One day"));
    }
    // The text as an editor of another system writes it.
    let windows = place.at("windows.txt");
    let text_of_windows = std::fs::read_to_string(&short).unwrap().replace('\n', "\r\n");
    std::fs::write(&windows, format!("\u{feff}{text_of_windows}")).unwrap();
    let json = done(&["eval", &run, "--data", &windows, "--window", "32", "--exact", "--json"]);
    scores.push(serde_json::from_str::<serde_json::Value>(&json).unwrap()["loss"].as_f64().unwrap());
    // The same weights in five forms.
    assert!(scores.iter().all(|s| (s - scores[0]).abs() < 1e-5), "{scores:?}");
    let picture = place.at("loss.svg");
    done(&["plot", &run, "--out", &picture]);
    assert!(std::fs::read_to_string(picture).unwrap().contains("<svg"));
    assert!(done(&[&["fit"], &TINY[..]].concat()).contains("peak"));
    let fit: serde_json::Value =
        serde_json::from_str(&done(&[&["fit", "--json"], &TINY[..]].concat())).unwrap();
    assert!(fit["peak"].as_u64() > fit["latents"].as_u64(), "{fit}");
    let arguments = ["train", "--data", &text, "--init", &models[4], "--out", &place.at("again")];
    let small = ["--steps", "1", "--seq-len", "32", "--batch-size", "2", "--set", "sample_every=0"];
    assert!(done(&[&arguments[..], &small].concat()).starts_with("step 1: "));
}

#[test]
fn a_run_goes_on_with_other_text() {
    let place = Place::new();
    let run = place.train("run", &[]);
    let (text, tokens) = (place.at("other.txt"), place.at("tokens"));
    std::fs::write(&text, stories::corpus(7, 20_000).join("\n")).unwrap();
    fails(
        &["train", "--resume", &run, "--steps", "4", "--data", &text],
        2,
        &["data", "prepare", "tokenizer.json"],
    );
    fails(&["train", "--resume", &run, "--steps", "4", "--preset", "3m"], 2, &["preset", "began"]);
    let tokenizer = format!("{run}/tokenizer.json");
    done(&["prepare", "--data", &text, "--tokenizer", &tokenizer, "--out", &tokens]);
    let printed = done(&["train", "--resume", &run, "--steps", "4", "--data", &tokens]);
    assert!(printed.starts_with("step 4: "), "{printed}");
    // Text that is much harder is no row of spikes: 25 steps on one letter, then stories.
    let (letters, easy) = (place.at("letters.txt"), place.at("easy"));
    std::fs::write(&letters, "aaaaaaaa\n".repeat(4000)).unwrap();
    let given = ["train", "--data", &letters, "--tokenizer", &tokenizer, "--out", &easy, "--steps", "25"];
    let printed = done(&[&given[..], &TINY, &["--set", "sample_every=0"]].concat());
    let loss = |printed: &str| -> f64 {
        printed.split("valid loss ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap()
    };
    assert!(loss(&printed) < 2.5, "{printed}");
    let printed = done(&["train", "--resume", &easy, "--steps", "35", "--data", &tokens]);
    assert!(printed.starts_with("step 35: ") && loss(&printed) > 4.5, "{printed}");
}

#[test]
fn a_ternary_run_to_start_from_stays_rounded_as_it_was() {
    let place = Place::new();
    let base = place.train("base", &[]);
    let tuned = place.train("tuned", &["--init", &base]);
    let rule = checkpoint::settings(Path::new(&tuned)).unwrap().scale_rule;
    assert_eq!(rule, "absmean", "a conversion's default would be refit");
    // Its own export is refused as a place for one, and so is the run.
    fails(&["export", &base, "--format", "hf", "--out", &base], 2, &["holds a model"]);
    let hf = place.export(&base, "hf", "hf");
    fails(&["export", &base, "--format", "hf", "--out", &hf], 2, &["holds a model"]);
}

/// Packed or as numbers: nobody teaches it, and at a learning rate of next to nothing its codes and scales stay, also under
/// the rule whose scale is the mean of all weights, where f16 may round the mean otherwise.
#[test]
fn a_ternary_file_to_start_from_stays_what_it_is_and_learns_from_the_text() {
    let place = Place::new();
    let base = place.train("base", &[]);
    let gguf = place.export(&base, "q2_0", "base.gguf");
    let values = |file: &str| bonsai_runtime::ModelFile::open(Path::new(file)).unwrap().tensors;
    let expected = values(&gguf);
    let numbers = place.export(&base, "hf", "hf");
    let group = |file: &str| checkpoint::ternary_group(Path::new(file)).unwrap();
    let dense = place.train("dense", &["--precision", "fp"]);
    assert_eq!(
        [group(&gguf), group(&numbers), group(&base), group(&dense)],
        [Some(128), Some(128), None, None]
    );
    assert_eq!(group(&place.export(&base, "q2_0_g64", "g64.gguf")), Some(64));
    for file in [&gguf, &numbers] {
        for rule in ["refit", "absmean"] {
            let name = format!("{rule} of {}", Path::new(file).file_name().unwrap().display());
            let rule = format!("scale_rule={rule}");
            let run = place.train(&name, &["--init", file, "--lr", "1e-30", "--set", &rule]);
            let metrics = std::fs::read_to_string(format!("{run}/metrics.jsonl")).unwrap();
            assert!(!metrics.contains("\"kl\"") && !metrics.contains("\"grad_norm\":0.0,"), "{metrics}");
            for (tensor, found) in values(&place.export(&run, "q2_0", &format!("{name}.gguf"))) {
                for (a, b) in found.to_f32().iter().zip(expected[&tensor].to_f32()) {
                    assert!((a - b).abs() <= 1e-3 * b.abs(), "{name}, {tensor}: {a} was {b}");
                }
            }
        }
    }
}

/// A tokenizer.json does not say which token ends a text.
#[test]
fn a_model_with_a_tokenizer_of_its_own_knows_where_texts_end() {
    let place = Place::new();
    let (text, tokenizer) = (place.at("text.txt"), place.at("mine.json"));
    done(&["tokenizer", "--data", &text, "--vocab-size", "300", "--out", &tokenizer]);
    let run = place.train("run", &["--tokenizer", &tokenizer]);
    let file = bonsai_runtime::ModelFile::open(Path::new(&run)).unwrap();
    let end = file.tokenizer().unwrap().unwrap().token_id("<|endoftext|>").unwrap();
    assert_eq!(file.config.eos, [end]);
    // The tokenizer of a packed model serves others.
    let (gguf, shards) = (place.export(&run, "q2_0", "run.gguf"), place.at("shards"));
    place.train("other", &["--tokenizer", &gguf]);
    done(&["prepare", "--data", &text, "--tokenizer", &gguf, "--out", &shards]);
    fails(&["prepare", "--data", &text, "--tokenizer", &text, "--out", &shards], 3, &["text.txt"]);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bonsai-trainer"));
    let mut child = command.arg("settings").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn weights_that_explode_end_the_run_with_their_own_exit_code() {
    let place = Place::new();
    let given = ["train", "--data", &place.at("text.txt"), "--out", &place.at("run"), "--steps", "2"];
    let exploding = ["--lr", "1e38", "--set", "sample_every=1", "--set", "eval_every=1"];
    fails(&[&given[..], &TINY, &exploding].concat(), 5, &["diverged"]);
}

#[test]
fn what_cannot_take_effect_is_refused() {
    let place = Place::new();
    let run = place.train("run", &[]);
    fails(&["train", "--resume", &run, "--steps", "1"], 2, &["steps is 1", "at step 2 already"]);
    let (text, shards, out) = (place.at("text.txt"), format!("{run}/data"), place.at("out"));
    fails(&["train", "--data", &shards, &text, "--out", &out], 3, &["prepared tokens", "stand alone"]);
    fails(&["train", "--data", &shards, "--valid", &text, "--out", &out], 2, &["--valid", "prepare"]);
    std::fs::create_dir(place.at("empty")).unwrap();
    fails(&["train", "--data", &text, &place.at("empty"), "--out", &out], 3, &["empty", "no .txt"]);
    fails(&["lr-find", "--resume", &run], 2, &["--init"]);
    for clash in [["--out", &out], ["--config", &text]] {
        let output = trainer(&[&["train", "--resume", &run], &clash[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{clash:?}");
    }
    // A forecast is that of the run, or of the vocabulary that is given.
    let mebibytes = |arguments: &[&str]| -> f64 {
        let printed = done(&[&["fit"], arguments].concat());
        let line = printed.lines().find(|line| line.contains("latent weights")).unwrap().to_owned();
        line.split_whitespace().find_map(|word| word.parse().ok()).unwrap()
    };
    let own = mebibytes(&["--resume", &run]);
    assert_eq!(own, mebibytes(&["--preset", "1m", "--tokenizer", &run]));
    assert!(own < mebibytes(&["--preset", "1m"]));
}

#[test]
fn bad_settings_are_one_line_and_exit_code_2() {
    let place = Place::new();
    let (text, out) = (place.at("text.txt"), place.at("out"));
    let train = |more: &[&'static str], parts: &[&str]| {
        fails(&[&["train", "--data", &text, "--out", &out][..], more].concat(), 2, parts);
    };
    train(&["--set", "learning_rate=1"], &["learning_rate"]);
    train(&["--set", "group"], &["KEY=VALUE"]);
    train(&["--set", "group=100"], &["100", "64, 128 or 256"]);
    train(&["--preset", "9m"], &["9m", "1m"]);
    train(&["--set", "eval_sequences=0"], &["eval_sequences"]);
    train(&["--set", "beta2=2"], &["beta2", "below 1"]);
    train(&["--set", "max_bad_steps=0"], &["max_bad_steps", "at least 1"]);
    train(&["--set", "sample_prompt="], &["sample_prompt", "sample_every"]);
    train(&["--optimizer", "sgd"], &["sgd", "adamw"]);
    train(&["--device", "tpu"], &["tpu"]);
    fails(&["train", "--out", &out], 2, &["--data"]);
    if !cfg!(feature = "gpu") {
        fails(&["train", "--data", &text, "--out", &out, "--device", "gpu"], 6, &["GPU", "--device cpu"]);
    }
    let run = place.train("run", &[]);
    fails(&[&["train", "--data", &text, "--out", &run], &TINY[..]].concat(), 2, &[&run, "--resume"]);
    fails(&["export", &run, "--format", "q9", "--out", &place.at("x.gguf")], 2, &["q9", "q2_0", "or hf"]);
    fails(&["export", &run, "--out", &place.at("nowhere/x.gguf")], 3, &["x.gguf: "]);
    fails(&["export", &run, "--out", &place.at("")], 2, &["is there already, and no file"]);
    // Somebody's files stay; an earlier export gives way to the next one.
    let before = std::fs::read(&text).unwrap();
    fails(&["export", &run, "--out", &text], 2, &["text.txt", "no GGUF file"]);
    fails(&["tokenizer", "--data", &text, "--out", &text], 2, &["text.txt", "is there already", "--out"]);
    assert!(std::fs::read(&text).unwrap() == before);
    place.export(&run, "q2_0", "twice.gguf");
    place.export(&run, "q2_0", "twice.gguf");
    fails(&["train", "--resume", &place.at("nothing")], 2, &["nothing", "no checkpoint"]);
    // A tokenizer with more tokens than the model has rows.
    let (wide, hf) = (place.at("wide.json"), place.export(&run, "hf", "hf"));
    done(&["tokenizer", "--data", &text, "--vocab-size", "400", "--out", &wide]);
    let other = ["train", "--data", &text, "--out", &out, "--init", &hf, "--tokenizer", &wide];
    fails(&other, 2, &["400", "300", "tokenizer"]);
}

#[test]
fn numbers_are_told_from_options() {
    for (given, meant) in [
        (["train", "--seed", "-1"], "from 0 on"),
        (["train", "--steps", "1e3"], "from 0 on"),
        (["train", "--lr", "fast"], "such as 0.001"),
        (["sample", "--tokens", "-5"], "from 0 on"),
        (["preview", "--skip", "-5"], "from 0 on"),
        (["fit", "--threads", "-1"], "from 0 on"),
        (["fit", "--threads", "100000"], "at most 1024"),
    ] {
        let output = trainer(&given);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{given:?}");
        assert!(stderr.contains(&format!("'{}'", given[2])) && stderr.contains(meant), "{given:?}: {stderr}");
    }
    fails(&["train", "--lr", "-1"], 2, &["learning rates"]);
}

#[test]
fn bad_files_are_one_line_and_exit_code_3() {
    let place = Place::new();
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(place.at(name), bytes).unwrap();
        place.at(name)
    };
    let (text, out, missing) = (place.at("text.txt"), place.at("out"), place.at("missing.txt"));
    let train = |data: &str, parts: &[&str]| fails(&["train", "--data", data, "--out", &out], 3, parts);
    train(&missing, &["missing.txt"]);
    train(&write("empty.txt", b" \n\n"), &["empty.txt", "no text"]);
    let json = place.at("tokenizer.json");
    fails(&["tokenizer", "--data", &place.at("empty.txt"), "--out", &json], 3, &["empty.txt", "no text"]);
    train(&write("word.txt", b"word"), &["single document"]);
    train(&write("latin.txt", b"caf\xe9"), &["latin.txt", "UTF-8"]);
    train(&write("bad.jsonl", b"{\"text\": 1}\n"), &["bad.jsonl", "line 1"]);
    let run = place.train("run", &[]);
    let gguf = place.export(&run, "q2_0", "whole.gguf");
    let bytes = std::fs::read(&gguf).unwrap();
    for (name, bytes) in [
        ("cut.gguf", &bytes[..bytes.len() / 2]),
        ("head.gguf", &bytes[..20]),
        ("nothing.gguf", &[]),
        ("magic.gguf", b"GGML and more bytes than a header has"),
    ] {
        let file = write(name, bytes);
        fails(&["verify", &file], 3, &[name]);
        fails(&["eval", &file, "--data", &text], 3, &[name]);
    }
    fails(&["eval", &gguf, "--data", &missing], 3, &["missing.txt"]);
    fails(&["eval", &gguf, "--data", &place.at("empty.txt")], 3, &["empty.txt", "no text"]);
    fails(&["eval", &gguf, "--data", &place.at("bad.jsonl")], 3, &["bad.jsonl", ".txt file"]);
    // A weight that is no number.
    let hf = place.export(&run, "hf", "hf");
    let tensors = PathBuf::from(&hf).join("model.safetensors");
    let mut bytes = std::fs::read(&tensors).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&tensors, &bytes).unwrap();
    fails(&["train", "--data", &text, "--init", &hf, "--out", &place.at("nan")], 3, &["hf", "NaN", "row"]);
    std::fs::write(&tensors, &bytes[..end - 1]).unwrap();
    fails(&["train", "--data", &text, "--init", &hf, "--out", &place.at("cut")], 3, &["hf"]);
}

#[test]
fn weights_that_are_not_ternary_are_refused() {
    let place = Place::new();
    let twin = place.train("twin", &["--precision", "fp"]);
    fails(&["verify", &twin], 3, &["twin", "row 0", "is not -s, 0 or +s"]);
    let dense = place.at("dense");
    done(&["export", &twin, "--format", "hf", "--out", &dense]);
    fails(&["verify", &dense], 3, &["dense", "is not -s, 0 or +s"]);
    fails(&["export", &twin, "--out", &place.at("twin.gguf")], 2, &["full precision", "hf"]);
}

/// The last bytes of the file belong to a matrix of the last layer.
#[test]
fn a_code_3_in_a_packed_file_is_refused() {
    let place = Place::new();
    let gguf = place.export(&place.train("run", &[]), "q2_0", "model.gguf");
    let file = bonsai_runtime::ModelFile::open(Path::new(&gguf)).unwrap();
    let name = "model.layers.3.mlp.down_proj.weight";
    let blocks = file.tensors[name].bytes.to_vec();
    drop(file);
    let mut bytes = std::fs::read(&gguf).unwrap();
    let at = bytes.windows(blocks.len()).position(|window| window == blocks).unwrap();
    // One group all code 3: as plain numbers it is a ternary group of +s with a scale of 2s.
    bytes[at + 2..at + 34].fill(0xff);
    std::fs::write(&gguf, bytes).unwrap();
    fails(&["verify", &gguf], 3, &["model.gguf", name, "code 3", "row 0, column 0"]);
}

/// A file system of a few MiB, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&at);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// One checkpoint of this model is 11 MB: a second does not fit beside it.
#[test]
fn a_full_disk_loses_nothing() {
    let place = Place::new();
    let Some(disk) = SmallDisk::mount(place.0.path().join("disk"), "16m") else {
        assert!(std::env::var_os("CI").is_none(), "this test must be able to mount a tmpfs");
        eprintln!("SKIPPED: a full disk: only root may mount a small one (training.rs has /dev/full)");
        return;
    };
    let run = place.train("disk/run", &[]);
    fails(&["train", "--resume", &run, "--steps", "4"], 3, &["safetensors.new", "No space"]);
    assert_eq!(Saved::open(Path::new(&run)).unwrap().state.step, 2);
    assert!(done(&["verify", &run]).contains("ternary: all "));
    let filler = disk.0.join("filler");
    let _ = std::fs::write(&filler, vec![1u8; 16 << 20]);
    let out = place.at("disk/model.gguf");
    fails(&["export", &run, "--out", &out], 3, &["model.gguf: ", "No space"]);
    assert!(!Path::new(&out).exists());
}

#[test]
fn lr_find_shows_where_the_loss_falls() {
    let place = Place::new();
    let (text, out) = (place.at("text.txt"), place.at("find"));
    let given = ["lr-find", "--data", &text, "--out", &out, "--steps", "12", "--to", "1e-2", "--json"];
    let found: serde_json::Value = serde_json::from_str(&done(&[&given[..], &TINY].concat())).unwrap();
    let points = found["points"].as_array().unwrap();
    assert!(points.len() == 12 && points[11][0] == 1e-2, "{found}");
    assert!((points[0][0].as_f64().unwrap() / 1e-5 - 1.0).abs() < 1e-6, "{found}");
    assert!(points[11][1].as_f64() < points[0][1].as_f64(), "{found}");
    fails(&["lr-find", "--data", &text, "--out", &out, "--from", "1", "--to", "0.1"], 2, &["--from"]);
    fails(&["lr-find", "--data", &text, "--out", &out], 2, &["find", "holds a run", "--out"]);
    fails(&["lr-find", "--data", &text, "--lr", "1"], 2, &["--lr", "--to"]);
    let short = ["lr-find", "--data", &text, "--out", &place.at("short"), "--steps", "2"];
    fails(&short, 2, &["--steps", "at least 3"]);
    let help = done(&["lr-find", "--help"]);
    assert!(help.contains("--steps") && !help.contains("--resume") && !help.contains("--lr "), "{help}");
}

#[test]
fn lr_find_leaves_the_place_of_runs_alone() {
    let place = Place::new();
    let given = ["lr-find", "--data", "text.txt", "--steps", "3"];
    for name in ["lr-find", "lr-find-2"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bonsai-trainer"));
        let output = command.current_dir(place.0.path()).args(given).args(TINY).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(checkpoint::exists(&place.0.path().join("runs").join(name)), "{name}");
    }
    assert!(!place.0.path().join("runs/run").exists());
}

#[test]
fn a_run_reports_on_its_layers() {
    let place = Place::new();
    let run = place.train("run", &["--set", "tensorboard=true", "--set", "eval_every=1", "--lr", "1e-4"]);
    let metrics = std::fs::read_to_string(format!("{run}/metrics.jsonl")).unwrap();
    let lines = metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let valid: Vec<_> = lines.filter(|line| line["valid_loss"].is_number()).collect();
    assert_eq!(valid.len(), 3);
    let (first, last) = (&valid[0]["layers"], &valid[2]["layers"]);
    let kinds: Vec<&String> = last.as_object().unwrap().keys().collect();
    assert_eq!(kinds, ["down", "embed", "gate", "k", "norm", "o", "q", "up", "v"]);
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    let mut changed = 0.0;
    for kind in kinds.iter().filter(|kind| **kind != "norm") {
        let (now, start) = (&last[*kind], &first[*kind]);
        assert!((0.2..0.45).contains(&number(&now["zero_fraction"])), "{kind}: {now}");
        assert!(number(&now["flip_rate"]) < 0.2 && number(&now["grad_norm"]) > 0.0, "{kind}: {now}");
        let drift = number(&now["scale"]) / number(&start["scale"]);
        // AdamW's first updates move every weight by about the learning rate: here some hundredths of a scale.
        assert!((0.9..1.1).contains(&drift) && (1e-3..0.5).contains(&number(&now["move"])), "{kind}: {now}");
        assert_eq!(number(&start["changed"]), 0.0, "{kind}");
        changed += number(&now["changed"]);
    }
    assert!(changed > 0.0);
    let shares: f64 = valid[2]["time"].as_object().unwrap().values().map(number).sum();
    assert!((shares - 1.0).abs() < 0.01 && valid[2]["time"]["linear"].is_number(), "{}", valid[2]["time"]);
    let events: Vec<_> = std::fs::read_dir(&run)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("events.out.tfevents."))
        .collect();
    let events = std::fs::read(&events[0]).unwrap();
    let holds = |text: &[u8]| events.windows(text.len()).any(|window| window == text);
    assert!(holds(b"brain.Event:2") && holds(b"layers/down/scale") && holds(b"valid_loss"));
    std::fs::remove_file(format!("{run}/report.md")).unwrap();
    done(&["report", &run]);
    let report = std::fs::read_to_string(format!("{run}/report.md")).unwrap();
    for part in [
        "Step 2: validation loss",
        "ternary: all ",
        "eval_every = 1",
        "| down |",
        "linear",
        "What to try next",
    ] {
        assert!(report.contains(part), "'{part}' is not in: {report}");
    }
    assert!(Path::new(&format!("{run}/loss.svg")).exists());
}
