//! `quickstart`: from nothing to a ternary model that talks, in a few minutes on two cores.

use std::path::{Path, PathBuf};

use bonsai_runtime::gguf::PackedFormat;
use bonsai_runtime::session::Model;

use crate::config::{OptimizerKind, RunConfig};
use crate::corpus::{END_OF_TEXT, Side, Source};
use crate::error::{Error, Result};
use crate::run::{self, Outcome, Watch};
use crate::{checkpoint, data, eval, export, metrics, output, stories, summary, verify};

/// Training steps: about seven minutes of processor time, shared by all cores.
pub const STEPS: u64 = 440;
/// Bytes of stories that the program writes for itself.
const CORPUS_BYTES: usize = 8 << 20;
/// Bytes of validation text that the closing evaluation reads.
const EVAL_BYTES: usize = 60_000;

/// Settings of the quickstart run.
pub fn config(out: &Path, steps: u64) -> RunConfig {
    RunConfig {
        preset: "3m".into(),
        vocab_size: 1024,
        data: vec![out.join("stories.txt")],
        out: out.join("run"),
        steps,
        batch_size: 8,
        seq_len: 256, // a whole story: names must be remembered from its first sentence
        optimizer: OptimizerKind::Muon,
        lr: 6e-3,
        warmup: 20,
        eval_every: 100,
        eval_sequences: 64,
        sample_every: 200,
        save_every: 0,
        ..RunConfig::default()
    }
}

/// Runs the whole story and prints a closing summary to stdout.
pub fn quickstart(out: &Path, steps: u64, watch: &Watch<'_>) -> Result<()> {
    let say = |line: &str| watch.say(line);
    let config = config(out, steps);
    let run_dir = config.out.clone();
    clear(&run_dir)?;
    std::fs::create_dir_all(out).map_err(bonsai_runtime::Error::io(out))?;
    say("1/6  writing stories, the training text");
    let documents = stories::corpus(config.seed, CORPUS_BYTES);
    let stories = &config.data[0];
    std::fs::write(stories, documents.join("\n<|endoftext|>\n"))
        .map_err(bonsai_runtime::Error::io(stories))?;
    say(&format!(
        "     {} stories, {:.1} MB: {}",
        documents.len(),
        CORPUS_BYTES as f64 / 1e6,
        stories.display()
    ));
    say("2/6  learning a tokenizer and training");
    let outcome = run::start(config.clone(), watch)?;
    if outcome.interrupted {
        return Err(bonsai_runtime::Error::Cancelled.into());
    }
    say("3/6  exporting, and comparing the file with the trainer's weights");
    let gguf = out.join("stories.gguf");
    let proof = export::export(&run_dir, PackedFormat::Q2_0, &gguf)?;
    say("4/6  verifying that every weight of the file is -s, 0 or +s");
    let report = verify::verify(&gguf)?;
    say("5/6  evaluating on stories that were set aside");
    let model = Model::open(&gguf)?;
    let scores = evaluate(&model, &config, outcome, watch)?;
    say("6/6  generating from the exported file");
    let plot = out.join("loss.svg");
    crate::plot::plot(&[("quickstart".into(), run_dir.join(metrics::FILE))], &plot)?;
    let samples = PROMPTS.iter().zip(1..).map(|(prompt, seed)| eval::sample(&model, prompt, 150, seed));
    let samples: Vec<String> = samples.collect::<Result<_>>()?;
    let files = Files { gguf, run: run_dir, plot };
    output::line(summary(&files, outcome, &scores, &report.summary(), &proof, &samples))
}

/// Removes the run of an earlier quickstart. A directory that holds anything else is somebody's: it stays.
fn clear(run: &Path) -> Result<()> {
    if !run.exists() {
        return Ok(());
    }
    let shards = run.join("data");
    let (names, data) = (names(run)?, if shards.exists() { names(&shards)? } else { Vec::new() });
    let tokenizer = |name: &str| matches!(name, "tokenizer.json" | "tokenizer_config.json");
    let ours = |name: &str| {
        checkpoint::owns(name)
            || tokenizer(name)
            || [metrics::FILE, summary::FILE, summary::PICTURE, "data"].contains(&name)
    };
    // A model downloaded from somewhere has some of these names, too: only a trainer leaves metrics or its state,
    // and a run that was stopped before its first step has no weights yet.
    let trained = names.iter().all(|name| tokenizer(name) || name == "data")
        || names.iter().any(|name| name == metrics::FILE)
        || checkpoint::exists(run);
    let known =
        names.iter().all(|name| ours(name)) && data.iter().all(|name| data::owns(name) || tokenizer(name));
    if !(trained && known) {
        let run = run.display();
        return Err(Error::Config(format!(
            "{run}: holds something else than the run of an earlier quickstart: move it away, or choose another --out"
        )));
    }
    Ok(std::fs::remove_dir_all(run).map_err(bonsai_runtime::Error::io(run))?)
}

/// What lies in a directory.
fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let entries = entries.map_err(bonsai_runtime::Error::io(dir))?;
    Ok(entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

const PROMPTS: [&str; 3] = ["Once upon a time", "One day", "There was a"];

struct Files {
    gguf: PathBuf,
    run: PathBuf,
    plot: PathBuf,
}

/// Validation perplexities: of the model, of its weights before training, of counting words alone.
struct Scores {
    trained: eval::Evaluation,
    untrained: f64,
    unigram: f64,
}

fn evaluate(model: &Model, config: &RunConfig, outcome: Outcome, watch: &Watch<'_>) -> Result<Scores> {
    let text = run::Text { files: &config.data, valid: &[], column: &config.text_column };
    let corpus = run::scan(text, (config.valid_fraction, config.seed), watch)?;
    let mut text = String::new();
    corpus.each(&mut |side, document| {
        if side == Side::Valid && text.len() + document.text.len() <= EVAL_BYTES {
            text.push_str(&document.text);
            text.push_str(END_OF_TEXT);
        }
        Ok(())
    })?;
    let reading = eval::Reading { window: config.seq_len, windows: None, exact: false };
    let trained = eval::evaluate(model, &text, reading, |_| {})?;
    let data = data::Dataset::open(&config.out.join("data"))?;
    let unigram = eval::unigram_perplexity(&data.train, &data.valid, data.meta.vocab);
    Ok(Scores { trained, untrained: outcome.first_loss.map_or(f64::NAN, f64::exp), unigram })
}

fn summary(
    files: &Files,
    outcome: Outcome,
    scores: &Scores,
    verified: &str,
    proof: &export::Proof,
    samples: &[String],
) -> String {
    let Scores { trained, untrained, unigram } = scores;
    let stories: String =
        samples.iter().map(|s| format!("\n  | {}\n", s.trim().replace('\n', "\n  | "))).collect();
    format!(
        "
A ternary language model, trained in {:.0} seconds ({}).

Stories that it wrote (from the exported file):
{stories}
Validation perplexity per token: {:.2} ({:.3} bits per byte); before training {untrained:.0}; guessing by word counts {unigram:.0}
Proof: {verified}
Export: {proof}

Files
  model   {} ({:.2} MB)
  run     {} (checkpoint, metrics.jsonl, data)
  curve   {}

Next
  cargo run --release -p bonsai-runtime --features cli --bin bonsai -- run -m {} -p \"One day\" -n 150
  bonsai-trainer sample {} --prompt \"One day\"
  bonsai-trainer verify {}                      the proof, tensor by tensor
  bonsai-trainer train --data YOUR.txt --preset 10m --steps 2000 --out runs/mine
  (bonsai-trainer is target/release/bonsai-trainer)
",
        outcome.seconds,
        output::count(outcome.step, "step"),
        trained.perplexity,
        trained.bits_per_byte,
        files.gguf.display(),
        proof.bytes as f64 / 1e6,
        files.run.display(),
        files.plot.display(),
        files.gguf.display(),
        files.gguf.display(),
        files.gguf.display(),
    )
}
