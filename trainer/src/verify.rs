//! The proof that a model is ternary: every weight of every matrix is -s, 0 or +s of its group.

use std::path::Path;

use bonsai_runtime::ModelFile;
use bonsai_runtime::config::{Config, Kind, TensorSpec};
use bonsai_runtime::tensor::{Format, StoredTensor};
use bonsai_runtime::ternary::{CODES_PER_BYTE, Packing};
use rayon::prelude::*;
use serde::Serialize;

use crate::error::{Error, Result};

/// Largest `|round(w / s) - w / s|` that counts as ternary.
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
    if !crate::checkpoint::exists(path) {
        let file = ModelFile::open(path)?;
        // Unpacked weights do not say their group: groups of 64 fit whatever groups of 128 fit.
        let check =
            |group: usize| check(path, (&file.config, group), |spec| Ok(file.tensors[&spec.name].clone()));
        return match file.group() {
            Some(group) => check(group),
            None => check(128).or_else(|_| check(64)),
        };
    }
    // A run holds latent weights: what must be ternary is their projection, read back from the bytes that would ship.
    let (saved, backend, params) = crate::export::open_run(path)?;
    let stored = |spec: &TensorSpec| {
        let param =
            params.list.iter().find(|param| param.spec.name == spec.name).expect("one table of tensors");
        Ok(match crate::backend::Backend::ternary(&backend, &param.value)? {
            Some(ternary) => StoredTensor::from_f32(ternary.rows, ternary.cols, &ternary.to_f32()),
            None => saved.model.tensors[&spec.name].clone(),
        })
    };
    check(path, (&params.config, saved.run.group), stored)
}

/// Checks one matrix after the other, as `stored` gives them: unpacked ones exist one at a time.
fn check(
    path: &Path,
    (config, group): (&Config, usize),
    stored: impl Fn(&TensorSpec) -> Result<StoredTensor>,
) -> Result<Report> {
    let matrices = config.tensors().into_iter().filter(|spec| spec.kind != Kind::Norm);
    let check = |spec: TensorSpec| {
        let refuse = |message: String| Error::Verify(format!("{}: {}: {message}", path.display(), spec.name));
        if !spec.cols.is_multiple_of(group) {
            return Err(refuse(format!(
                "{} inputs do not divide into groups of {group}: not ternary",
                spec.cols
            )));
        }
        let (counts, deviation) = check_tensor(&stored(&spec)?, group).map_err(refuse)?;
        Ok(TensorReport { name: spec.name.clone(), rows: spec.rows, cols: spec.cols, counts, deviation })
    };
    Ok(Report { group, tensors: matrices.map(check).collect::<Result<_>>()? })
}

/// Counts of -s, 0, +s, and the largest deviation.
type Found = ([u64; 3], f64);

/// What a tensor holds, or where the first weight is that is none of -s, 0, +s.
fn check_tensor(tensor: &StoredTensor, group: usize) -> Result<Found, String> {
    match tensor.format {
        Format::Ternary(packing) => check_packed(tensor, packing),
        _ => check_unpacked(tensor, group),
    }
}

/// A packed tensor against the codes and scales that it stores. A code 3 would read as +2s: beside zeros alone its
/// values look like a group of another scale, so codes are checked as codes.
fn check_packed(tensor: &StoredTensor, packing: Packing) -> Result<Found, String> {
    let ternary = packing.unpack(tensor.rows, tensor.cols, &tensor.bytes)?;
    let row = |i: usize| {
        let mut w = vec![0.0; tensor.cols];
        tensor.read_row(i, &mut w);
        let mut found = Found::default();
        for (j, &w) in w.iter().enumerate() {
            let at = i * tensor.cols + j;
            let scale = ternary.scales[at / packing.group()].to_f32();
            let code = (ternary.codes[at / CODES_PER_BYTE] >> (2 * (at % CODES_PER_BYTE))) & 3;
            count(&mut found, w, scale, Some(i8::try_from(code).unwrap_or(3) - 1), (i, j))?;
        }
        Ok(found)
    };
    sum((0..tensor.rows).into_par_iter().map(row).collect())
}

/// An unpacked tensor, where the scale of a group is its largest magnitude.
fn check_unpacked(tensor: &StoredTensor, group: usize) -> Result<Found, String> {
    let row = |i: usize| {
        let mut w = vec![0.0; tensor.cols];
        tensor.read_row(i, &mut w);
        let mut found = Found::default();
        for (g, w) in w.chunks_exact(group).enumerate() {
            let scale = w.iter().fold(0.0f32, |s, x| s.max(x.abs()));
            for (j, &w) in w.iter().enumerate() {
                count(&mut found, w, scale, None, (i, g * group + j))?;
            }
        }
        Ok(found)
    };
    sum((0..tensor.rows).into_par_iter().map(row).collect())
}

/// Adds a weight to the counts if it is `scale * t`; any `t` of -1, 0, +1 will do where none is stored.
fn count(
    (counts, worst): &mut Found,
    w: f32,
    scale: f32,
    stored: Option<i8>,
    (row, input): (usize, usize),
) -> Result<(), String> {
    // A group without a scale is all zeros; a weight that is no number stays none, and is refused.
    let ratio = if scale == 0.0 && w == 0.0 { 0.0 } else { f64::from(w) / f64::from(scale) };
    let t = stored.map_or(ratio.round(), f64::from);
    let deviation = (ratio - t).abs().max((ratio.round() - t).abs());
    let zeros_only = scale == 0.0 && w == 0.0; // whatever its code, the weight is zero
    if !zeros_only && (deviation.is_nan() || deviation >= TOLERANCE || t.abs() > 1.0) {
        return Err(format!("row {row}, input {input}: weight {w} is not -s, 0 or +s with s = {scale}"));
    }
    *worst = worst.max(if zeros_only { 0.0 } else { deviation });
    counts[if zeros_only { 1 } else { (t + 1.0) as usize }] += 1;
    Ok(())
}

/// The sum over rows, or the first row's complaint.
fn sum(rows: Result<Vec<Found>, String>) -> Result<Found, String> {
    let add = |(a, x): Found, (b, y): Found| ([a[0] + b[0], a[1] + b[1], a[2] + b[2]], x.max(y));
    Ok(rows?.into_iter().fold(Found::default(), add))
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
            self.tensors.len(),
            self.group,
            share(minus),
            share(zero),
            share(plus)
        )
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:<48} {:>14} {:>8} {:>8} {:>8} {:>10}",
            "tensor", "shape", "-1 %", "0 %", "+1 %", "deviation"
        )?;
        for t in &self.tensors {
            let total = t.counts.iter().sum::<u64>() as f64;
            let [a, b, c] = t.counts.map(|n| 100.0 * n as f64 / total);
            let shape = format!("{} x {}", t.rows, t.cols);
            writeln!(f, "{:<48} {shape:>14} {a:>8.2} {b:>8.2} {c:>8.2} {:>10.1e}", t.name, t.deviation)?;
        }
        write!(f, "{}", self.summary())
    }
}
