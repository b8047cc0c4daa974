//! `ablate`: the same training again and again with other settings and seeds, and what differs by more than chance.
//!
//! A file names what all runs share, and what varies:
//!
//! ```toml
//! seeds = [0, 1, 2]
//! [base]                       # settings as in run.toml; out is where everything goes
//! data = ["corpus.txt"]
//! steps = 300
//! out = "ablations/scale"
//! [grid]                       # every combination
//! scale_rule = ["absmean", "twn"]
//! lr = [1e-3, 2e-3]
//! [[variant]]                  # and single rows beside them
//! name = "full precision"
//! precision = "fp"
//! ```

use std::path::{Path, PathBuf};

use bonsai_runtime::Error as RuntimeError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml::{Table, Value as Setting};

use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::run::{self, Watch};
use crate::{checkpoint, data, files, metrics, plot};

/// Names of what is written into the directory of an ablation.
pub const TABLE: &str = "ablation.md";
/// The same for programs.
pub const RESULTS: &str = "ablation.json";
/// The settings of a run that diverged, in its directory.
const DIVERGED: &str = "diverged.toml";

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    seeds: Vec<u64>,
    base: Table,
    #[serde(default)]
    grid: Table,
    #[serde(default)]
    variant: Vec<Table>,
}

/// One row: a name and the settings that make it.
struct Row {
    name: String,
    settings: Vec<(String, Setting)>,
}

/// What a row's runs came to.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Settings of the row.
    pub name: String,
    /// Last validation loss of each seed, nats per token; not a number (in JSON null) where the run diverged.
    pub losses: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation; 0 for a single seed.
    pub deviation: f64,
    /// Mean difference from the first row, seed by seed.
    pub difference: f64,
    /// Standard error of that difference; `None` for a single seed.
    pub error: Option<f64>,
    /// Run directories.
    pub runs: Vec<PathBuf>,
}

/// Runs what a file asks for, in `base.out`; runs that are there already are not run again, and one that was interrupted goes
/// on. Returns the table.
pub fn ablate(file: &Path, watch: &Watch<'_>) -> Result<String> {
    let text = std::fs::read_to_string(file).map_err(RuntimeError::io(file))?;
    let refuse = |message: String| Error::Config(format!("{}: {message}", file.display()));
    let parsed: File = toml::from_str(&text).map_err(|e| refuse(e.message().to_owned()))?;
    let rows = rows(&parsed).map_err(refuse)?;
    let mut base: RunConfig = RunConfig::load_over(&RunConfig::default(), &pairs(&parsed.base))?;
    let seeds = if parsed.seeds.is_empty() { vec![base.seed] } else { parsed.seeds };
    let out = base.out.clone();
    // Settings are checked before hours are spent.
    let checked = rows.iter().map(|row| RunConfig::load_over(&base, &row.settings).map(|_| ()));
    checked.collect::<Result<()>>()?;
    share_data(&mut base, &rows, watch)?;
    let mut outcomes: Vec<Outcome> = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let mut runs = Vec::new();
        for (j, &seed) in seeds.iter().enumerate() {
            let config = RunConfig::load_over(&base, &row.settings)?;
            let run = out.join(format!("{}-seed{seed}", file_name(&row.name)));
            watch.say(&format!(
                "{}, seed {seed}: run {} of {}",
                row.name,
                i * seeds.len() + j + 1,
                rows.len() * seeds.len()
            ));
            one(RunConfig { seed, out: run.clone(), ..config }, watch)?;
            runs.push(run);
        }
        outcomes.push(outcome(&row.name, runs, outcomes.first())?);
    }
    let table = markdown(&outcomes, &seeds, &parsed.base);
    files::write(&out, TABLE, &table)?;
    let json = serde_json::to_string_pretty(&outcomes).expect("numbers and texts");
    files::write(&out, RESULTS, &json)?;
    let curves: Vec<_> = shown(&outcomes).map(|row| (row.name.clone(), row.runs[0].clone())).collect();
    plot::plot(&curves, &out.join("loss.svg"))?;
    Ok(table)
}

/// The rows in the picture: the first one, which the others are compared with, and the best ones.
fn shown(rows: &[Outcome]) -> impl Iterator<Item = &Outcome> {
    let mut order: Vec<usize> = (1..rows.len()).collect();
    order.sort_by(|&a, &b| rows[a].mean.total_cmp(&rows[b].mean));
    std::iter::once(0).chain(order).take(plot::MOST).map(|i| &rows[i])
}

fn pairs(table: &Table) -> Vec<(String, Setting)> {
    table.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Every combination of the grid, then the variants.
fn rows(file: &File) -> Result<Vec<Row>, String> {
    let mut rows = vec![Row { name: String::new(), settings: Vec::new() }];
    for (key, values) in &file.grid {
        let Setting::Array(values) = values else { return Err(format!("grid.{key} is no list")) };
        let with = |row: &Row, value: &Setting| {
            let mut settings = row.settings.clone();
            settings.push((key.clone(), value.clone()));
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Row { name: format!("{} {key}={shown}", row.name).trim().to_owned(), settings }
        };
        rows = rows.iter().flat_map(|row| values.iter().map(move |value| with(row, value))).collect();
    }
    if file.grid.is_empty() {
        rows[0].name = "base".into();
    }
    for variant in &file.variant {
        let mut settings = variant.clone();
        let Some(Setting::String(name)) = settings.remove("name") else {
            return Err("a variant has no name".into());
        };
        rows.push(Row { name, settings: pairs(&settings) });
    }
    let mut names: Vec<String> = rows.iter().map(|row| file_name(&row.name)).collect();
    names.sort_unstable();
    match names.windows(2).find(|two| two[0] == two[1]) {
        Some(two) => Err(format!("two rows are called {}", two[0])),
        None => Ok(rows),
    }
}

/// A name that any file system takes.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "=.-_".contains(c) { c } else { '_' }).collect()
}

/// Makes shards once for all runs, so that they see the same split, unless a row brings text or a tokenizer of its own.
fn share_data(base: &mut RunConfig, rows: &[Row], watch: &Watch<'_>) -> Result<()> {
    let own = ["data", "text_column", "valid", "valid_fraction", "tokenizer", "vocab_size", "init"];
    let brings = |row: &Row| row.settings.iter().any(|(key, _)| own.contains(&key.as_str()));
    let shared = base.out.join("shared");
    if rows.iter().any(brings) || matches!(&base.data[..], [dir] if data::Dataset::is_prepared(dir)) {
        return Ok(());
    }
    std::fs::create_dir_all(&shared).map_err(RuntimeError::io(&shared))?;
    // What is there already is compared with the text, and stays if it was made of it.
    run::prepare(&RunConfig { out: shared.clone(), ..base.clone() }, watch)?;
    (base.data, base.valid) = (vec![shared.join("data")], Vec::new());
    Ok(())
}

/// Makes sure that a run is done: starts it, goes on with it, or finds it finished or diverged.
fn one(config: RunConfig, watch: &Watch<'_>) -> Result<()> {
    let dir = config.out.clone();
    let diverged = dir.join(DIVERGED);
    let done = diverged.exists();
    let before = match done {
        true => Some(RunConfig::load(Some(&diverged), &[])?),
        false => checkpoint::exists(&dir).then(|| checkpoint::settings(&dir)).transpose()?,
    };
    if before.as_ref().is_some_and(|before| !config.became(before)) {
        return Err(Error::Config(format!(
            "{}: was run with other settings: move it away, or choose another out",
            dir.display()
        )));
    }
    if done || (before.is_some() && is_finished(&dir, config.steps)?) {
        return Ok(());
    }
    let settings = config.to_toml();
    let outcome = match before {
        Some(_) => run::resume(&dir, Ok, watch),
        None => run::start(config, watch),
    };
    match outcome {
        Ok(outcome) if outcome.interrupted => Err(RuntimeError::Cancelled.into()),
        // A row of settings under which nothing is learnt is a result, too: the others go on.
        Err(Error::Diverged { message, .. }) => {
            watch.say(&message);
            files::write(&dir, DIVERGED, &settings)
        }
        outcome => outcome.map(|_| ()),
    }
}

fn is_finished(run: &Path, steps: u64) -> Result<bool> {
    Ok(checkpoint::Saved::open(run)?.state.step == steps && run.join(crate::summary::FILE).exists())
}

/// Reads what the runs of a row came to.
fn outcome(name: &str, runs: Vec<PathBuf>, first: Option<&Outcome>) -> Result<Outcome> {
    let losses = runs.iter().map(|run| last_loss(run)).collect::<Result<Vec<f64>>>()?;
    let (mean, deviation) = moments(&losses);
    let against = first.map_or(&losses, |first| &first.losses);
    let differences: Vec<f64> = losses.iter().zip(against).map(|(a, b)| a - b).collect();
    let (difference, spread) = moments(&differences);
    let error = (losses.len() > 1).then(|| spread / (losses.len() as f64).sqrt());
    Ok(Outcome { name: name.to_owned(), losses, mean, deviation, difference, error, runs })
}

/// The loss of the last validation; not a number if the run diverged.
fn last_loss(run: &Path) -> Result<f64> {
    if run.join(DIVERGED).exists() {
        return Ok(f64::NAN);
    }
    let path = run.join(metrics::FILE);
    let text = std::fs::read_to_string(&path).map_err(RuntimeError::io(&path))?;
    let lines = text.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let loss = lines.filter_map(|line| line["valid_loss"].as_f64()).next();
    loss.ok_or_else(|| Error::Data { path, message: "no validation in it".into() })
}

/// Mean and standard deviation (of a sample).
fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
    (mean, if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

/// The table, the first row being what the others are compared with.
fn markdown(rows: &[Outcome], seeds: &[u64], base: &Table) -> String {
    let mut out = format!(
        "# Ablation\n\nLast validation loss in nats a token; {} a row; the same seeds, so the same data in the same order, in every row. The difference is the mean over the seeds of (row - first row), with its standard error; one smaller than twice its error is chance.\n\n![loss of the first row and the best ones, first seed](loss.svg)\n\n",
        if seeds.len() == 1 { "a single seed".to_owned() } else { format!("{} seeds", seeds.len()) }
    );
    out += "| row | mean loss | deviation | perplexity | difference from the first row | seeds |\n| --- | --- | --- | --- | --- | --- |\n";
    for row in rows {
        if row.mean.is_nan() {
            let runs = row
                .losses
                .iter()
                .map(|loss| if loss.is_nan() { "diverged".into() } else { format!("{loss:.4}") });
            out +=
                &format!("| {} | diverged | | | | {} |\n", row.name, runs.collect::<Vec<String>>().join(" "));
            continue;
        }
        let difference = match row.error {
            _ if row.difference.is_nan() => "(the first row diverged)".to_owned(),
            Some(error) => format!("{:+.4} +- {error:.4}", row.difference),
            None => format!("{:+.4} (no error known)", row.difference),
        };
        let losses: Vec<String> = row.losses.iter().map(|loss| format!("{loss:.4}")).collect();
        out += &format!(
            "| {} | {:.4} | {:.4} | {:.2} | {difference} | {} |\n",
            row.name,
            row.mean,
            row.deviation,
            row.mean.exp(),
            losses.join(" ")
        );
    }
    out + &format!("\nShared settings:\n\n```toml\n{}```\n", toml::to_string(base).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> File {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_grid_is_every_combination_and_variants_come_after() {
        let file = parse(
            "[base]\n[grid]\nlr = [1e-3, 2e-3]\nscale_rule = [\"twn\", \"refit\"]\n[[variant]]\nname = \"dense\"\nprecision = \"fp\"",
        );
        let rows = rows(&file).unwrap();
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "lr=0.001 scale_rule=twn",
                "lr=0.001 scale_rule=refit",
                "lr=0.002 scale_rule=twn",
                "lr=0.002 scale_rule=refit",
                "dense"
            ]
        );
        assert_eq!(rows[3].settings.len(), 2);
        assert_eq!(file_name(names[0]), "lr=0.001_scale_rule=twn");
        assert!(super::rows(&parse("[base]\n[grid]\nlr = 1")).is_err());
        assert!(super::rows(&parse("[base]\n[[variant]]\nlr = 1")).is_err());
        assert!(super::rows(&parse("[base]\n[grid]\nlr = [1, 1]")).is_err());
    }

    #[test]
    fn differences_are_taken_seed_by_seed() {
        let row = |losses: &[f64]| {
            let (mean, deviation) = moments(losses);
            Outcome {
                name: "x".into(),
                losses: losses.to_vec(),
                mean,
                deviation,
                difference: 0.0,
                error: None,
                runs: vec![],
            }
        };
        let dir = tempfile::tempdir().unwrap();
        let runs: Vec<PathBuf> = (0..2).map(|i| dir.path().join(i.to_string())).collect();
        for (run, loss) in runs.iter().zip([3.1, 5.3]) {
            std::fs::create_dir(run).unwrap();
            std::fs::write(run.join(metrics::FILE), format!("{{\"step\":1,\"valid_loss\":9}}\n{{\"step\":2,\"valid_loss\":{loss}}}\n{{\"step\":2,\"sample\":\"\"}}\n")).unwrap();
        }
        let found = outcome("x", runs, Some(&row(&[3.0, 5.0]))).unwrap();
        assert_eq!(found.losses, [3.1, 5.3]);
        // 0.1 and 0.3: mean 0.2, deviation 0.1414, error of the mean 0.1; the rows themselves spread by 1.5.
        assert!((found.difference - 0.2).abs() < 1e-9 && (found.error.unwrap() - 0.1).abs() < 1e-9);
        assert!(found.deviation > 1.5);
    }
}
