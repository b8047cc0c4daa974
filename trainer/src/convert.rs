//! A model from one kind of file into another, weight for weight, and the proof that none changed on the way.

use std::borrow::Cow;
use std::path::Path;

use bonsai_runtime::ModelFile;
use bonsai_runtime::config::{Kind, TensorSpec};
use bonsai_runtime::gguf::{self, ModelTensor, PackedFormat};
use bonsai_runtime::tensor::{Format, StoredTensor};
use bonsai_runtime::ternary::{ScaleRule, TernaryMatrix};

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::export::{lossless, same_values, size, write_atomically};

/// What a conversion shows: the new file was opened and compared with the old one.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Converted {
    /// What was read.
    pub from: String,
    /// What was written.
    pub to: String,
    /// Tensors whose values are all equal.
    pub tensors: usize,
    /// Weights in them.
    pub weights: u64,
    /// Bytes of the new file (of the weights, in a directory).
    pub bytes: u64,
}

/// Writes the model at `source` to `out`: as GGUF where that ends in `.gguf`, else as a Hugging Face directory of f32 weights.
/// In a GGUF file, dense and quantised matrices stay as they are, and ternary ones, packed or not, are packed as `format`.
///
/// Fails on what the other kind of file cannot say, where a value would change, on a `format` with nothing to pack, and on the
/// directory of a run.
pub fn convert(source: &Path, out: &Path, format: Option<PackedFormat>) -> Result<Converted> {
    if out.exists() {
        return Err(Error::Config(format!("{}: is there already: name another file", out.display())));
    }
    if checkpoint::exists(source) {
        let message = "a training run, whose weights are not rounded yet: `bonsai-trainer export` rounds and packs them";
        return Err(Error::Config(format!("{}: {message}", source.display())));
    }
    let file = ModelFile::open(source)?;
    match out.extension().is_some_and(|extension| extension == "gguf") {
        true => {
            let group = checkpoint::group_of(&file);
            if let Some(format) = format {
                check_format(&file, group, format)?;
            }
            to_gguf(&file, out, format.unwrap_or_else(|| lossless(group)))?
        }
        false => to_directory(&file, out)?,
    }
    compare(&file, out)
}

fn to_gguf(file: &ModelFile, out: &Path, format: PackedFormat) -> Result<()> {
    let name = out.file_stem().map_or("bonsai".into(), |stem| stem.to_string_lossy());
    write_atomically(out, |to| {
        let group = format.packing().group();
        let tensor = |spec: &TensorSpec| {
            let stored = &file.tensors[&spec.name];
            match ternary(spec, stored, group) {
                Some(matrix) => ModelTensor::Ternary(Cow::Owned(matrix)),
                None => ModelTensor::Stored(stored.clone()),
            }
        };
        Ok(gguf::write_model(to, &file.config, &name, file.tokenizer()?, format, tensor)?)
    })
}

/// The ternary matrix that numbers are, if they are one: every value the same, in groups of `group`.
fn ternary(spec: &TensorSpec, stored: &StoredTensor, group: usize) -> Option<TernaryMatrix> {
    let packed = matches!(stored.format, Format::Ternary(_));
    if spec.kind == Kind::Norm || packed || !stored.cols.is_multiple_of(group) {
        return None;
    }
    let values = stored.to_f32();
    if values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let matrix = TernaryMatrix::project(&values, stored.rows, stored.cols, group, ScaleRule::Absmax);
    (matrix.to_f32() == values).then_some(matrix)
}

/// A packing that somebody asked for has to have something to pack.
fn check_format(file: &ModelFile, group: Option<usize>, format: PackedFormat) -> Result<()> {
    let Some(group) = group else {
        return Err(Error::Config(format!(
            "--format {format}: no matrix of this model is ternary; leave it out"
        )));
    };
    let specs = file.config.tensors();
    let linear = specs.iter().find(|spec| spec.kind == Kind::Linear);
    let of_format = format.packing().group();
    let fits = |spec: &TensorSpec| {
        let stored = &file.tensors[&spec.name];
        matches!(stored.format, Format::Ternary(_)) || ternary(spec, stored, of_format).is_some()
    };
    if linear.is_none_or(fits) {
        return Ok(());
    }
    Err(Error::Config(format!(
        "--format {format} has groups of {of_format} weights, this model groups of {group}"
    )))
}

fn to_directory(file: &ModelFile, out: &Path) -> Result<()> {
    let specs = file.config.tensors().into_iter();
    let tensors = specs.map(|spec| {
        let values = file.tensors[&spec.name].to_f32();
        (spec.name.clone(), spec.shape(), values)
    });
    checkpoint::write_model(out, &file.config, tensors.collect())?;
    Ok(file.tokenizer()?.map_or(Ok(()), |tokenizer| tokenizer.save(out))?)
}

fn compare(from: &ModelFile, out: &Path) -> Result<Converted> {
    let to = ModelFile::open(out)?;
    let specs = from.config.tensors();
    for spec in &specs {
        if !same_values(from.tensors[&spec.name].to_f32().into(), &to.tensors[&spec.name]) {
            return Err(Error::Verify(format!("{}: {} has changed", out.display(), spec.name)));
        }
    }
    Ok(Converted {
        from: from.description.clone(),
        to: to.description.clone(),
        tensors: specs.len(),
        weights: from.config.parameters(),
        bytes: size(out),
    })
}

impl std::fmt::Display for Converted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "from {}", self.from)?;
        writeln!(f, "to   {}", self.to)?;
        write!(
            f,
            "{} tensors, {} weights: every value equal, {} bytes",
            self.tensors, self.weights, self.bytes
        )
    }
}
