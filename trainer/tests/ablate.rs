//! `ablate`: rows and seeds become runs, runs become a table; what is there is not made again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bonsai_trainer::ablate::{RESULTS, TABLE, ablate};
use bonsai_trainer::run::Watch;
use bonsai_trainer::{Error, stories};

fn write(place: &Path, name: &str, grid: &str) -> std::path::PathBuf {
    let path = place.join(name);
    let at = |name: &str| place.join(name).display().to_string();
    let text = format!(
        "seeds = [0, 1]\n[base]\ndata = [{:?}]\nout = {:?}\npreset = \"1m\"\nvocab_size = 300\nsteps = 4\nbatch_size = 2\nseq_len = 32\nwarmup = 1\nsample_every = 0\neval_sequences = 4\n{grid}",
        at("text.txt"),
        at("out")
    );
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn rows_and_seeds_become_a_table_and_are_not_run_twice() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    std::fs::write(place.join("text.txt"), stories::corpus(1, 40_000).join("\n<|endoftext|>\n")).unwrap();
    let never = AtomicBool::new(false);
    let quiet = Watch { cancelled: &never, quiet: true };
    let file = write(place, "a.toml", "[grid]\nscale_rule = [\"absmean\", \"twn\"]\n");
    let table = ablate(&file, &quiet).unwrap();
    assert!(table.contains("| scale_rule=absmean |") && table.contains("+0.0000 +- 0.0000"), "{table}");
    let run = |name: &str| place.join("out").join(name);
    let stamp =
        |name: &str| std::fs::metadata(run(name).join("model.safetensors")).unwrap().modified().unwrap();
    let before = stamp("scale_rule=twn-seed1");
    let weights = |name: &str| std::fs::read(run(name).join("model.safetensors")).unwrap();
    assert!(weights("scale_rule=twn-seed0") != weights("scale_rule=twn-seed1"));
    // A row more: the runs that are there stay, the new ones use the same shards.
    let file = write(
        place,
        "b.toml",
        "[grid]\nscale_rule = [\"absmean\", \"twn\"]\n[[variant]]\nname = \"dense\"\nprecision = \"fp\"\n",
    );
    let table = ablate(&file, &quiet).unwrap();
    assert!(table.contains("| dense |"), "{table}");
    assert_eq!(stamp("scale_rule=twn-seed1"), before);
    assert!(!run("dense-seed0").join("data").exists() && run("shared/data/train.bin").exists());
    let results: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(run(RESULTS)).unwrap()).unwrap();
    assert_eq!(results.as_array().unwrap().len(), 3);
    assert_eq!(std::fs::read_to_string(run(TABLE)).unwrap(), table);
    // Other settings in the same place are refused, and so are unknown ones before anything runs.
    let file = write(place, "c.toml", "lr = 1e-3\n[grid]\nscale_rule = [\"absmean\", \"twn\"]\n");
    assert!(ablate(&file, &quiet).unwrap_err().to_string().contains("other settings"));
    let file = write(place, "d.toml", "[grid]\nscale_ruler = [1]\n");
    assert!(ablate(&file, &quiet).unwrap_err().to_string().contains("scale_ruler"));
    // So is another text, under which the old runs would be called the same.
    let original = std::fs::read_to_string(place.join("text.txt")).unwrap();
    std::fs::write(place.join("text.txt"), stories::corpus(2, 40_000).join("\n<|endoftext|>\n")).unwrap();
    let file = write(place, "text.toml", "[grid]\nclip = [0.9]\n");
    assert!(ablate(&file, &quiet).unwrap_err().to_string().contains("another tokenizer"));
    std::fs::write(place.join("text.txt"), original).unwrap();
    // Cancelled: the exit code of a cancelled run, and the rest is left for the next time.
    never.store(true, Ordering::Relaxed);
    let file = write(place, "e.toml", "[grid]\nclip = [0.5]\n");
    let error = ablate(&file, &quiet).unwrap_err();
    assert!(matches!(error, Error::Runtime(bonsai_runtime::Error::Cancelled)), "{error}");
    never.store(false, Ordering::Relaxed);
    assert!(ablate(&file, &quiet).unwrap().contains("| clip=0.5 |"));
}

#[test]
fn a_row_that_diverges_is_a_result_and_the_others_go_on() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    std::fs::write(place.join("text.txt"), stories::corpus(1, 40_000).join("\n<|endoftext|>\n")).unwrap();
    let never = AtomicBool::new(false);
    let quiet = Watch { cancelled: &never, quiet: true };
    let rows = "[[variant]]\nname = \"too fast\"\nprecision = \"fp\"\nlr = 1e38\n[[variant]]\nname = \"dense\"\nprecision = \"fp\"\n";
    let file = write(place, "a.toml", &format!("max_bad_steps = 1\n{rows}"));
    let table = ablate(&file, &quiet).unwrap();
    let row = |name: &str| table.lines().find(|line| line.starts_with(&format!("| {name} |"))).unwrap();
    assert_eq!(row("too fast"), "| too fast | diverged | | | | diverged diverged |");
    assert!(row("base").contains("+0.0000") && !row("dense").contains("diverged"), "{table}");
    let log = place.join("out/too_fast-seed0/metrics.jsonl");
    let before = std::fs::metadata(&log).unwrap().modified().unwrap();
    assert_eq!(ablate(&file, &quiet).unwrap(), table);
    assert_eq!(std::fs::metadata(&log).unwrap().modified().unwrap(), before, "it is not tried again");
}
