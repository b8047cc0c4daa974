//! Preparations that end before their time: killed, or on a full disk. What was tokenized is kept, and the shards are
//! those of one that was never interrupted, byte for byte.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bonsai_trainer::random::Random;
use bonsai_trainer::{bpe, stories};
use tempfile::TempDir;

/// A folder with a text of several files and a tokenizer.
struct Place(TempDir);

impl Place {
    fn new(bytes: usize) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(place.at("text")).unwrap();
        let documents = stories::corpus(1, bytes);
        for (n, part) in documents.chunks(documents.len().div_ceil(5)).enumerate() {
            let file = place.at("text").join(format!("{n}.txt"));
            std::fs::write(file, part.join("\n<|endoftext|>\n")).unwrap();
        }
        let options = bpe::BpeOptions { vocab_size: 600, ..bpe::BpeOptions::default() };
        let tokenizer = bpe::learn(documents[..200].iter(), &options).unwrap();
        std::fs::write(place.at("tokenizer.json"), tokenizer.to_json().unwrap()).unwrap();
        let config = tokenizer.to_config_json();
        std::fs::write(place.at("tokenizer_config.json"), config).unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The words of a command that prepares into `out`.
    fn words(&self, out: &str) -> Vec<String> {
        let path = |name: &str| self.at(name).to_str().unwrap().to_owned();
        let (text, tokenizer, out) = (path("text"), path("tokenizer.json"), path(out));
        ["prepare", "--data", &text, "--tokenizer", &tokenizer, "--out", &out].map(String::from).to_vec()
    }

    fn prepare(&self, out: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bonsai-trainer"));
        command.args(self.words(out)).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Prepares to the end; what was said on the way.
    fn finish(&self, out: &str) -> String {
        let output = self.prepare(out).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        said
    }

    fn shards(&self, out: &str) -> [Vec<u8>; 3] {
        ["train.bin", "valid.bin", "meta.json"].map(|name| std::fs::read(self.at(out).join(name)).unwrap())
    }
}

/// Bytes of text that the note in a directory says are done.
fn noted(dir: &Path) -> u64 {
    let note = std::fs::read_to_string(dir.join("progress.json")).unwrap_or_default();
    let note: serde_json::Value = serde_json::from_str(&note).unwrap_or_default();
    note["done"].as_u64().unwrap_or(0)
}

#[test]
fn a_killed_preparation_goes_on_and_gives_the_same_bytes() {
    let place = Place::new(8 << 20);
    place.finish("whole");
    let mut random = Random::new(5);
    let mut done = 0;
    for kill in 0..6 {
        let mut child = place.prepare("killed").arg("--threads=1").spawn().unwrap(); // and slow enough to be killed
        // Every other time not before it has got further.
        while kill % 2 == 1 && noted(&place.at("killed")) == done && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(random.below(150) as u64));
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        let now = noted(&place.at("killed"));
        assert!(now >= done || now == 0 && place.at("killed/meta.json").exists(), "{now} after {done}");
        done = now;
    }
    let finished = place.at("killed/meta.json").exists();
    let said = place.finish("killed");
    assert!(finished || said.contains("going on: "), "{said}");
    assert_eq!(place.shards("killed"), place.shards("whole"));
    for left in ["progress.json", "train.part", "valid.part"] {
        assert!(!place.at("killed").join(left).exists(), "{left} is left");
    }
}

#[test]
fn what_is_kept_is_verified() {
    let place = Place::new(6 << 20);
    place.finish("whole");
    let mut child = place.prepare("half").arg("--threads=1").spawn().unwrap();
    while noted(&place.at("half")) == 0 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(noted(&place.at("half")) > 0, "it was stopped in time");
    let part = place.at("half/train.part");
    let mut bytes = std::fs::read(&part).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let said = place.finish("half");
    assert!(!said.contains("going on"), "damaged shards were used: {said}");
    assert_eq!(place.shards("half"), place.shards("whole"));
    // Another text is another preparation, and the one that is there stays until somebody deletes it.
    std::fs::write(place.at("text/9.txt"), "One more text.").unwrap();
    let output = place.prepare("half").arg("--quiet").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(3) && said.contains("other text"), "{said}");
    assert_eq!(place.shards("half"), place.shards("whole"));
    std::fs::remove_dir_all(place.at("half")).unwrap();
    place.finish("half");
    assert_ne!(place.shards("half"), place.shards("whole"));
}

#[cfg(unix)]
#[test]
fn a_full_disk_ends_it_in_one_line_and_loses_nothing() {
    let place = Place::new(3 << 20);
    place.finish("whole");
    // No file larger than 200 kB: writing fails as on a full disk.
    let script = "trap '' XFSZ; ulimit -f 400; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_bonsai-trainer"), "--quiet"]);
    let output = command.args(place.words("full")).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.starts_with("error: ") && said.lines().count() == 1, "{said}");
    assert!(said.contains("train.part: "), "{said}");
    place.finish("full");
    assert_eq!(place.shards("full"), place.shards("whole"));
}

#[test]
fn two_do_not_prepare_the_same_directory() {
    let place = Place::new(1 << 20);
    std::fs::create_dir(place.at("out")).unwrap();
    let lock = std::fs::File::create(place.at("out/LOCK")).unwrap();
    lock.lock().unwrap();
    let output = place.prepare("out").arg("--quiet").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(3) && said.contains("another program is preparing"), "{said}");
    drop(lock);
    place.finish("out");
}
