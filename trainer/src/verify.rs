//! The proof that a model is ternary: every weight of every matrix is -s, 0 or +s of its group.

use std::path::Path;

use bonsai_runtime::ModelFile;
use bonsai_runtime::config::Kind;
use bonsai_runtime::tensor::{Format, StoredTensor};
use rayon::prelude::*;
use serde::Serialize;

use crate::error::{Error, Result};

/// Largest `|round(w / s) - w / s|` that counts as ternary (mission.md).
pub const TOLERANCE: f64 = 1e-5;

/// What was found in one tensor.
#[derive(Debug, Clone, Serialize)]
pub struct TensorReport {
    /// Hugging Face name.
    pub name: String,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Weights of value -s, 0 and +s.
    pub counts: [u64; 3],
    /// Largest `|round(w / s) - w / s|`.
    pub deviation: f64,
}

/// What was found in a model.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Weights that share a scale.
    pub group: usize,
    /// Every tensor but the norms.
    pub tensors: Vec<TensorReport>,
}

/// Checks a run directory (its projected weights), a GGUF file, or a Hugging Face directory of unpacked weights.
pub fn verify(path: &Path) -> Result<Report> {
    let is_run = path.join("run.toml").exists();
    if !is_run {
        let file = ModelFile::open(path)?;
        return check(path, &file, group_of(&file));
    }
    // A run holds latent weights: what must be ternary is their projection, read back from the bytes that would ship.
    let (saved, backend, params) = crate::export::open_run(path)?;
    let mut file = ModelFile::open(path)?;
    for param in &params.list {
        if let Some(ternary) = crate::backend::Backend::ternary(&backend, &param.value) {
            let stored = StoredTensor::from_f32(ternary.rows, ternary.cols, &ternary.to_f32());
            file.tensors.insert(param.spec.name.clone(), stored);
        }
    }
    check(path, &file, saved.run.group)
}

/// Groups of the packed tensors, or 128 where the weights lie unpacked.
fn group_of(file: &ModelFile) -> usize {
    let packed = file.tensors.values().find_map(|t| if let Format::Q2_0 { group } = t.format { Some(group) } else { None });
    packed.unwrap_or(128)
}

fn check(path: &Path, file: &ModelFile, group: usize) -> Result<Report> {
    let matrices = file.config.tensors().into_iter().filter(|spec| spec.kind != Kind::Norm);
    let check = |spec: bonsai_runtime::config::TensorSpec| {
        let refuse = |message: String| Error::Verify(format!("{}: {}: {message}", path.display(), spec.name));
        if spec.cols % group != 0 {
            return Err(refuse(format!("{} inputs do not divide into groups of {group}: not ternary", spec.cols)));
        }
        let (counts, deviation) = check_tensor(&file.tensors[&spec.name], group).map_err(refuse)?;
        Ok(TensorReport { name: spec.name.clone(), rows: spec.rows, cols: spec.cols, counts, deviation })
    };
    Ok(Report { group, tensors: matrices.map(check).collect::<Result<_>>()? })
}

/// Counts of -s, 0, +s and the largest deviation, or the first weight that is none of them.
fn check_tensor(tensor: &StoredTensor, group: usize) -> Result<([u64; 3], f64), String> {
    let row = |i: usize| {
        let mut w = vec![0.0; tensor.cols];
        tensor.read_row(i, &mut w);
        let (mut counts, mut worst) = ([0; 3], 0.0f64);
        for (g, w) in w.chunks_exact(group).enumerate() {
            let scale = w.iter().fold(0.0f32, |s, x| s.max(x.abs()));
            for (j, &w) in w.iter().enumerate() {
                let exact = if scale == 0.0 { 0.0 } else { f64::from(w) / f64::from(scale) };
                let t = exact.round();
                let deviation = (exact - t).abs();
                if !(deviation < TOLERANCE) {
                    return Err(format!("row {i}, input {}: weight {w} is not -s, 0 or +s with s = {scale}", g * group + j));
                }
                worst = worst.max(deviation);
                counts[(t + 1.0) as usize] += 1;
            }
        }
        Ok((counts, worst))
    };
    let rows: Result<Vec<_>, String> = (0..tensor.rows).into_par_iter().map(row).collect();
    let sum = |(a, x): ([u64; 3], f64), (b, y): ([u64; 3], f64)| ([a[0] + b[0], a[1] + b[1], a[2] + b[2]], x.max(y));
    Ok(rows?.into_iter().fold(([0; 3], 0.0), sum))
}

impl Report {
    /// Counts of -s, 0, +s over the model.
    pub fn counts(&self) -> [u64; 3] {
        self.tensors.iter().fold([0; 3], |a, t| [a[0] + t.counts[0], a[1] + t.counts[1], a[2] + t.counts[2]])
    }

    /// One sentence.
    pub fn summary(&self) -> String {
        let [minus, zero, plus] = self.counts();
        let total = minus + zero + plus;
        let share = |n: u64| 100.0 * n as f64 / total as f64;
        let worst = self.tensors.iter().fold(0.0f64, |w, t| w.max(t.deviation));
        format!(
            "ternary: all {total} weights of {} tensors are -s, 0 or +s in groups of {} ({:.1}% / {:.1}% / {:.1}%), largest |round(w/s) - w/s| = {worst:.1e}",
            self.tensors.len(), self.group, share(minus), share(zero), share(plus)
        )
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:<48} {:>14} {:>8} {:>8} {:>8} {:>10}", "tensor", "shape", "-1 %", "0 %", "+1 %", "deviation")?;
        for t in &self.tensors {
            let total = t.counts.iter().sum::<u64>() as f64;
            let [a, b, c] = t.counts.map(|n| 100.0 * n as f64 / total);
            let shape = format!("{} x {}", t.rows, t.cols);
            writeln!(f, "{:<48} {shape:>14} {a:>8.2} {b:>8.2} {c:>8.2} {:>10.1e}", t.name, t.deviation)?;
        }
        write!(f, "{}", self.summary())
    }
}
