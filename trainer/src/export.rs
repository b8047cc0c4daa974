//! From a run to a packed model, and the proof that nothing changed on the way.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use bonsai_runtime::config::TensorSpec;
use bonsai_runtime::gguf::{self, ModelTensor, PackedFormat};
use bonsai_runtime::session::{Model, SessionOptions};
use bonsai_runtime::{Config, Error as RuntimeError, ModelFile, Tokenizer};

use crate::backend::Backend;
use crate::checkpoint::{self, Saved};
use crate::config::Precision;
use crate::cpu::CpuBackend;
use crate::data::{Batch, IGNORE};
use crate::error::{Error, Result};
use crate::files;
use crate::model::{self, Activations};
use crate::params::{Param, Params};

/// What an export shows: the file was opened again and compared with the trainer's own weights and logits.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Proof {
    /// Ternary tensors whose codes and scales are all equal.
    pub ternary_tensors: usize,
    /// Weights in them.
    pub ternary_weights: usize,
    /// Full-precision tensors (norms) whose values are all equal.
    pub dense_tensors: usize,
    /// Tokens whose logits were compared.
    pub tokens: usize,
    /// Largest difference between the trainer's logits and the runtime's exact ones.
    pub logit_difference: f64,
    /// Largest logit minus smallest.
    pub logit_range: f64,
    /// Mean KL divergence of the runtime's fast mode from its exact one, nats per token.
    pub fast_kl: f64,
    /// Share of positions where both modes prefer the same token.
    pub fast_top1: f64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// What the forward pass multiplies with, by name. Fetched from the device once: a file asks for each more than once.
fn tensors<'a, B: Backend>(b: &B, p: &'a Params<B>) -> Result<HashMap<&'a str, ModelTensor<'a>>> {
    let fetch = |param: &'a Param<B>| {
        let tensor = match b.ternary(&param.value)? {
            Some(ternary) => ModelTensor::Ternary(ternary),
            None => ModelTensor::Dense(b.latent(&param.value)?),
        };
        Ok((param.spec.name.as_str(), tensor))
    };
    p.list.iter().map(fetch).collect()
}

/// Writes the packed model as GGUF.
fn write_gguf(
    out: &mut impl Write,
    config: &Config,
    tensors: &HashMap<&str, ModelTensor<'_>>,
    tokenizer: Option<&Tokenizer>,
    name: &str,
    format: PackedFormat,
) -> Result<()> {
    let tensor = |spec: &TensorSpec| match &tensors[spec.name.as_str()] {
        ModelTensor::Ternary(ternary) => ModelTensor::Ternary(Cow::Borrowed(ternary.as_ref())),
        ModelTensor::Dense(values) => ModelTensor::Dense(Cow::Borrowed(values.as_ref())),
        ModelTensor::Stored(stored) => ModelTensor::Stored(stored.clone()),
    };
    Ok(gguf::write_model(out, config, name, tokenizer, format, tensor)?)
}

/// The packed format that holds every group size of training without loss.
pub(crate) fn lossless(group: Option<usize>) -> PackedFormat {
    if group == Some(64) { PackedFormat::Q2_0G64 } else { PackedFormat::Q2_0 }
}

fn group(tensors: &HashMap<&str, ModelTensor<'_>>) -> Option<usize> {
    tensors.values().find_map(|tensor| match tensor {
        ModelTensor::Ternary(ternary) => Some(ternary.group),
        _ => None,
    })
}

/// The model as it would ship, opened by the runtime from memory.
pub fn in_memory<B: Backend>(b: &B, p: &Params<B>, tokenizer: Option<&Tokenizer>) -> Result<Model> {
    let (mut bytes, tensors) = (Vec::new(), tensors(b, p)?);
    write_gguf(&mut bytes, &p.config, &tensors, tokenizer, "in memory", lossless(group(&tensors)))?;
    Ok(Model::from_bytes(bytes)?)
}

/// A run's parameters on the CPU, without optimizer state.
pub fn open_run(dir: &Path) -> Result<(Saved, CpuBackend, Params<CpuBackend>)> {
    let saved = Saved::open(dir)?;
    let backend = CpuBackend::new(&saved.model.config, saved.run.seq_len.max(PROOF_TOKENS));
    let params = saved.params(&backend, false)?;
    Ok((saved, backend, params))
}

/// A run as the runtime sees it.
pub fn run_as_model(dir: &Path) -> Result<Model> {
    let (saved, backend, params) = open_run(dir)?;
    in_memory(&backend, &params, saved.model.tokenizer()?)
}

/// Exports the run in `dir` to a GGUF file and proves the file equal.
pub fn export(dir: &Path, format: PackedFormat, out: &Path) -> Result<Proof> {
    check_replaced(out)?;
    let (saved, mut backend, params) = open_run(dir)?;
    let dense = match saved.run.precision {
        Precision::Ternary => None,
        Precision::Layers => Some("embedding and head of this run are"),
        Precision::Fp => Some("this run is"),
    };
    if let Some(what) = dense {
        return Err(Error::Config(format!("{what} full precision: export it with --format hf")));
    }
    let name = out.file_stem().map_or("bonsai".into(), |stem| stem.to_string_lossy());
    write_atomically(out, |file| {
        write_gguf(
            file,
            &params.config,
            &tensors(&backend, &params)?,
            saved.model.tokenizer()?,
            &name,
            format,
        )
    })?;
    prove(&mut backend, &params, out)
}

/// An earlier export may be replaced; a file of another kind was hardly meant.
fn check_replaced(out: &Path) -> Result<()> {
    let length = std::fs::metadata(out).map_or(0, |there| there.len());
    if !out.is_file() || length == 0 || files::is_gguf(out) {
        return Ok(());
    }
    let message = "is there already, and no GGUF file: choose another name";
    Err(Error::Config(format!("{}: {message}", out.display())))
}

/// Exports the run in `dir` as a Hugging Face directory of unpacked weights `s * t` (f32) and proves it equal.
pub fn export_hf(dir: &Path, out: &Path) -> Result<Proof> {
    if checkpoint::exists(out) || out.join("config.json").exists() {
        return Err(Error::Config(format!(
            "{}: holds a model already: name another directory",
            out.display()
        )));
    }
    let (saved, mut backend, params) = open_run(dir)?;
    let values = |param: &Param<CpuBackend>| -> Result<Vec<f32>> {
        Ok(match backend.ternary(&param.value)? {
            Some(ternary) => ternary.to_f32(),
            None => backend.latent(&param.value)?.into_owned(),
        })
    };
    let tensors = params.list.iter().map(|p| Ok((p.spec.name.clone(), p.spec.shape(), values(p)?)));
    checkpoint::write_model(out, &params.config, tensors.collect::<Result<_>>()?)?;
    if let Some(tokenizer) = saved.model.tokenizer()? {
        tokenizer.save(out)?;
    }
    prove(&mut backend, &params, out)
}

/// Writes to a temporary name beside `out` and renames when all is there. Errors name `out`, which is what was asked for.
pub(crate) fn write_atomically(
    out: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
) -> Result<()> {
    let out = &std::fs::canonicalize(out).unwrap_or_else(|_| out.to_path_buf()); // a link stays one
    if std::fs::metadata(out).is_ok_and(|there| !there.is_file()) {
        let message = "is there already, and no file: choose another name";
        return Err(Error::Config(format!("{}: {message}", out.display())));
    }
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = out.with_file_name(name);
    let finish = |mut file: BufWriter<File>| file.flush().and_then(|()| file.get_ref().sync_all());
    let written = File::create(&temporary).map_err(|e| RuntimeError::io(out)(e).into()).and_then(|file| {
        let mut file = BufWriter::new(file);
        write(&mut file).map_err(|error| named(error, out))?;
        Ok(finish(file).map_err(RuntimeError::io(out))?)
    });
    if let Err(error) = written {
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(std::fs::rename(&temporary, out).map_err(RuntimeError::io(out))?)
}

/// The writer of GGUF does not know which file it writes.
fn named(error: Error, path: &Path) -> Error {
    match error {
        Error::Runtime(RuntimeError::Io { source, .. }) => RuntimeError::io(path)(source).into(),
        other => other,
    }
}

/// Tokens whose logits a proof compares.
const PROOF_TOKENS: usize = 64;

/// Opens `path` again and compares every code, every scale and the logits with the trainer's.
pub fn prove(b: &mut CpuBackend, p: &Params<CpuBackend>, path: &Path) -> Result<Proof> {
    let file = ModelFile::open(path)?;
    let (mut ternary_tensors, mut ternary_weights, mut dense_tensors) = (0, 0, 0);
    for param in &p.list {
        let (spec, stored) = (&param.spec, &file.tensors[&param.spec.name]);
        let expected = b.ternary(&param.value)?;
        let equal = match &expected {
            Some(ternary) => same_values(ternary.to_f32().into(), stored),
            None => same_values(b.latent(&param.value)?, stored),
        };
        if !equal {
            return Err(Error::Verify(format!(
                "{}: {} is not what the trainer has",
                path.display(),
                spec.name
            )));
        }
        match expected {
            Some(_) => {
                (ternary_tensors, ternary_weights) = (ternary_tensors + 1, ternary_weights + spec.len())
            }
            None => dense_tensors += 1,
        }
    }
    let model = Model::from_file(file)?;
    let (tokens, ours) = trainer_logits(b, p)?;
    let exact =
        model.session(SessionOptions { exact: true, ..SessionOptions::default() })?.logits(&tokens)?;
    let fast = model.session(SessionOptions::default())?.logits(&tokens)?;
    let (fast_kl, fast_top1) = crate::eval::divergence(&exact, &fast, p.config.vocab);
    let difference = ours.iter().zip(&exact).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    let (low, high) = exact.iter().fold((f32::MAX, f32::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    let range = f64::from(high - low);
    if difference.is_nan() || difference > 1e-4 * range.max(1e-6) {
        return Err(Error::Verify(format!(
            "{}: logits differ by {difference:.2e} of a range of {range:.2}",
            path.display()
        )));
    }
    Ok(Proof {
        ternary_tensors,
        ternary_weights,
        dense_tensors,
        tokens: tokens.len(),
        logit_difference: difference,
        logit_range: range,
        fast_kl,
        fast_top1,
        bytes: size(path),
    })
}

/// Values to the bit: a scale or a code that differed would show, unless both say zero.
pub(crate) fn same_values(expected: Cow<'_, [f32]>, stored: &bonsai_runtime::tensor::StoredTensor) -> bool {
    let mut row = vec![0.0; stored.cols];
    expected.chunks_exact(stored.cols).enumerate().all(|(i, expected)| {
        stored.read_row(i, &mut row);
        row == expected
    })
}

/// The trainer's own logits of a fixed row of tokens, `[tokens, vocab]`.
fn trainer_logits(b: &mut CpuBackend, p: &Params<CpuBackend>) -> Result<(Vec<u32>, Vec<f32>)> {
    let seq = PROOF_TOKENS.min(p.config.context);
    // A fixed walk through the vocabulary: any tokens serve to compare two programs.
    let tokens: Vec<u32> = (0..seq as u64).map(|i| (i * 7919 % p.config.vocab as u64) as u32).collect();
    let batch = Batch { batch: 1, seq, targets: vec![IGNORE; seq], tokens: tokens.clone() };
    let mut activations = Activations::new(b, &p.config, 1, seq);
    model::forward(b, p, &mut activations, &batch);
    Ok((tokens, model::logits(b, p, &activations)?))
}

pub(crate) fn size(path: &Path) -> u64 {
    let file = if path.is_dir() { path.join("model.safetensors") } else { path.to_path_buf() };
    std::fs::metadata(file).map_or(0, |m| m.len())
}

impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "opened again and compared with the trainer:")?;
        writeln!(
            f,
            "  {} ternary tensors, {} weights: every code and scale equal",
            self.ternary_tensors, self.ternary_weights
        )?;
        writeln!(f, "  {} full-precision tensors: every value equal", self.dense_tensors)?;
        writeln!(
            f,
            "  logits of {} tokens: trainer and runtime (exact mode) differ by at most {:.2e} of a range of {:.2}",
            self.tokens, self.logit_difference, self.logit_range
        )?;
        write!(
            f,
            "  fast mode against exact: KL {:.2e} nats a token, same first choice for {:.1}% of them",
            self.fast_kl,
            100.0 * self.fast_top1
        )
    }
}
