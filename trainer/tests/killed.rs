//! Training that is killed twenty times at any moment: while it prepares, between steps, inside of a save. It goes on from its
//! last checkpoint, and ends with the bytes of a run that was never interrupted.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bonsai_trainer::random::Random;
use bonsai_trainer::stories;

const KILLS: usize = 20;
/// It saves after every one of them, so that many a kill hits a save.
const STEPS: &str = "300";

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::write(place.at("text.txt"), stories::corpus(1, 60_000).join("\n<|endoftext|>\n")).unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Starts a run, or goes on with it where there is a checkpoint.
    fn start(&self, run: &str) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bonsai-trainer"));
        command.args(["--quiet", "train"]).stdout(Stdio::null()).stderr(Stdio::piped());
        if self.at(run).join("trainer_state.json").exists() {
            return command.arg("--resume").arg(self.at(run)).spawn().unwrap();
        }
        command.arg("--data").arg(self.at("text.txt")).arg("--out").arg(self.at(run));
        command.args(["--preset", "1m", "--seq-len", "32", "--batch-size", "4", "--steps", STEPS]);
        let settings = ["vocab_size=300", "save_every=1", "eval_every=40", "sample_every=0"];
        command.args(settings.iter().flat_map(|setting| ["--set", setting]));
        command.spawn().unwrap()
    }

    fn finish(&self, run: &str) {
        let output = self.start(run).wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Steps of the checkpoint on disk.
    fn saved(&self, run: &str) -> u64 {
        let state = std::fs::read_to_string(self.at(run).join("trainer_state.json")).unwrap_or_default();
        let state: serde_json::Value = serde_json::from_str(&state).unwrap_or_default();
        state["step"].as_u64().unwrap_or(0)
    }

    /// The steps of the lines of metrics.jsonl.
    fn logged(&self, run: &str) -> Vec<u64> {
        let lines = std::fs::read_to_string(self.at(run).join("metrics.jsonl")).unwrap();
        let step = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64();
        lines.lines().map(|line| step(line).unwrap()).collect()
    }
}

#[test]
fn training_survives_twenty_kills() {
    let place = Place::new();
    place.finish("whole");
    let mut random = Random::new(3);
    let (mut before, mut moments) = (0, Vec::new());
    for kill in 0..KILLS {
        let mut child = place.start("killed");
        // Every fourth time while it prepares or reads its checkpoint; else not before it has saved so many steps more.
        let more = if kill % 4 == 0 { 0 } else { 1 + random.below(10) as u64 };
        while place.saved("killed") < before + more && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(
            random.below(if more == 0 { 120_000 } else { 30_000 }) as u64
        ));
        let ended = child.try_wait().unwrap();
        child.kill().unwrap(); // SIGKILL
        let output = child.wait_with_output().unwrap();
        assert!(ended.is_none(), "it ended by itself: {}", String::from_utf8_lossy(&output.stderr));
        let now = place.saved("killed");
        assert!(now >= before, "a checkpoint of step {before} gave way to one of step {now}");
        (before, moments) = (now, [moments, vec![now]].concat());
    }
    assert!(before > 0);
    println!("steps on disk after each kill: {moments:?}");
    place.finish("killed");
    for file in ["model.safetensors", "optimizer.safetensors", "trainer_state.json", "tokenizer.json"] {
        let [killed, whole] = ["killed", "whole"].map(|run| std::fs::read(place.at(run).join(file)).unwrap());
        assert!(killed == whole, "{file} differs");
    }
    assert_eq!(place.logged("killed"), place.logged("whole"), "every line of the log once");
}
