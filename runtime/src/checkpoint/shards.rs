//! The tensors of a directory, from `model.safetensors` or from the shards that an index lists.

use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::config::TensorSpec;
use crate::error::{Error, Result};
use crate::tensor::{Bytes, Format, StoredTensor};

/// A tensor of a file, not yet asked for.
pub(super) struct Found {
    name: String,
    path: PathBuf,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Bytes,
}

impl Found {
    /// Size of the first dimension.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }

    /// The tensor, if it is what the table says.
    pub fn expect_shape(self, spec: &TensorSpec) -> Result<StoredTensor> {
        let format = match self.dtype {
            Dtype::F32 => Format::F32,
            Dtype::F16 => Format::F16,
            Dtype::BF16 => Format::Bf16,
            other => {
                return Err(Error::Unsupported(format!(
                    "tensor '{}' has number format {other:?}, but only F32, F16 and BF16 are read",
                    self.name
                )));
            }
        };
        if self.shape != spec.shape() {
            return Err(Error::format(
                &self.path,
                format!(
                    "tensor '{}' has shape {:?}, but config.json asks for {:?}",
                    self.name,
                    self.shape,
                    spec.shape()
                ),
            ));
        }
        Ok(StoredTensor { format, rows: spec.rows, cols: spec.cols, bytes: self.bytes })
    }
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    /// Tensor name to file name.
    weight_map: HashMap<String, String>,
}

/// Every tensor of a directory, by name.
pub(super) fn read(directory: &Path) -> Result<HashMap<String, Found>> {
    let single = directory.join("model.safetensors");
    let index = directory.join("model.safetensors.index.json");
    if single.exists() || !index.exists() {
        return Ok(read_file(&single)?.into_iter().map(|found| (found.name.clone(), found)).collect());
    }
    let text = std::fs::read_to_string(&index).map_err(Error::io(&index))?;
    let Index { weight_map } =
        serde_json::from_str(&text).map_err(|e| Error::format(&index, e.to_string()))?;
    let mut all = HashMap::new();
    for file in weight_map.values().collect::<BTreeSet<_>>() {
        check_file_name(file).map_err(|e| Error::format(&index, e))?;
        let found = read_file(&directory.join(file))?;
        // A shard may repeat what another one has: the index decides.
        let listed = found.into_iter().filter(|found| weight_map.get(&found.name) == Some(file));
        all.extend(listed.map(|found| (found.name.clone(), found)));
    }
    match weight_map.iter().filter(|(name, _)| !all.contains_key(*name)).min() {
        Some((name, file)) => Err(Error::format(
            directory.join(file),
            format!("tensor '{name}' is missing, though the index lists it"),
        )),
        None => Ok(all),
    }
}

/// A shard lies beside its index: a name with a directory in it would read somebody else's files.
fn check_file_name(file: &str) -> Result<(), String> {
    let parts: Vec<Component> = Path::new(file).components().collect();
    if matches!(parts[..], [Component::Normal(_)]) && !file.contains(['/', '\\', ':']) {
        return Ok(());
    }
    Err(format!("shard '{file}' is not a file name: shards must lie beside the index"))
}

fn read_file(path: &Path) -> Result<Vec<Found>> {
    let bytes = Bytes::map_weights(path)?;
    let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| {
        Error::format(path, format!("{e}: the file is cut short or no safetensors file, fetch it again"))
    })?;
    let start = 8 + header;
    let found = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let (from, to) = info.data_offsets;
        let range = start.checked_add(from).zip(start.checked_add(to)).filter(|(_, to)| *to <= bytes.len());
        let (from, to) =
            range.ok_or_else(|| Error::format(path, format!("tensor '{name}' ends behind the file")))?;
        let bytes = bytes.slice(from..to);
        Ok(Found { name, path: path.into(), dtype: info.dtype, shape: info.shape.clone(), bytes })
    };
    metadata.tensors().into_iter().map(found).collect()
}
