//! Hugging Face directories: config.json, safetensors (one file or shards), tokenizer.json, left where they lie.

mod config_json;
mod shards;

use std::path::Path;

use rayon::prelude::*;

pub use config_json::{config_json, parse_config};

use crate::config::{Config, TensorSpec};
use crate::error::{Error, Result};
use crate::model_file::ModelFile;
use crate::tensor::StoredTensor;
use crate::tokenizer::{LazyTokenizer, Tokenizer};
use config_json::Parsed;

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
/// Settings of a run, which `bonsai-trainer` leaves in its directory.
const RUN: &str = "run.toml";
/// Tables that old exporters left behind; they follow from the config.
const IGNORED_ENDING: &str = ".rotary_emb.inv_freq";

/// Opens a Hugging Face directory.
pub fn open(directory: &Path) -> Result<ModelFile> {
    let path = directory.join("config.json");
    if !path.exists() {
        return Err(Error::format(directory, "a directory without a model: config.json is missing"));
    }
    let Parsed { mut config, model_type } =
        config_json::parse(&read_text(&path)?).map_err(|e| e.about(&path))?;
    read_generation_config(&directory.join("generation_config.json"), &mut config)?;
    let mut stored = shards::read(directory)?;
    // The tensor knows better: some models were trimmed after their config was written.
    let embedding = stored.get(EMBEDDING).ok_or_else(|| missing(directory, EMBEDDING))?;
    config.vocab = embedding.rows();
    config.check().map_err(|e| Error::format(&path, e))?;
    if config.layers > stored.len() {
        // Also keeps the table of tensors from growing beyond what the files could fill.
        let message =
            format!("num_hidden_layers is {}, but there are {} tensors", config.layers, stored.len());
        return Err(Error::format(&path, message));
    }
    let take = |spec: TensorSpec| {
        let found = stored.remove(&spec.name).ok_or_else(|| missing(directory, &spec.name))?;
        Ok((spec.name.clone(), found.expect_shape(&spec)?))
    };
    let tensors = config.tensors().into_iter().map(take).collect::<Result<_>>()?;
    let ignored = |name: &String| name.ends_with(IGNORED_ENDING) || (config.tied && name == HEAD);
    if let Some(extra) = stored.keys().filter(|name| !ignored(name)).min() {
        return Err(Error::Unsupported(format!(
            "tensor '{extra}', which a {model_type} model does not have"
        )));
    }
    let tokenizer = tokenizer(directory);
    let mut description = describe(&model_type, &tensors);
    if directory.join(RUN).exists() {
        description +=
            "; a training run, whose weights are not rounded yet: `bonsai-trainer export` does that";
    }
    Ok(ModelFile { config, tokenizer, tensors, description })
}

/// Refuses a model with NaN or infinite weights, naming the first one. `path` is for the error message.
pub fn check_finite(model: &ModelFile, path: &Path) -> Result<()> {
    let specs = model.config.tensors();
    let first = specs.par_iter().find_map_first(|spec| {
        let tensor = model.tensors.get(&spec.name)?;
        let (row, col, value) = first_not_finite(tensor)?;
        Some(format!(
            "tensor '{}' has {value} in row {row}, column {col}: the checkpoint is damaged or its training diverged",
            spec.name
        ))
    });
    first.map_or(Ok(()), |message| Err(Error::format(path, message)))
}

/// Row, column and value.
fn first_not_finite(tensor: &StoredTensor) -> Option<(usize, usize, f32)> {
    (0..tensor.rows).into_par_iter().find_map_first(|row| {
        let mut values = vec![0.0; tensor.cols];
        tensor.read_row(row, &mut values);
        values.iter().position(|x| !x.is_finite()).map(|col| (row, col, values[col]))
    })
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(Error::io(path))
}

fn read_generation_config(path: &Path, config: &mut Config) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    config_json::merge_generation(&read_text(path)?, config).map_err(|e| Error::format(path, e))
}

fn tokenizer(directory: &Path) -> Option<LazyTokenizer> {
    let path = directory.join("tokenizer.json");
    path.exists().then(|| LazyTokenizer::new(None, move || Tokenizer::from_file(&path)))
}

fn missing(directory: &Path, name: &str) -> Error {
    Error::format(directory, format!("tensor '{name}' is missing: the checkpoint is incomplete"))
}

fn describe(model_type: &str, tensors: &std::collections::HashMap<String, StoredTensor>) -> String {
    let mut formats: Vec<&str> = tensors.values().map(|t| t.format.name()).collect();
    formats.sort_unstable();
    formats.dedup();
    format!("Hugging Face directory, {model_type}, {} tensors as {}", tensors.len(), formats.join(" and "))
}
