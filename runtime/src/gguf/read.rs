//! Reads the container. After [`Gguf::from_bytes`] nothing can fail: every count, length and offset was checked
//! against the bytes that are really there.

use std::collections::HashSet;
use std::path::Path;

use super::cursor::Cursor;
use super::layout::{Evidence, TensorInfo, TensorType, foreign_type_name, settle};
use super::metadata::Metadata;
use super::value::Value;
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC};
use crate::error::{Error, Result};
use crate::tensor::{Bytes, StoredTensor};

/// ggml keeps names in 64 bytes with a terminating zero.
const LONGEST_NAME: usize = 63;

/// An opened container: metadata, directory, data.
#[derive(Debug, Clone)]
pub struct Gguf {
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    evidence: Option<Evidence>,
    /// Where the data begins.
    header: usize,
    data: Bytes,
}

impl Gguf {
    /// Maps a file and checks it.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_bytes(Bytes::map(path)?, path)
    }

    /// Checks bytes that are already in memory; `name` is for error messages.
    pub fn from_bytes(bytes: Bytes, name: &Path) -> Result<Self> {
        Self::parse(&bytes, &bytes, name, |_| Ok(()))
    }

    /// Like [`Gguf::from_bytes`], with a say of the caller once the metadata is known: a file of a foreign
    /// architecture should be refused for that, not for the number formats that come with it. `header` is a beginning of
    /// the file that has at least [`Gguf::header_bytes`]; the rest of `bytes` need not be here.
    pub(super) fn parse(
        header: &Bytes,
        bytes: &Bytes,
        name: &Path,
        accept: impl FnOnce(&Metadata) -> Result<()>,
    ) -> Result<Self> {
        let mut cursor = Cursor::new(header, name);
        let (version, tensor_count, metadata) = read_beginning(&mut cursor, name)?;
        accept(&metadata)?;
        let alignment = read_alignment(&metadata)?;
        let mut tensors = read_directory(&mut cursor, tensor_count)?;
        let start = cursor.at().checked_next_multiple_of(alignment).unwrap_or(usize::MAX).min(bytes.len());
        let data = bytes.slice(start..bytes.len());
        let evidence = settle(&mut tensors, alignment, &data).map_err(|e| cursor.error(e))?;
        Ok(Self { version, metadata, tensors, evidence, header: start, data })
    }

    /// Version of the container: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Keys and values.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Bytes in front of the data of the tensors.
    pub fn header_bytes(&self) -> usize {
        self.header
    }

    /// The directory, in file order. Each name occurs once.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// How the group of type 42 was recognised, in a file that has it.
    pub fn evidence(&self) -> Option<Evidence> {
        self.evidence
    }

    /// The tensor of this name, as a matrix of `ne[0]` columns.
    pub fn tensor(&self, name: &str) -> Option<StoredTensor> {
        self.tensors.iter().find(|info| info.name == name).map(|info| self.stored(info))
    }

    /// The bytes of an entry of this file's own directory.
    pub(super) fn stored(&self, info: &TensorInfo) -> StoredTensor {
        let size = info.kind.bytes(&info.ne).expect("checked when the file was opened");
        let bytes = self.data.slice(info.offset..info.offset + size);
        let rows = info.ne[1..].iter().product();
        StoredTensor { format: info.kind.format(), rows, cols: info.ne[0], bytes }
    }
}

impl Metadata {
    /// Reads the keys and values of a file of which only [`Gguf::header_bytes`] need be there.
    pub fn from_header(header: Bytes, name: &Path) -> Result<Self> {
        let (_, _, metadata) = read_beginning(&mut Cursor::new(&header, name), name)?;
        Ok(metadata)
    }
}

/// Version, number of tensors, keys and values.
fn read_beginning(cursor: &mut Cursor, name: &Path) -> Result<(u32, usize, Metadata)> {
    let version = read_version(cursor)?;
    // The counts stand before both lists. A tensor: name and its length, one dimension, type, offset.
    let tensor_count = cursor.count(8 + 4 + 8 + 4 + 8, "the number of tensors")?;
    // A key with its length, a type, a value of one byte.
    let entry_count = cursor.count(8 + 4 + 1, "the number of metadata entries")?;
    Ok((version, tensor_count, read_metadata(cursor, entry_count, name)?))
}

fn read_version(cursor: &mut Cursor) -> Result<u32> {
    if cursor.take(4, "the mark of a GGUF file")? != MAGIC {
        return Err(cursor.error(
            "does not begin with GGUF: expected a GGUF file or a Hugging Face directory with a config.json",
        ));
    }
    match cursor.u32("the version")? {
        version @ (2 | 3) => Ok(version),
        1 => Err(Error::Unsupported("GGUF version 1 (of 2023): convert the model again".into())),
        // Small numbers with their bytes the other way round.
        version if version.trailing_zeros() >= 16 && version != 0 => Err(Error::Unsupported(
            "a big-endian GGUF file: convert the model for little-endian machines".into(),
        )),
        version => Err(cursor.error(format!("has GGUF version {version}, expected 2 or 3"))),
    }
}

fn read_metadata(cursor: &mut Cursor, count: usize, name: &Path) -> Result<Metadata> {
    let (mut entries, mut seen) = (Vec::new(), HashSet::new());
    for n in 0..count {
        let key = cursor.str(&format!("metadata key {n}"))?;
        if !seen.insert(key) {
            return Err(cursor.error(format!("the metadata key '{key}' occurs twice")));
        }
        entries.push((key.to_string(), cursor.value(&format!("the metadata key '{key}'"))?));
    }
    Ok(Metadata { path: name.to_path_buf(), entries })
}

fn read_alignment(metadata: &Metadata) -> Result<usize> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(alignment)) if alignment.is_power_of_two() => Ok(alignment as usize),
        Some(Value::U32(alignment)) => {
            Err(metadata.error(format!("the key '{ALIGNMENT_KEY}' is {alignment}, expected a power of two")))
        }
        Some(other) => Err(metadata.error(format!(
            "the key '{ALIGNMENT_KEY}' should be a u32, but the file has {}",
            other.value_type().name()
        ))),
    }
}

fn read_directory(cursor: &mut Cursor, count: usize) -> Result<Vec<TensorInfo>> {
    let (mut tensors, mut seen) = (Vec::new(), HashSet::new());
    for n in 0..count {
        let name = cursor.str(&format!("the name of tensor {n}"))?;
        if name.len() > LONGEST_NAME {
            return Err(cursor.error(format!(
                "the name of tensor {n} has {} bytes, expected at most {LONGEST_NAME}",
                name.len()
            )));
        }
        if !seen.insert(name) {
            return Err(cursor.error(format!("tensor '{name}' occurs twice")));
        }
        tensors.push(read_info(cursor, name)?);
    }
    Ok(tensors)
}

fn read_info(cursor: &mut Cursor, name: &str) -> Result<TensorInfo> {
    let ne = read_dimensions(cursor, name)?;
    let id = cursor.u32(&format!("the type of tensor '{name}'"))?;
    let kind = TensorType::from_id(id).ok_or_else(|| {
        Error::Unsupported(format!(
            "tensor '{name}' has number format {id} ({}), but only F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, Q2_0, PQ2_0, PTQ1_0, TQ1_0 and TQ2_0 are read",
            foreign_type_name(id)
        ))
    })?;
    let offset = cursor.u64(&format!("the offset of tensor '{name}'"))?;
    let offset = usize::try_from(offset).map_err(|_| {
        cursor.error(format!("tensor '{name}' starts at byte {offset}, behind the end of any file"))
    })?;
    Ok(TensorInfo { name: name.into(), ne, kind, offset })
}

fn read_dimensions(cursor: &mut Cursor, name: &str) -> Result<Vec<usize>> {
    let count = cursor.u32(&format!("the number of dimensions of tensor '{name}'"))?;
    if !(1..=4).contains(&count) {
        return Err(cursor.error(format!("tensor '{name}' has {count} dimensions, expected 1 to 4")));
    }
    let mut ne = Vec::new();
    for _ in 0..count {
        let n = cursor.u64(&format!("a dimension of tensor '{name}'"))?;
        if n == 0 || i64::try_from(n).is_err() {
            let n = n as i64;
            return Err(
                cursor.error(format!("tensor '{name}' has a dimension of {n}, expected a positive size"))
            );
        }
        // On a machine of 32 bits.
        let too_large =
            |_| cursor.error(format!("tensor '{name}', a dimension of {n}: larger than any file"));
        ne.push(usize::try_from(n).map_err(too_large)?);
    }
    if ne.iter().try_fold(1usize, |product, n| product.checked_mul(*n)).is_none() {
        return Err(
            cursor.error(format!("tensor '{name}' would be larger than any file: the file is damaged"))
        );
    }
    Ok(ne)
}
