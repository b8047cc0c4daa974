//! What files of each architecture have of their own: the name, and the order of rows in q and k.
//!
//! llama.cpp rotates neighbouring rows of a head together in files of architecture `llama` (2i with 2i + 1), and rows half
//! a head apart everywhere else (i with i + head_dim / 2), as Hugging Face does and as is done here. Its converter sorts the
//! rows of q and k accordingly, so reading a `llama` file undoes it, and writing one does it.

use std::borrow::Cow;
use std::ops::Range;

use super::export::ModelTensor;
use super::metadata::Metadata;
use crate::config::{Config, TensorSpec};
use crate::error::{Error, Result};
use crate::tensor::{Bytes, StoredTensor};
use crate::ternary::TernaryMatrix;

const KEY: &str = "general.architecture";

/// An architecture that is read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    /// With a norm on q and k.
    Qwen3,
    /// Without.
    Llama,
}

impl Architecture {
    /// That of a file; any other is refused by name.
    pub fn of(metadata: &Metadata) -> Result<Self> {
        match metadata.required(KEY, metadata.str(KEY)?)? {
            "qwen3" => Ok(Self::Qwen3),
            "llama" => Ok(Self::Llama),
            other => Err(Error::Unsupported(format!("architecture '{other}': only qwen3 and llama are"))),
        }
    }

    /// That of a model; [`Error::Unsupported`] for one that neither can say.
    pub fn for_config(config: &Config) -> Result<Self> {
        match config.qk_norm_eps {
            None => Ok(Self::Llama),
            Some(eps) if eps == config.norm_eps => Ok(Self::Qwen3),
            Some(eps) => Err(Error::Unsupported(format!(
                "a GGUF file of a model with a q/k norm epsilon of {eps} beside {}: qwen3 files have one for all norms",
                config.norm_eps
            ))),
        }
    }

    /// As `general.architecture` has it, and as its keys begin.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qwen3 => "qwen3",
            Self::Llama => "llama",
        }
    }

    fn sorts(self, spec: &TensorSpec) -> bool {
        self == Self::Llama
            && [".attn_q.weight", ".attn_k.weight"].iter().any(|name| spec.gguf_name.ends_with(name))
    }

    /// A tensor of a file with its rows in our order. Where they have another one it is copied, once somebody looks at it.
    pub fn rows_from_file(self, spec: &TensorSpec, head_dim: usize, tensor: StoredTensor) -> StoredTensor {
        if !self.sorts(spec) {
            return tensor;
        }
        let (file, row) = (tensor.bytes.clone(), tensor.row_bytes());
        let read = move |range: Range<usize>| in_our_order(&file, (row, head_dim), range);
        StoredTensor { bytes: Bytes::elsewhere(tensor.bytes.len(), read), ..tensor }
    }

    /// A tensor of ours with its rows in the order of a file.
    pub fn rows_to_file<'a>(
        self,
        spec: &TensorSpec,
        head_dim: usize,
        tensor: ModelTensor<'a>,
    ) -> ModelTensor<'a> {
        if !self.sorts(spec) {
            return tensor;
        }
        let of_ours = |row| our_row(row, head_dim);
        match tensor {
            ModelTensor::Ternary(m) => ModelTensor::Ternary(Cow::Owned(TernaryMatrix {
                codes: sorted(&m.codes, m.rows, of_ours),
                scales: sorted(&m.scales, m.rows, of_ours),
                ..*m
            })),
            ModelTensor::Dense(values) => ModelTensor::Dense(sorted(&values, spec.rows, of_ours).into()),
            ModelTensor::Stored(tensor) => {
                let bytes = sorted(&tensor.bytes, tensor.rows, of_ours).into();
                ModelTensor::Stored(StoredTensor { bytes, ..tensor })
            }
        }
    }
}

/// The bytes `range` of a file's rows of `row` bytes in our order. No head is read of which nothing is wanted.
fn in_our_order(file: &Bytes, (row, head_dim): (usize, usize), range: Range<usize>) -> Vec<u8> {
    let head = head_dim * row;
    let begin = range.start / head * head;
    let heads = file.slice(begin..range.end.next_multiple_of(head).min(file.len()));
    let rows = range.start / row..range.end.div_ceil(row);
    let mut bytes = Vec::with_capacity(rows.len() * row);
    for ours in rows.clone() {
        bytes.extend_from_slice(&heads[row_in_file(ours, head_dim) * row - begin..][..row]);
    }
    bytes.drain(..range.start - rows.start * row);
    bytes.truncate(range.len());
    bytes
}

/// Row n of the result is row `source(n)` of `values`, which are `rows` rows of equal length.
fn sorted<T: Copy>(values: &[T], rows: usize, source: impl Fn(usize) -> usize) -> Vec<T> {
    let len = values.len() / rows;
    (0..rows).flat_map(|row| &values[source(row) * len..][..len]).copied().collect()
}

/// Where a `llama` file has our row: row i of a head's first half is 2i there, of its second half 2i + 1.
fn row_in_file(ours: usize, head_dim: usize) -> usize {
    let (head, row) = (ours / head_dim, ours % head_dim);
    head * head_dim + 2 * (row % (head_dim / 2)) + row / (head_dim / 2)
}

/// The row of ours that a `llama` file has there.
fn our_row(in_file: usize, head_dim: usize) -> usize {
    let (head, row) = (in_file / head_dim, in_file % head_dim);
    head * head_dim + row % 2 * (head_dim / 2) + row / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order that `LlamaModel.permute` of convert_hf_to_gguf.py gives two heads of six: reshape (2, 2, 3), swap the last
    /// two axes.
    #[test]
    fn rows_are_sorted_as_the_converter_does() {
        let order: Vec<usize> = (0..12).map(|row| our_row(row, 6)).collect();
        assert_eq!(order, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        assert!((0..128).all(|row| row_in_file(our_row(row, 64), 64) == row));
    }

    #[test]
    fn any_piece_of_a_sorted_tensor_is_that_piece_of_the_whole() {
        let (rows, row, head_dim) = (12, 5, 6);
        let values: Vec<u8> = (0..rows * row).map(|n| n as u8).collect();
        let whole = sorted(&values, rows, |ours| row_in_file(ours, head_dim));
        let file = Bytes::from(values);
        for (start, end) in (0..=rows * row).flat_map(|end| (0..=end).map(move |start| (start, end))) {
            assert_eq!(in_our_order(&file, (row, head_dim), start..end), whole[start..end], "{start}..{end}");
        }
    }

    #[test]
    fn nothing_is_read_of_a_file_that_is_only_opened() {
        let config = Config { qk_norm_eps: None, ..crate::random_model::shape("0.6b").unwrap() };
        let spec = config.tensors().into_iter().find(|spec| spec.name.ends_with("q_proj.weight")).unwrap();
        let bytes = Bytes::elsewhere(2 * spec.len(), |_| panic!("somebody looked"));
        let stored =
            StoredTensor { format: crate::tensor::Format::F16, rows: spec.rows, cols: spec.cols, bytes };
        let ours = Architecture::Llama.rows_from_file(&spec, config.head_dim, stored);
        assert_eq!((ours.bytes.len(), ours.row_bytes()), (2 * spec.len(), 2 * spec.cols));
    }

    #[test]
    fn rows_keep_their_length() {
        assert_eq!(sorted(&[1, 2, 3, 4, 5, 6], 3, |row| 2 - row), [5, 6, 3, 4, 1, 2]);
    }
}
