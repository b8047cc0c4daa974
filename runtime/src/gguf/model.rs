//! A model out of a container: metadata to [`Config`], names of llama.cpp to ours, everything checked.

use std::collections::HashMap;
use std::path::Path;

use super::architecture::Architecture;
use super::keys::Keys;
use super::layout::{TensorInfo, TensorType};
use super::metadata::Metadata;
use super::read::Gguf;
use super::rope;
use super::vocabulary;
use crate::config::{Config, TensorSpec};
use crate::error::{Error, Result};
use crate::model_file::ModelFile;
use crate::tensor::Bytes;

/// Layers hold at least this many tensors each.
const LEAST_TENSORS_PER_LAYER: usize = 9;

/// Opens a GGUF model file.
pub fn open(path: &Path) -> Result<ModelFile> {
    open_bytes(&Bytes::map_weights(path)?, path)
}

/// Opens a GGUF model that is already in memory; `name` is for error messages.
pub fn open_bytes(bytes: &Bytes, name: &Path) -> Result<ModelFile> {
    let (mut file, gguf) = open_without_tokenizer(bytes, name)?;
    file.tokenizer = vocabulary::read(gguf.metadata(), file.config.vocab)?;
    Ok(file)
}

/// Like [`open_bytes`], but leaves the tokenizer out: a program that calls neither that nor
/// [`Metadata::tokenizer`] has no code for tokenizers in it. Gives the container, too.
pub fn open_without_tokenizer(bytes: &Bytes, name: &Path) -> Result<(ModelFile, Gguf)> {
    open_parts(bytes, bytes, name)
}

/// Like [`open_without_tokenizer`], of a file of which only the first [`Gguf::header_bytes`] need be here, as `header`; of
/// `bytes`, the whole file, no tensor but a small one is read before it is used.
pub fn open_parts(header: &Bytes, bytes: &Bytes, name: &Path) -> Result<(ModelFile, Gguf)> {
    let gguf = Gguf::parse(header, bytes, name, refuse_foreign)?;
    let metadata = gguf.metadata();
    let architecture = Architecture::of(metadata)?;
    let mut directory: HashMap<&str, &TensorInfo> =
        gguf.tensors().iter().map(|info| (info.name.as_str(), info)).collect();
    let factors = directory.remove(rope::FACTORS).filter(|_| architecture == Architecture::Llama);
    let factors = factors.map(|info| gguf.stored(info).to_f32());
    let config = read_config(&Keys { metadata, architecture }, &directory, factors)?;
    let mut tensors = HashMap::new();
    for spec in config.tensors() {
        let info = directory.remove(spec.gguf_name.as_str()).ok_or_else(|| {
            metadata.error(format!("tensor '{}' is missing: the file is incomplete", spec.gguf_name))
        })?;
        check_shape(metadata, info, &spec)?;
        let tensor = architecture.rows_from_file(&spec, config.head_dim, gguf.stored(info));
        tensors.insert(spec.name, tensor);
    }
    if let Some(extra) = directory.keys().min() {
        return Err(Error::Unsupported(format!(
            "tensor '{extra}', which a {} model does not have",
            architecture.name()
        )));
    }
    Ok((ModelFile { description: describe(&gguf, architecture), config, tokenizer: None, tensors }, gguf))
}

/// Refuses what would load and then run wrongly.
fn refuse_foreign(metadata: &Metadata) -> Result<()> {
    Architecture::of(metadata)?;
    if let Some((key, _)) = metadata.entries().iter().find(|(key, _)| key.starts_with("prism.")) {
        return Err(Error::Unsupported(format!(
            "the metadata key '{key}' changes what the weights mean, and this program does not know how"
        )));
    }
    let parts = metadata.u64("split.count")?.unwrap_or(1);
    if parts > 1 {
        return Err(Error::Unsupported(format!(
            "a model split into {parts} files: join them with llama-gguf-split --merge"
        )));
    }
    Ok(())
}

/// The shape, from keys and from the tensors themselves where these know better. Checked.
fn read_config(
    keys: &Keys,
    directory: &HashMap<&str, &TensorInfo>,
    rope_factors: Option<Vec<f32>>,
) -> Result<Config> {
    let metadata = keys.metadata;
    refuse_features(keys)?;
    let layers = keys.size("block_count")?;
    if layers > directory.len() / LEAST_TENSORS_PER_LAYER {
        // Also keeps the table of tensors from growing beyond what the file could fill.
        return Err(metadata.error(format!(
            "the file has {} tensors, too few for {layers} layers: it is incomplete",
            directory.len()
        )));
    }
    let (hidden, heads) = (keys.size("embedding_length")?, keys.size("attention.head_count")?);
    let head_dim = read_head_dim(keys, hidden, heads)?;
    let norm_eps = keys.required(NORM_EPS, keys.f32(NORM_EPS)?)?;
    let embedding = directory.get("token_embd.weight");
    let embedding = embedding
        .ok_or_else(|| metadata.error("tensor 'token_embd.weight' is missing: the file is incomplete"))?;
    let context = keys.size("context_length")?;
    let config = Config {
        vocab: embedding.ne[1..].iter().product(),
        hidden,
        intermediate: keys.size("feed_forward_length")?,
        layers,
        heads,
        kv_heads: keys.optional("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        context,
        norm_eps,
        qk_norm_eps: (keys.architecture == Architecture::Qwen3).then_some(norm_eps),
        rope: rope::read(keys, context, head_dim, rope_factors)?,
        tied: !directory.contains_key("output.weight"),
        bos: vocabulary::bos(metadata)?,
        eos: vocabulary::eos(metadata)?,
    };
    config.check().map_err(|e| metadata.error(e))?;
    vocabulary::check_ids(metadata, &config)?;
    Ok(config)
}

const NORM_EPS: &str = "attention.layer_norm_rms_epsilon";

fn refuse_features(keys: &Keys) -> Result<()> {
    for key in ["attention.sliding_window", "expert_count"] {
        if let Some(n @ 1..) = keys.optional(key)? {
            return Err(Error::Unsupported(format!("'{}' = {n}: the network here has none", keys.full(key))));
        }
    }
    Ok(())
}

fn read_head_dim(keys: &Keys, hidden: usize, heads: usize) -> Result<usize> {
    let head_dim = match keys.optional("attention.key_length")? {
        Some(length) => length,
        None => hidden.checked_div(heads).ok_or_else(|| {
            let key = keys.full("attention.head_count");
            keys.metadata.error(format!("'{key}' is 0, expected at least 1"))
        })?,
    };
    for key in ["attention.value_length", "rope.dimension_count"] {
        match keys.optional(key)? {
            Some(n) if n != head_dim => {
                return Err(Error::Unsupported(format!(
                    "'{}' = {n} beside heads of {head_dim}",
                    keys.full(key)
                )));
            }
            _ => {}
        }
    }
    Ok(head_dim)
}

/// Compares dimensions; ones at the end mean nothing.
fn check_shape(metadata: &Metadata, info: &TensorInfo, spec: &TensorSpec) -> Result<()> {
    let trimmed = info.ne.len() - info.ne.iter().rev().take_while(|&&n| n == 1).count();
    let expected = [spec.cols, spec.rows];
    let expected_trimmed = if spec.rows > 1 { 2 } else { usize::from(spec.cols > 1) };
    if info.ne[..trimmed] == expected[..expected_trimmed] {
        return Ok(());
    }
    Err(metadata.error(format!(
        "tensor '{}' has shape {:?}, but the metadata asks for {:?}: the file is damaged",
        info.name,
        info.ne,
        &expected[..spec.shape().len()]
    )))
}

/// "GGUF v3, qwen3, 197 ternary tensors as Q2_0 in groups of 128 (...), 113 as F32".
fn describe(gguf: &Gguf, architecture: Architecture) -> String {
    let mut text = format!("GGUF v{}, {}", gguf.version(), architecture.name());
    let mut counts: Vec<(TensorType, usize)> = Vec::new();
    for info in gguf.tensors() {
        match counts.iter_mut().find(|(kind, _)| *kind == info.kind) {
            Some((_, count)) => *count += 1,
            None => counts.push((info.kind, 1)),
        }
    }
    for (kind, count) in counts {
        let evidence = gguf.evidence().map_or("", |evidence| evidence.name());
        text += &match kind {
            TensorType::Q2_0 { group: 128 } => format!(
                ", {count} ternary tensors as Q2_0 in groups of 128 (PrismML's layout of type 42, recognised by \
                 {evidence})"
            ),
            TensorType::Q2_0 { group } => format!(
                ", {count} ternary tensors as Q2_0 in groups of {group} (llama.cpp's layout of type 42, recognised \
                 by {evidence})"
            ),
            TensorType::Pq2_0 => format!(", {count} ternary tensors as PQ2_0 in groups of 128 (type 142)"),
            TensorType::Ptq1_0 => format!(", {count} ternary tensors as PTQ1_0 in groups of 128 (type 143)"),
            TensorType::Tq1_0 => format!(", {count} ternary tensors as TQ1_0 in groups of 256 (type 34)"),
            TensorType::Tq2_0 => format!(", {count} ternary tensors as TQ2_0 in groups of 256 (type 35)"),
            dense => format!(", {count} as {}", dense.name()),
        };
    }
    text
}
