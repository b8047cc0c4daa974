//! A model into a container, so that llama.cpp, PrismML's fork and this program load it alike.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use super::architecture::Architecture;
use super::layout::TensorType;
use super::rope;
use super::value::Value;
use super::vocabulary;
use super::write::{NewTensor, Source, write};
use crate::config::{Config, Kind, TensorSpec};
use crate::error::{Error, Result};
use crate::quantized::Quantized;
use crate::tensor::{Format, StoredTensor};
use crate::ternary::{Packing, TernaryMatrix};
use crate::tokenizer::Tokenizer;

/// How ternary matrices are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackedFormat {
    /// "q2_0": type 42 in groups of 128, PrismML's first layout.
    Q2_0,
    /// "q2_0_g64": type 42 in groups of 64, for mainline llama.cpp.
    Q2_0G64,
    /// "pq2_0": type 142 in groups of 128, for PrismML's current fork.
    Pq2_0,
    /// "ptq1_0": type 143, dense trits in groups of 128, for PrismML's current fork: the smallest.
    Ptq1_0,
    /// "tq2_0": type 35 in groups of 256, for any llama.cpp; only for models that were trained in groups of 256.
    Tq2_0,
    /// "tq1_0": type 34, dense trits in groups of 256, for any llama.cpp; for the same models.
    Tq1_0,
}

impl PackedFormat {
    /// Every format, for help texts and tests.
    pub const ALL: [Self; 6] =
        [Self::Q2_0, Self::Q2_0G64, Self::Pq2_0, Self::Ptq1_0, Self::Tq2_0, Self::Tq1_0];

    /// The blocks that are written.
    pub fn packing(self) -> Packing {
        match self {
            Self::Q2_0 | Self::Pq2_0 => Packing::Q2_0,
            Self::Q2_0G64 => Packing::Q2_0G64,
            Self::Ptq1_0 => Packing::Ptq1_0,
            Self::Tq2_0 => Packing::Tq2_0,
            Self::Tq1_0 => Packing::Tq1_0,
        }
    }

    /// The tensor type that is written.
    pub fn tensor_type(self) -> TensorType {
        match self {
            Self::Q2_0 | Self::Q2_0G64 => TensorType::Q2_0 { group: self.packing().group() },
            Self::Pq2_0 => TensorType::Pq2_0,
            Self::Ptq1_0 => TensorType::Ptq1_0,
            Self::Tq2_0 => TensorType::Tq2_0,
            Self::Tq1_0 => TensorType::Tq1_0,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Q2_0 => "q2_0",
            Self::Q2_0G64 => "q2_0_g64",
            Self::Pq2_0 => "pq2_0",
            Self::Ptq1_0 => "ptq1_0",
            Self::Tq2_0 => "tq2_0",
            Self::Tq1_0 => "tq1_0",
        }
    }
}

impl fmt::Display for PackedFormat {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PackedFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| {
            format!("unknown format '{name}': expected q2_0, q2_0_g64, pq2_0, ptq1_0, tq2_0 or tq1_0")
        })
    }
}

/// The weights of one tensor, as the caller has them.
pub enum ModelTensor<'a> {
    /// Written in the packed format.
    Ternary(Cow<'a, TernaryMatrix>),
    /// Written as F32: norms, and matrices of a model that is not ternary. `[rows, cols]`.
    Dense(Cow<'a, [f32]>),
    /// From another file: packed ones are packed again, norms written as F32, other matrices as they are.
    Stored(StoredTensor),
}

/// Everything llama.cpp wants to know about a model. `file_type` is its number for people (LLAMA_FTYPE): 0 for
/// F32, 36 for TQ1_0, 37 for TQ2_0, 41 for Q2_0, 141 for PQ2_0, 143 for PTQ1_0; readers go by the tensors.
pub fn metadata_for(
    config: &Config,
    name: &str,
    tokenizer: Option<&Tokenizer>,
    file_type: u32,
) -> Result<Vec<(String, Value)>> {
    config.check().map_err(Error::Argument)?;
    let architecture = Architecture::for_config(config)?;
    let mut entries: Vec<(String, Value)> = vec![
        ("general.architecture".into(), architecture.name().into()),
        ("general.type".into(), "model".into()),
        ("general.name".into(), name.into()),
        ("general.file_type".into(), Value::U32(file_type)),
        ("general.quantization_version".into(), Value::U32(2)),
    ];
    write_shape(config, architecture, &mut entries)?;
    if config.eos.len() > 3 {
        return Err(Error::Unsupported(format!(
            "{} tokens that end a generation: GGUF has keys for 3",
            config.eos.len()
        )));
    }
    let vocabulary = tokenizer.map(Tokenizer::vocabulary).transpose()?;
    match &vocabulary {
        Some(vocabulary) => vocabulary::write(vocabulary, config.vocab, &mut entries)?,
        None => entries.push(("tokenizer.ggml.model".into(), "no_vocab".into())),
    }
    let bos = config.bos.or(vocabulary.and_then(|v| v.bos.filter(|_| v.add_bos)));
    vocabulary::write_ids(bos, &config.eos, &mut entries);
    Ok(entries)
}

/// The keys of the architecture.
fn write_shape(
    config: &Config,
    architecture: Architecture,
    entries: &mut Vec<(String, Value)>,
) -> Result<()> {
    let mut add = |key: &str, value: Value| entries.push((format!("{}.{key}", architecture.name()), value));
    // Config::check keeps every size below 2^24.
    let sizes = [
        ("block_count", config.layers),
        ("context_length", config.context),
        ("embedding_length", config.hidden),
        ("feed_forward_length", config.intermediate),
        ("attention.head_count", config.heads),
        ("attention.head_count_kv", config.kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
        ("vocab_size", config.vocab),
    ];
    sizes.into_iter().for_each(|(key, size)| add(key, Value::U32(size as u32)));
    add("attention.layer_norm_rms_epsilon", Value::F32(config.norm_eps));
    rope::write_keys(config.rope, &mut add)
}

/// GGUF keeps these numbers as f32: one that is not would come back changed.
pub(super) fn exact(x: f64, what: &str) -> Result<f32> {
    let narrow = x as f32;
    let lossless = f64::from(narrow) == x;
    lossless.then_some(narrow).ok_or_else(|| {
        Error::Unsupported(format!("a {what} of {x} in a GGUF file: it is no f32, the nearest is {narrow}"))
    })
}

/// Writes a model. `tensor` supplies the weights of each row of [`Config::tensors`]; it is called once for each,
/// before anything is written.
pub fn write_model<'a>(
    out: &mut impl Write,
    config: &Config,
    name: &str,
    tokenizer: Option<&Tokenizer>,
    format: PackedFormat,
    tensor: impl Fn(&TensorSpec) -> ModelTensor<'a>,
) -> Result<()> {
    config.check().map_err(Error::Argument)?;
    let architecture = Architecture::for_config(config)?;
    let plan = |spec: TensorSpec| {
        let tensor = tensor(&spec);
        check_shape(&spec, &tensor)?;
        plan(&spec, architecture.rows_to_file(&spec, config.head_dim, tensor), format)
    };
    let mut tensors = config.tensors().into_iter().map(plan).collect::<Result<Vec<_>>>()?;
    tensors.extend(rope::factors(config)?);
    let metadata = metadata_for(config, name, tokenizer, file_type(&tensors))?;
    write(out, &metadata, &tensors)
}

/// LLAMA_FTYPE of the matrices.
fn file_type(tensors: &[NewTensor]) -> u32 {
    match tensors.iter().map(|t| t.kind).find(|kind| *kind != TensorType::F32) {
        None | Some(TensorType::F32) => 0,
        Some(TensorType::F16) => 1,
        Some(TensorType::Bf16) => 32,
        Some(TensorType::Q2_0 { .. }) => 41,
        Some(TensorType::Pq2_0) => 141,
        Some(TensorType::Ptq1_0) => 143,
        Some(TensorType::Tq1_0) => 36,
        Some(TensorType::Tq2_0) => 37,
        Some(TensorType::Quantized(Quantized::Q4_0)) => 2,
        Some(TensorType::Quantized(Quantized::Q4_1)) => 3,
        Some(TensorType::Quantized(Quantized::Q5_0)) => 8,
        Some(TensorType::Quantized(Quantized::Q5_1)) => 9,
        Some(TensorType::Quantized(Quantized::Q8_0)) => 7,
        Some(TensorType::Quantized(Quantized::Q4K)) => 15,
        Some(TensorType::Quantized(Quantized::Q5K)) => 17,
        Some(TensorType::Quantized(Quantized::Q6K)) => 18,
    }
}

fn check_shape(spec: &TensorSpec, tensor: &ModelTensor<'_>) -> Result<()> {
    let (rows, cols) = match tensor {
        ModelTensor::Ternary(matrix) => (matrix.rows, matrix.cols),
        ModelTensor::Dense(values) if values.len() == spec.len() => return Ok(()),
        ModelTensor::Dense(values) => (values.len().div_ceil(spec.cols), spec.cols),
        ModelTensor::Stored(tensor) => (tensor.rows, tensor.cols),
    };
    if (rows, cols) == (spec.rows, spec.cols) {
        return Ok(());
    }
    let expected = spec.shape();
    Err(Error::Argument(format!("tensor '{}' is {rows} x {cols}, expected {expected:?}", spec.name)))
}

/// Decides how a tensor of the right shape is written, and makes sure that it can be.
fn plan<'a>(spec: &TensorSpec, tensor: ModelTensor<'a>, format: PackedFormat) -> Result<NewTensor<'a>> {
    let (kind, source): (TensorType, Source<'a>) = match tensor {
        ModelTensor::Ternary(matrix) => packed(spec, matrix, format)?,
        ModelTensor::Dense(values) => {
            (TensorType::F32, Box::new(move |out: &mut dyn Write| write_f32(&values, out)))
        }
        ModelTensor::Stored(tensor) => stored(spec, tensor, format)?,
    };
    let ne = spec.shape().into_iter().rev().collect();
    Ok(NewTensor { name: spec.gguf_name.clone(), ne, kind, source })
}

fn stored<'a>(
    spec: &TensorSpec,
    tensor: StoredTensor,
    format: PackedFormat,
) -> Result<(TensorType, Source<'a>)> {
    let raw = |kind| Ok::<_, Error>((kind, tensor.bytes.clone()));
    let (kind, bytes) = match tensor.format {
        _ if spec.kind == Kind::Norm => {
            let values = tensor.to_f32();
            return Ok((TensorType::F32, Box::new(move |out| write_f32(&values, out))));
        }
        Format::Ternary(packing) => {
            let matrix = packing.unpack(tensor.rows, tensor.cols, &tensor.bytes);
            let matrix = matrix.map_err(|e| Error::Argument(format!("tensor '{}': {e}", spec.name)))?;
            return packed(spec, Cow::Owned(matrix), format);
        }
        Format::F32 => raw(TensorType::F32)?,
        Format::F16 => raw(TensorType::F16)?,
        Format::Bf16 => raw(TensorType::Bf16)?,
        Format::Quantized(kind) => raw(TensorType::Quantized(kind))?,
    };
    Ok((kind, Box::new(move |out| out.write_all(&bytes))))
}

/// Packs now, so that a matrix that does not fit is found before the file is begun.
fn packed<'a>(
    spec: &TensorSpec,
    matrix: Cow<'a, TernaryMatrix>,
    format: PackedFormat,
) -> Result<(TensorType, Source<'a>)> {
    let mut blocks = Vec::new();
    let encoded = format.packing().encode(&matrix, &mut blocks);
    encoded.map_err(|e| Error::Argument(format!("tensor '{}' as {format}: {e}", spec.name)))?;
    Ok((format.tensor_type(), Box::new(move |out| out.write_all(&blocks))))
}

/// Values to a stream, a piece at a time.
fn write_f32(values: &[f32], out: &mut dyn Write) -> io::Result<()> {
    values.chunks(1 << 16).try_for_each(|piece| {
        let bytes: Vec<u8> = piece.iter().flat_map(|x| x.to_le_bytes()).collect();
        out.write_all(&bytes)
    })
}
