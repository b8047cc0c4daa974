//! How the numbers that a run keeps are held: latent weights and optimizer state, each in the format that a setting names.

use std::borrow::Cow;

use bonsai_runtime::config::{Kind, TensorSpec};
use bonsai_runtime::tensor::{Format, StoredTensor};
use half::bf16;
use serde::{Deserialize, Serialize};

/// Numbers that share a scale in 8-bit optimizer state.
pub const BLOCK: usize = 128;

/// The setting `compute`: what matrix products with weights multiply. Sums are f32 in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// Factors as they are.
    #[default]
    F32,
    /// Factors rounded to bf16 (mixed precision): faster where the processor multiplies them itself.
    Bf16,
}

/// The setting `latents`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LatentFormat {
    /// 4 bytes a weight.
    #[default]
    F32,
    /// 2 bytes a weight of matrices, rounded stochastically after each update. Gains of norms stay f32.
    Bf16,
}

impl LatentFormat {
    /// The format that a tensor gets.
    pub fn of(self, spec: &TensorSpec) -> Self {
        if spec.kind == Kind::Norm { Self::F32 } else { self }
    }

    /// Latent weights of a tensor in this format, rounded to the nearest number.
    pub fn hold(self, spec: &TensorSpec, values: Vec<f32>) -> Latents {
        match self.of(spec) {
            Self::F32 => Latents::F32(values),
            Self::Bf16 => Latents::Bf16(values.into_iter().map(bf16::from_f32).collect()),
        }
    }

    /// Bytes of a weight.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// Latent weights on the host.
#[derive(Debug, Clone, PartialEq)]
pub enum Latents {
    /// As they are.
    F32(Vec<f32>),
    /// Their upper halves.
    Bf16(Vec<bf16>),
}

impl From<Vec<f32>> for Latents {
    fn from(values: Vec<f32>) -> Self {
        Self::F32(values)
    }
}

/// The number that a bf16 stands for. `bf16::to_f32` asks about not-a-numbers, which costs a loop its vectors.
#[inline(always)]
pub(crate) fn widened(value: bf16) -> f32 {
    f32::from_bits(u32::from(value.to_bits()) << 16)
}

impl Latents {
    /// A stored tensor without a loss: matrices in bf16 stay in it, everything else becomes f32.
    pub fn stored(spec: &TensorSpec, tensor: &StoredTensor) -> Self {
        match tensor.format {
            Format::Bf16 => LatentFormat::Bf16.hold(spec, tensor.to_f32()),
            _ => Self::F32(tensor.to_f32()),
        }
    }

    /// Number of weights.
    #[expect(clippy::len_without_is_empty, reason = "no tensor is empty")]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// All of them as f32.
    pub fn to_f32(&self) -> Cow<'_, [f32]> {
        match self {
            Self::F32(values) => Cow::Borrowed(values),
            Self::Bf16(values) => values.iter().copied().map(widened).collect(),
        }
    }

    /// The same, made of these.
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Self::F32(values) => values,
            Self::Bf16(values) => values.into_iter().map(widened).collect(),
        }
    }

    /// Every `stride`th of them.
    pub fn sample(&self, stride: usize) -> Vec<f32> {
        match self {
            Self::F32(values) => values.iter().step_by(stride).copied().collect(),
            Self::Bf16(values) => values.iter().step_by(stride).copied().map(widened).collect(),
        }
    }

    /// Their bytes, little-endian.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::F32(values) => bytemuck::cast_slice(values),
            Self::Bf16(values) => bytemuck::cast_slice(values),
        }
    }
}

/// The setting `optimizer_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum StateFormat {
    /// 4 bytes a number.
    #[default]
    #[serde(rename = "f32")]
    F32,
    /// A byte a number and a scale for each [`BLOCK`], for matrices. State of norms stays f32.
    #[serde(rename = "8bit")]
    Bits8,
}

/// How one moment of one tensor is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MomentFormat {
    /// Numbers as they are.
    F32,
    /// Signed 8-bit floats: AdamW's first moment, Muon's momentum.
    Signed8,
    /// 8-bit floats that are never negative: AdamW's second moment.
    Positive8,
}

impl MomentFormat {
    /// f32 numbers beside the codes, for `len` numbers: themselves, or scales.
    pub fn floats(self, len: usize) -> usize {
        if self == Self::F32 { len } else { len.div_ceil(BLOCK) }
    }

    /// Codes, a byte each.
    pub fn codes(self, len: usize) -> usize {
        if self == Self::F32 { 0 } else { len }
    }

    /// Bytes of `len` numbers.
    pub fn bytes(self, len: usize) -> usize {
        4 * self.floats(len) + self.codes(len)
    }
}

/// One moment of one tensor on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment<'a> {
    /// The numbers, or the scale of each block.
    pub floats: Cow<'a, [f32]>,
    /// Codes in blocks of [`BLOCK`]; none where the numbers stand for themselves.
    pub codes: Cow<'a, [u8]>,
}
