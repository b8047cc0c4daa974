//! What a metrics file says, as curves over steps.

use std::path::Path;

use bonsai_runtime::Error as RuntimeError;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Points (step, value), by rising step.
pub(super) type Curve = Vec<(f64, f64)>;

/// The curves of one run; those that its file does not have are empty.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Curves {
    pub label: String,
    pub train: Curve,
    pub valid: Curve,
    pub rate: Curve,
    /// Percent of the weights that changed their code.
    pub flips: Curve,
    /// Percent of the weights that are zero.
    pub zeros: Curve,
    /// Norm of the gradient before clipping.
    pub gradients: Curve,
    /// Divergence from the teacher in validation.
    pub divergence: Curve,
    /// Mean scale in units of the first one, mean over the kinds of layer.
    pub scales: Curve,
    /// Way of the weights since the validation before, in scales, mean over the kinds of layer.
    pub way: Curve,
    /// Mean scale of each kind of layer in the first line that has one.
    first_scales: Map<String, Value>,
}

impl Curves {
    /// Reads a metrics file, or that of a run directory: ours, or the layout with "train" and "held" of our reference runs in PyTorch. A broken
    /// last line is left out, because a run that is still going may be in the middle of it.
    pub fn read(label: &str, path: &Path) -> Result<Self> {
        let path = &if path.is_dir() { path.join("metrics.jsonl") } else { path.to_path_buf() };
        let text = std::fs::read_to_string(path).map_err(RuntimeError::io(path))?;
        let mut curves = Self { label: label.to_string(), ..Self::default() };
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).peekable();
        while let Some((at, line)) = lines.next() {
            match serde_json::from_str::<Map<String, Value>>(line) {
                Ok(object) => curves.add(&object),
                Err(_) if lines.peek().is_none() => break,
                Err(error) => {
                    let message =
                        format!("line {} is no JSON object ({error}): is this a metrics.jsonl?", at + 1);
                    return Err(Error::Data { path: path.to_path_buf(), message });
                }
            }
        }
        if curves.train.is_empty() && curves.valid.is_empty() {
            let message = "has no line with a step and a loss: is this the metrics.jsonl of a run?".into();
            return Err(Error::Data { path: path.to_path_buf(), message });
        }
        Ok(curves)
    }

    fn add(&mut self, line: &Map<String, Value>) {
        let number = |keys: &[&str]| keys.iter().find_map(|key| line.get(*key)?.as_f64());
        let Some(step) = number(&["step"]) else { return };
        for (curve, keys, unit) in [
            (&mut self.train, &["loss", "train"][..], 1.0),
            (&mut self.valid, &["valid_loss", "held"], 1.0),
            (&mut self.rate, &["lr"], 1.0),
            (&mut self.flips, &["flip_rate"], 100.0),
            (&mut self.zeros, &["zero_fraction"], 100.0),
            (&mut self.gradients, &["grad_norm"], 1.0),
            (&mut self.divergence, &["valid_kl"], 1.0),
        ] {
            put(curve, step, number(keys).map(|value| value * unit));
        }
        if let Some(layers) = line.get("layers").and_then(Value::as_object) {
            self.add_layers(step, layers);
        }
    }

    fn add_layers(&mut self, step: f64, layers: &Map<String, Value>) {
        if self.first_scales.is_empty() {
            let scale = |(kind, layer): (&String, &Value)| Some((kind.clone(), layer.get("scale")?.clone()));
            self.first_scales = layers.iter().filter_map(scale).collect();
        }
        let drift = |(kind, layer): (&String, &Value)| {
            Some(layer["scale"].as_f64()? / self.first_scales.get(kind)?.as_f64()?)
        };
        put(&mut self.scales, step, mean(layers.iter().filter_map(drift)));
        if step > 0.0 {
            put(&mut self.way, step, mean(layers.values().filter_map(|layer| layer["move"].as_f64())));
        }
    }
}

/// Adds a point; a run that was resumed from an earlier step has written the steps since then again.
fn put(curve: &mut Curve, step: f64, value: Option<f64>) {
    if let Some(value) = value.filter(|value| value.is_finite()) {
        let keep = curve.partition_point(|&(earlier, _)| earlier < step);
        curve.truncate(keep);
        curve.push((step, value));
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0), |(sum, n), value| (sum + value, n + 1));
    (n > 0).then(|| sum / f64::from(n))
}

/// Each point averaged with its neighbours, about 1/30 of the curve in all: as many before as after, so that the
/// average does not lag behind a falling loss.
pub(super) fn smoothed(curve: &Curve) -> Curve {
    let mut sums = vec![0.0];
    for (at, point) in curve.iter().enumerate() {
        sums.push(sums[at] + point.1);
    }
    let average = |(at, &(step, _)): (usize, &(f64, f64))| {
        let reach = (curve.len() / 60).min(at).min(curve.len() - 1 - at);
        let (from, to) = (at - reach, at + reach + 1);
        (step, (sums[to] - sums[from]) / (to - from) as f64)
    };
    curve.iter().enumerate().map(average).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_run_replaces_what_it_did_again() {
        let mut curves = Curves::default();
        for (step, loss) in [(10, 5.0), (20, 4.0), (30, 3.0), (20, 3.5), (30, 2.5)] {
            let line = serde_json::json!({"step": step, "loss": loss});
            curves.add(line.as_object().unwrap());
        }
        assert_eq!(curves.train, [(10.0, 5.0), (20.0, 3.5), (30.0, 2.5)]);
    }

    #[test]
    fn smoothing_keeps_a_constant_and_calms_noise() {
        let noisy: Curve = (0..300).map(|step| (step as f64, 2.0 + (step % 2) as f64)).collect();
        let calm = smoothed(&noisy);
        assert!(calm[5..295].iter().all(|(_, value)| (value - 2.5).abs() < 0.1));
        let flat: Curve = (0..50).map(|step| (step as f64, 3.0)).collect();
        assert!(smoothed(&flat).iter().all(|(_, value)| (value - 3.0).abs() < 1e-9));
    }
}
