//! Where tensors lie, and which of two layouts type 42 has.
//!
//! Mainline llama.cpp and PrismML gave number 42 to blocks of 64 and of 128 weights. No key tells them apart,
//! but the offsets do: the tensors stand one after the other, each padded to the alignment, so only the true
//! block size reproduces the stored offsets (docs/formats.md).

use crate::quantized::Quantized;
use crate::tensor::{Bytes, Format};
use crate::ternary::Packing;

/// How the numbers of a tensor are written, as files name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorType {
    /// IEEE single, number 0.
    F32,
    /// IEEE half, number 1.
    F16,
    /// Upper half of an IEEE single, number 30.
    Bf16,
    /// Ternary, number 42, in groups of 64 (mainline llama.cpp) or 128 (PrismML) weights.
    Q2_0 {
        /// Weights that share a scale.
        group: usize,
    },
    /// Ternary, number 142: PrismML's groups of 128 under a number of their own.
    Pq2_0,
    /// Ternary, number 143: PrismML's dense trits in groups of 128.
    Ptq1_0,
    /// Ternary, number 34: llama.cpp's dense trits in groups of 256.
    Tq1_0,
    /// Ternary, number 35: llama.cpp's 2-bit codes in groups of 256.
    Tq2_0,
    /// Q4_0 to Q8_0 and Q4_K to Q6_K, under ggml's numbers.
    Quantized(Quantized),
}

impl TensorType {
    /// The type with this number. For 42 the group is a guess until the offsets have been seen.
    pub(super) fn from_id(id: u32) -> Option<Self> {
        match id {
            0 => Some(Self::F32),
            1 => Some(Self::F16),
            30 => Some(Self::Bf16),
            42 => Some(Self::Q2_0 { group: 64 }),
            142 => Some(Self::Pq2_0),
            143 => Some(Self::Ptq1_0),
            34 => Some(Self::Tq1_0),
            35 => Some(Self::Tq2_0),
            _ => Quantized::ALL.into_iter().find(|kind| kind.id() == id).map(Self::Quantized),
        }
    }

    /// The number in the file.
    pub fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 30,
            Self::Q2_0 { .. } => 42,
            Self::Pq2_0 => 142,
            Self::Ptq1_0 => 143,
            Self::Tq1_0 => 34,
            Self::Tq2_0 => 35,
            Self::Quantized(kind) => kind.id(),
        }
    }

    /// Name without the group.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q2_0 { .. } => "Q2_0",
            Self::Pq2_0 => "PQ2_0",
            Self::Ptq1_0 => "PTQ1_0",
            Self::Tq1_0 => "TQ1_0",
            Self::Tq2_0 => "TQ2_0",
            Self::Quantized(kind) => kind.name(),
        }
    }

    /// What the bytes mean.
    pub fn format(self) -> Format {
        match self {
            Self::F32 => Format::F32,
            Self::F16 => Format::F16,
            Self::Bf16 => Format::Bf16,
            Self::Q2_0 { group: 64 } => Format::Ternary(Packing::Q2_0G64),
            Self::Q2_0 { .. } | Self::Pq2_0 => Format::Ternary(Packing::Q2_0),
            Self::Ptq1_0 => Format::Ternary(Packing::Ptq1_0),
            Self::Tq1_0 => Format::Ternary(Packing::Tq1_0),
            Self::Tq2_0 => Format::Ternary(Packing::Tq2_0),
            Self::Quantized(kind) => Format::Quantized(kind),
        }
    }

    /// Bytes of a tensor of these dimensions; `None` when rows do not divide into blocks or nothing is that big.
    pub(super) fn bytes(self, ne: &[usize]) -> Option<usize> {
        let (cols, outer) = ne.split_first()?;
        outer.iter().try_fold(self.format().row_bytes(*cols)?, |bytes, n| bytes.checked_mul(*n))
    }
}

/// The name of a type that we do not read, for the refusal.
pub(super) fn foreign_type_name(id: u32) -> &'static str {
    const LEGACY: [&str; 14] = [
        "Q4_0", "Q4_1", "Q4_2", "Q4_3", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
        "Q6_K", "Q8_K",
    ];
    match id {
        2..=15 => LEGACY[id as usize - 2],
        16..=23 | 29 => "an IQ type",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        39 => "MXFP4",
        40 => "NVFP4",
        41 => "Q1_0",
        _ => "an unknown type",
    }
}

/// A tensor in the directory of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// GGUF name.
    pub name: String,
    /// Dimensions, the fastest first: input features, then rows. One to four, none of them 0.
    pub ne: Vec<usize>,
    /// Number format.
    pub kind: TensorType,
    /// Where it starts, in bytes from the start of the data.
    pub offset: usize,
}

/// How the group of type 42 was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// Only this group reproduces the offsets of the tensors.
    Offsets,
    /// Both do; only this one explains the size of the file.
    Size,
    /// Both do that too; what the smaller layout leaves over is (or is not) zero padding.
    Padding,
}

impl Evidence {
    /// For people: "recognised by ...".
    pub fn name(self) -> &'static str {
        match self {
            Self::Offsets => "the tensor offsets",
            Self::Size => "the size of the file",
            Self::Padding => "the padding",
        }
    }
}

/// Checks every offset and settles the group of type 42. The error is a sentence.
pub(super) fn settle(
    tensors: &mut [TensorInfo],
    alignment: usize,
    data: &Bytes,
) -> Result<Option<Evidence>, String> {
    let walk = |group| Walk { tensors, alignment, group }.run(data.len());
    if !tensors.iter().any(|t| t.kind.id() == 42) {
        return walk(64).map(|_| None).map_err(|misfit| misfit.sentence(tensors));
    }
    let (group, evidence) = match (walk(64), walk(128)) {
        (Ok(_), Err(Misfit::Cut { .. })) => (64, Evidence::Size),
        (Err(Misfit::Cut { .. }), Ok(_)) => (128, Evidence::Size),
        (Ok(_), Err(_)) => (64, Evidence::Offsets),
        (Err(_), Ok(_)) => (128, Evidence::Offsets),
        (Ok(ends_64), Ok(ends_128)) => {
            match (ends_64.explains(data.len(), alignment), ends_128.explains(data.len(), alignment)) {
                (true, false) => (64, Evidence::Size),
                (false, true) => (128, Evidence::Size),
                _ if only_zeros_left(tensors, &ends_64, &ends_128, data) => (128, Evidence::Padding),
                _ => (64, Evidence::Padding),
            }
        }
        (Err(a), Err(b)) => return Err(both(a, b, tensors)),
    };
    for tensor in tensors.iter_mut().filter(|t| t.kind.id() == 42) {
        tensor.kind = TensorType::Q2_0 { group };
    }
    Ok(Some(evidence))
}

/// The end of each tensor, before padding.
struct Ends(Vec<usize>);

impl Ends {
    /// Writers pad the last tensor or they do not; they add nothing else.
    fn explains(&self, data: usize, alignment: usize) -> bool {
        let end = self.0.last().copied().unwrap_or(0);
        data == end || end.checked_next_multiple_of(alignment) == Some(data)
    }
}

/// Are all bytes that groups of 64 would use, and groups of 128 would not, zero? Eight zero bits and more are
/// the code of -1 again and again: in true weights that does not happen tensor after tensor, in padding always.
fn only_zeros_left(tensors: &[TensorInfo], ends_64: &Ends, ends_128: &Ends, data: &Bytes) -> bool {
    let ternary = tensors.iter().zip(ends_64.0.iter().zip(&ends_128.0)).filter(|(t, _)| t.kind.id() == 42);
    let zeros = |piece: Bytes| piece.iter().all(|&byte| byte == 0);
    ternary.into_iter().all(|(_, (&long, &short))| zeros(data.slice(short.min(long)..long)))
}

/// One pass over the directory under the assumption that type 42 has this group.
struct Walk<'a> {
    tensors: &'a [TensorInfo],
    alignment: usize,
    group: usize,
}

enum Misfit {
    /// A tensor does not start where the one before it ends.
    Offset { tensor: usize, expected: usize },
    /// Its rows do not divide into blocks.
    Row { tensor: usize, group: usize },
    /// It ends behind the data (or behind what a number of bytes can be).
    Cut { tensor: usize, needed: Option<usize>, data: usize },
}

impl Walk<'_> {
    /// Offsets count before the size of the file: those of a file that is cut short still tell its layout.
    fn run(&self, data: usize) -> Result<Ends, Misfit> {
        let (mut at, mut ends) = (0usize, Vec::new());
        for (tensor, info) in self.tensors.iter().enumerate() {
            if info.offset != at {
                return Err(Misfit::Offset { tensor, expected: at });
            }
            let kind = if info.kind.id() == 42 { TensorType::Q2_0 { group: self.group } } else { info.kind };
            let group = kind.format().group();
            if !info.ne[0].is_multiple_of(group) {
                return Err(Misfit::Row { tensor, group });
            }
            let end = kind.bytes(&info.ne).and_then(|bytes| at.checked_add(bytes));
            let next = end.and_then(|end| end.checked_next_multiple_of(self.alignment));
            let (Some(end), Some(next)) = (end, next) else {
                return Err(Misfit::Cut { tensor, needed: end, data });
            };
            ends.push(end);
            at = next;
        }
        match ends.iter().position(|&end| end > data) {
            Some(tensor) => Err(Misfit::Cut { tensor, needed: Some(ends[tensor]), data }),
            None => Ok(Ends(ends)),
        }
    }
}

impl Misfit {
    fn sentence(&self, tensors: &[TensorInfo]) -> String {
        match *self {
            Self::Offset { tensor, expected } => format!(
                "tensor '{}' starts at byte {} of the data, expected {expected}: the file is damaged",
                tensors[tensor].name, tensors[tensor].offset
            ),
            Self::Row { tensor, group } => format!(
                "tensor '{}' has rows of {}, which do not divide into groups of {group}: the file is damaged",
                tensors[tensor].name, tensors[tensor].ne[0]
            ),
            Self::Cut { tensor, needed: Some(needed), data } => format!(
                "tensor '{}' ends at byte {needed} of the data, but the file has only {data}: it is cut short, \
                 fetch it again",
                tensors[tensor].name
            ),
            Self::Cut { tensor, needed: None, .. } => {
                format!(
                    "tensor '{}' would be larger than any file: the file is damaged",
                    tensors[tensor].name
                )
            }
        }
    }
}

/// The sentence for a file that fits neither group.
fn both(a: Misfit, b: Misfit, tensors: &[TensorInfo]) -> String {
    match (&a, &b) {
        (Misfit::Offset { tensor: i, expected: a }, Misfit::Offset { tensor: j, expected: b }) if i == j => {
            format!(
                "tensor '{}' starts at byte {} of the data, but with type 42 (Q2_0) in groups of 64 it would start \
                 at {a}, and in groups of 128 (PrismML's layout) at {b}: the file is damaged or uses a third \
                 layout",
                tensors[*i].name, tensors[*i].offset
            )
        }
        // Offsets that fit to the end are what the writer meant; otherwise those that fit longer.
        _ if b.progress() > a.progress() => b.sentence(tensors),
        _ => a.sentence(tensors),
    }
}

impl Misfit {
    fn progress(&self) -> (bool, usize) {
        match *self {
            Self::Cut { tensor, .. } => (true, tensor),
            Self::Offset { tensor, .. } | Self::Row { tensor, .. } => (false, tensor),
        }
    }
}
