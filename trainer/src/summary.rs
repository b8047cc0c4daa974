//! `report.md`: what a run was, how it went, what it made, and what its numbers suggest to try next.

use std::fmt::Write;
use std::path::Path;

use bonsai_runtime::Error as RuntimeError;
use serde_json::Value;

use crate::config::{Precision, RunConfig};
use crate::error::{Error, Result};
use crate::{checkpoint, files, metrics, output, plot, verify};

/// Name of the report inside a run.
pub const FILE: &str = "report.md";
/// Name of its picture.
pub const PICTURE: &str = "loss.svg";

/// Writes the report of the run in `dir`, and its picture.
pub fn write(dir: &Path) -> Result<()> {
    let config = checkpoint::settings(dir)?;
    let path = dir.join(metrics::FILE);
    let text = std::fs::read_to_string(&path).map_err(RuntimeError::io(&path))?;
    let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if !lines.iter().any(|line| line["valid_loss"].is_number()) {
        return Err(Error::Data { path, message: "no validation to report on".into() });
    }
    plot::plot(&[(config.out.display().to_string(), path)], &dir.join(PICTURE))?;
    let proof = match config.precision {
        Precision::Ternary => verify::verify(dir)?.summary(),
        Precision::Layers => {
            "embedding and head are in full precision: a measurement, not to be exported as GGUF".to_owned()
        }
        Precision::Fp => "full precision: nothing is rounded".to_owned(),
    };
    files::write(dir, FILE, &markdown(&config, &lines, &proof))
}

/// The report as Markdown.
fn markdown(config: &RunConfig, lines: &[Value], proof: &str) -> String {
    let mut out = String::new();
    let valid: Vec<&Value> = lines.iter().filter(|line| line["valid_loss"].is_number()).collect();
    let last = valid[valid.len() - 1];
    let (loss, perplexity) = (number(last, "valid_loss"), number(last, "perplexity"));
    let _ = writeln!(
        out,
        "# {}\n\nStep {}: validation loss {loss:.4} nats a token, perplexity {perplexity:.2}. {proof}.\n",
        config.out.display(),
        last["step"]
    );
    let _ = writeln!(
        out,
        "![loss]({PICTURE})\n\n## Settings that differ from the defaults\n\n```toml\n{}```\n",
        changed(config)
    );
    out += "## Validation\n\n| step | loss | perplexity | divergence from the teacher | zeros | codes changed a step |\n| --- | --- | --- | --- | --- | --- |\n";
    for line in &valid {
        let percent = |key: &str| line[key].as_f64().map_or(String::new(), |x| format!("{:.2}%", 100.0 * x));
        let kl = line["valid_kl"].as_f64().map_or(String::new(), |kl| format!("{kl:.4}"));
        let (loss, zeros, flips) =
            (number(line, "valid_loss"), percent("zero_fraction"), percent("flip_rate"));
        let _ =
            writeln!(out, "| {} | {loss:.4} | {:.2} | {kl} | {zeros} | {flips} |", line["step"], loss.exp());
    }
    layers(&mut out, &valid);
    times(&mut out, lines, last);
    for line in lines.iter().filter(|line| line["sample"].is_string()) {
        let text = line["sample"].as_str().unwrap_or_default().replace('\n', "\n> ");
        let _ = writeln!(out, "\nSample at step {}:\n\n> {text}", line["step"]);
    }
    out += "\n## What to try next\n\n";
    for hint in hints(config, lines, &valid) {
        let _ = writeln!(out, "- {hint}");
    }
    out
}

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or(f64::NAN)
}

/// Settings that are not the default, as TOML.
fn changed(config: &RunConfig) -> String {
    let table = |config: &RunConfig| config.to_toml().parse::<toml::Table>().unwrap_or_default();
    let default = table(&RunConfig::default());
    let differs = |key: &str, value: &mut toml::Value| default.get(key) != Some(value);
    let mut settings = table(config);
    settings.retain(|key, value| differs(key, value));
    toml::to_string(&settings).unwrap_or_default()
}

/// The last report on each kind of layer.
fn layers(out: &mut String, valid: &[&Value]) {
    let (Some(first), Some(last)) = (valid.first(), valid.last()) else { return };
    let Some(kinds) = last["layers"].as_object() else { return };
    *out += "\n## By kind of layer, since the validation before the last\n\n| kind | zeros | codes changed a step | codes changed since the start | scale | scale since the start | move, in scales | gradient norm |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n";
    for (kind, layer) in kinds {
        let cell = |value: Option<f64>, unit: f64, sign: &str| {
            value.map_or(String::new(), |x| format!("{:.3}{sign}", unit * x))
        };
        let of = |key: &str| layer[key].as_f64();
        let drift = of("scale").zip(first["layers"][kind]["scale"].as_f64()).map(|(now, then)| now / then);
        let scale = of("scale").map_or(String::new(), |scale| format!("{scale:.5}"));
        let _ = writeln!(
            out,
            "| {kind} | {} | {} | {} | {scale} | {} | {} | {} |",
            cell(of("zero_fraction"), 100.0, "%"),
            cell(of("flip_rate"), 100.0, "%"),
            cell(of("changed"), 100.0, "%"),
            cell(drift, 1.0, ""),
            cell(of("move"), 1.0, ""),
            cell(of("grad_norm"), 1.0, ""),
        );
    }
}

/// Speed, and the share of each operation.
fn times(out: &mut String, lines: &[Value], last: &Value) {
    let speeds: Vec<f64> = lines.iter().filter_map(|line| line["tokens_per_second"].as_f64()).collect();
    if let Some(mean) = speeds.iter().copied().reduce(|a, b| a + b).map(|sum| sum / speeds.len() as f64) {
        let _ = writeln!(out, "\n{mean:.0} tokens a second.");
    }
    let Some(time) = last["time"].as_object() else { return };
    let mut shares: Vec<(&String, f64)> =
        time.iter().map(|(op, x)| (op, x.as_f64().unwrap_or(0.0))).collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    let text: Vec<String> = shares.iter().map(|(op, x)| format!("{op} {:.1}%", 100.0 * x)).collect();
    let _ = writeln!(out, "Time of a step: {}.", text.join(", "));
}

/// What the numbers of a run suggest.
fn hints(config: &RunConfig, lines: &[Value], valid: &[&Value]) -> Vec<String> {
    let mut hints = Vec::new();
    let losses: Vec<f64> = valid.iter().map(|line| number(line, "valid_loss")).collect();
    let last = losses[losses.len() - 1];
    if let [.., before, now] = losses[..]
        && before - now > 0.01
    {
        hints.push(format!(
            "The validation loss was still falling ({:.3} nats since the one before): more steps.",
            before - now
        ));
    }
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    if last > best + 0.01 {
        hints.push(format!("The validation loss was {best:.4} before and rose to {last:.4}: fewer steps, more text, or a lower lr."));
    }
    let train = lines.iter().rev().find_map(|line| line["loss"].as_f64());
    if train.is_some_and(|train| last - train > 0.5) {
        hints.push(
            "The training loss is far below the validation loss: the text is learnt by heart. More text."
                .into(),
        );
    }
    let end = valid[valid.len() - 1];
    let steps = config.steps.max(1) as f64;
    if end["flip_rate"].as_f64().is_some_and(|rate| rate > 0.003) && steps > 100.0 {
        hints.push("More than 0.3% of the codes still changed in a step at the end: let lr decay longer (decay) or lower (lr_floor).".into());
    }
    let changed = mean_of(end, "changed");
    if let Some(share) = changed.filter(|_| config.converts()) {
        let advice = match share {
            x if x < 0.02 => Some("the weights have hardly moved: a higher lr or more steps"),
            x if x > 0.3 => Some("much of what was known may be forgotten: a lower lr"),
            _ => None,
        };
        hints
            .extend(advice.map(|advice| {
                format!("{:.1}% of the codes differ from the start: {advice}.", 100.0 * share)
            }));
    }
    let norms: Vec<f64> = lines.iter().filter_map(|line| line["grad_norm"].as_f64()).collect();
    let clipped = norms.iter().filter(|&&norm| config.clip > 0.0 && norm > config.clip).count();
    if norms.len() > 4 && 2 * clipped > norms.len() {
        hints.push(format!(
            "{clipped} of {} gradients were clipped: lr says little then. A larger batch or clip.",
            norms.len()
        ));
    }
    let skipped = lines.iter().filter(|line| line["skipped"].is_string()).count();
    if skipped > 0 {
        let skipped = output::count(skipped as u64, "step");
        hints.push(format!("Skipped, whole or in part: {skipped}. A lower lr or a longer warmup."));
    }
    if config.precision == Precision::Ternary {
        hints.push("The same run with --precision fp shows what rounding costs; ablate with several seeds shows what chance does.".into());
    }
    hints
}

/// Mean over the kinds of layer.
fn mean_of(line: &Value, key: &str) -> Option<f64> {
    let values: Vec<f64> =
        line["layers"].as_object()?.values().filter_map(|layer| layer[key].as_f64()).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hints_follow_from_the_numbers() {
        let config = RunConfig { init: "x".into(), ..RunConfig::default() };
        let of = |losses: [f64; 2], train: f64, changed: f64| {
            let line = |step: u64, loss: f64| json!({"step": step, "valid_loss": loss, "perplexity": loss.exp(), "layers": {"q": {"changed": changed}}});
            let lines =
                [line(0, losses[0]), json!({"step": 9, "loss": train, "grad_norm": 0.1}), line(9, losses[1])];
            hints(&config, &lines, &[&lines[0], &lines[2]]).join(" ")
        };
        assert!(
            of([5.0, 4.0], 3.9, 0.1).contains("still falling")
                && !of([5.0, 4.0], 3.9, 0.1).contains("codes differ")
        );
        assert!(
            of([4.0, 4.2], 4.2, 0.01).contains("rose to")
                && of([4.0, 4.2], 4.2, 0.01).contains("hardly moved")
        );
        assert!(
            of([4.0, 4.0], 2.0, 0.4).contains("by heart") && of([4.0, 4.0], 2.0, 0.4).contains("forgotten")
        );
    }

    #[test]
    fn only_changed_settings_are_shown() {
        assert_eq!(changed(&RunConfig { steps: 7, ..RunConfig::default() }), "steps = 7\n");
    }
}
