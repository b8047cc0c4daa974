//! How ternary codes are packed into blocks in a file: one f16 scale for a run of weights, and their codes.
//!
//! | packing | weights a block | bytes | bits a weight | layout |
//! | --- | --- | --- | --- | --- |
//! | Q2_0, groups of 64 (mainline llama.cpp) | 64 | 18 | 2.25 | `d: f16, qs: [u8; 16]` |
//! | Q2_0, groups of 128 (PrismML; also PQ2_0) | 128 | 34 | 2.125 | `d: f16, qs: [u8; 32]` |
//! | TQ2_0 (llama.cpp) | 256 | 66 | 2.0625 | `qs: [u8; 64], d: f16` |
//! | PTQ1_0 (PrismML) | 128 | 28 | 1.75 | `qs: [u8; 24], qh: [u8; 2], d: f16` |
//! | TQ1_0 (llama.cpp) | 256 | 54 | 1.6875 | `qs: [u8; 48], qh: [u8; 4], d: f16` |
//!
//! Weight = `(code - 1) * d`. Q2_0 has weight j in bits `2 * (j % 4)` of byte `j / 4`; TQ2_0 has weights m, m + 32,
//! m + 64, m + 96 of each 128 in byte m; the other two are base 3 (see [`trits`]). A 2-bit reader takes code 3 as +2d,
//! as llama.cpp does. It is not ternary, so [`Packing::unpack`] refuses it (docs/formats.md).

use half::f16;

use super::{CODES_PER_BYTE, TernaryMatrix, trits, unpack_group};

/// A packing of ternary weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Two bits a code, in order, in groups of 64 weights.
    Q2_0G64,
    /// Two bits a code, in order, in groups of 128 weights.
    Q2_0,
    /// Two bits a code, 32 apart, in groups of 256 weights.
    Tq2_0,
    /// Five codes a byte, in groups of 128 weights.
    Ptq1_0,
    /// Five codes a byte, in groups of 256 weights.
    Tq1_0,
}

/// Most weights of a block.
pub const MAX_GROUP: usize = 256;

impl Packing {
    /// Every packing.
    pub const ALL: [Self; 5] = [Self::Q2_0G64, Self::Q2_0, Self::Tq2_0, Self::Ptq1_0, Self::Tq1_0];

    /// Weights of a block, which share its scale.
    pub const fn group(self) -> usize {
        match self {
            Self::Q2_0G64 => 64,
            Self::Q2_0 | Self::Ptq1_0 => 128,
            Self::Tq2_0 | Self::Tq1_0 => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Q2_0G64 => 18,
            Self::Q2_0 => 34,
            Self::Tq2_0 => 66,
            Self::Ptq1_0 => 28,
            Self::Tq1_0 => 54,
        }
    }

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q2_0G64 => "Q2_0 (group 64)",
            Self::Q2_0 => "Q2_0 (group 128)",
            Self::Tq2_0 => "TQ2_0",
            Self::Ptq1_0 => "PTQ1_0",
            Self::Tq1_0 => "TQ1_0",
        }
    }

    /// Bytes of a row of `cols` weights; `None` when they do not divide into blocks.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        cols.is_multiple_of(self.group()).then_some(cols / self.group() * self.block_bytes()) // fewer than weights
    }

    /// The scale of a block.
    #[inline(always)]
    pub fn scale(self, block: &[u8]) -> f16 {
        let at = match self {
            Self::Q2_0G64 | Self::Q2_0 => 0,
            Self::Tq2_0 | Self::Ptq1_0 | Self::Tq1_0 => self.block_bytes() - 2,
        };
        f16::from_le_bytes([block[at], block[at + 1]])
    }

    /// Writes the codes of a block one to a byte, in the order of the weights. `codes.len() == self.group()`.
    pub fn read_codes(self, block: &[u8], codes: &mut [u8]) {
        match self {
            Self::Q2_0G64 | Self::Q2_0 => {
                for (four, &byte) in codes.as_chunks_mut::<CODES_PER_BYTE>().0.iter_mut().zip(&block[2..]) {
                    *four = std::array::from_fn(|k| byte >> (2 * k) & 3);
                }
            }
            Self::Tq2_0 => {
                for (half, bytes) in codes.chunks_exact_mut(128).zip(block.chunks_exact(32)) {
                    for (n, codes) in half.chunks_exact_mut(32).enumerate() {
                        codes.iter_mut().zip(bytes).for_each(|(code, byte)| *code = byte >> (2 * n) & 3);
                    }
                }
            }
            Self::Ptq1_0 => trits::unpack(&trits::PTQ1_0, block, codes),
            Self::Tq1_0 => trits::unpack(&trits::TQ1_0, block, codes),
        }
    }

    /// Appends a block of codes, one to a byte, all below 3.
    fn write_block(self, codes: &[u8], scale: f16, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + self.block_bytes(), 0);
        let block = &mut out[start..];
        let (bytes, at) = match self {
            Self::Q2_0G64 | Self::Q2_0 => (2..self.block_bytes(), 0),
            _ => (0..self.block_bytes() - 2, self.block_bytes() - 2),
        };
        block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        let bytes = &mut block[bytes];
        match self {
            Self::Q2_0G64 | Self::Q2_0 => {
                for (byte, four) in bytes.iter_mut().zip(codes.as_chunks::<CODES_PER_BYTE>().0) {
                    *byte = four.iter().rev().fold(0, |byte, code| byte << 2 | code);
                }
            }
            Self::Tq2_0 => {
                for (bytes, half) in bytes.chunks_exact_mut(32).zip(codes.chunks_exact(128)) {
                    for (m, byte) in bytes.iter_mut().enumerate() {
                        *byte = (0..4).rev().fold(0, |byte, n| byte << 2 | half[m + 32 * n]);
                    }
                }
            }
            Self::Ptq1_0 => trits::pack(&trits::PTQ1_0, codes, bytes),
            Self::Tq1_0 => trits::pack(&trits::TQ1_0, codes, bytes),
        }
    }

    /// Writes the weights of `blocks` as f32.
    pub fn decode(self, blocks: &[u8], out: &mut [f32]) {
        let blocks = blocks.chunks_exact(self.block_bytes());
        for (block, out) in blocks.zip(out.chunks_exact_mut(self.group())) {
            let scale = self.scale(block).to_f32();
            match self {
                Self::Q2_0G64 | Self::Q2_0 => unpack_group(&block[2..], scale, out),
                _ => {
                    let mut codes = [0; MAX_GROUP];
                    self.read_codes(block, &mut codes[..self.group()]);
                    out.iter_mut().zip(codes).for_each(|(w, code)| *w = (f32::from(code) - 1.0) * scale);
                }
            }
        }
    }

    /// Appends `matrix` as blocks, row by row: the same weights, bit for bit.
    ///
    /// A matrix in larger groups gives its scale to several blocks; in smaller groups it fits only where the groups
    /// that make up a block share a scale. The error is a sentence that says where they do not.
    pub fn encode(self, matrix: &TernaryMatrix, out: &mut Vec<u8>) -> Result<(), String> {
        let group = self.group();
        if !matrix.cols.is_multiple_of(group) {
            return Err(format!("{} columns do not divide into groups of {group}", matrix.cols));
        }
        if !matrix.group.is_multiple_of(group) && !group.is_multiple_of(matrix.group) {
            return Err(format!("groups of {} do not become groups of {group}", matrix.group));
        }
        let start = out.len();
        out.reserve(matrix.rows * matrix.cols / group * self.block_bytes());
        let mut codes = [0; MAX_GROUP];
        for (block, packed) in matrix.codes.chunks_exact(group / CODES_PER_BYTE).enumerate() {
            let Some(scale) = common_scale(matrix, block * group, group) else {
                out.truncate(start);
                let (row, col) = (block * group / matrix.cols, block * group % matrix.cols);
                return Err(format!(
                    "groups of {} have different scales in the {group} weights from row {row}, column {col} on, \
                     so groups of {group} cannot hold them: use groups of {}",
                    matrix.group, matrix.group
                ));
            };
            for (four, byte) in codes.as_chunks_mut::<CODES_PER_BYTE>().0.iter_mut().zip(packed) {
                *four = std::array::from_fn(|k| byte >> (2 * k) & 3);
            }
            self.write_block(&codes[..group], scale, out);
        }
        Ok(())
    }

    /// Takes blocks apart again. The error says where a code is not ternary.
    pub fn unpack(self, rows: usize, cols: usize, blocks: &[u8]) -> Result<TernaryMatrix, String> {
        let group = self.group();
        let row_bytes = self
            .row_bytes(cols)
            .ok_or_else(|| format!("{cols} columns do not divide into groups of {group}"))?;
        if blocks.len() != rows * row_bytes {
            return Err(format!("{} bytes of blocks, expected {}", blocks.len(), rows * row_bytes));
        }
        let mut matrix = TernaryMatrix::zeros(rows, cols, group);
        let mut codes = [0; MAX_GROUP];
        let packed = matrix.codes.chunks_exact_mut(group / CODES_PER_BYTE);
        let blocks = blocks.chunks_exact(self.block_bytes());
        for (n, ((block, packed), scale)) in blocks.zip(packed).zip(&mut matrix.scales).enumerate() {
            *scale = self.scale(block);
            let codes = &mut codes[..group];
            self.read_codes(block, codes);
            if let Some(bad) = codes.iter().position(|&code| code > 2) {
                let weight = n * group + bad;
                let (row, col) = (weight / cols, weight % cols);
                return Err(format!("a code 3, which is not ternary, in row {row}, column {col}"));
            }
            for (byte, four) in packed.iter_mut().zip(codes.as_chunks::<CODES_PER_BYTE>().0) {
                *byte = four.iter().rev().fold(0, |byte, code| byte << 2 | code);
            }
        }
        Ok(matrix)
    }
}

/// The one scale of the weights `first..first + group`, if there is one.
fn common_scale(matrix: &TernaryMatrix, first: usize, group: usize) -> Option<f16> {
    let scales = &matrix.scales[first / matrix.group..(first + group).div_ceil(matrix.group)];
    // Bits, so that what is packed is exactly what was there.
    scales.iter().all(|s| s.to_bits() == scales[0].to_bits()).then_some(scales[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ternary::ScaleRule;

    fn matrix(group: usize) -> TernaryMatrix {
        let w: Vec<f32> = (0..512).map(|i| ((i * 37 % 101) as f32 - 50.0) * (1 + i / 256) as f32).collect();
        TernaryMatrix::project(&w, 2, 256, group, ScaleRule::Absmean)
    }

    #[test]
    fn larger_groups_become_smaller_ones_and_back() {
        let whole = matrix(256);
        for small in Packing::ALL {
            let (mut blocks, mut again) = (Vec::new(), Vec::new());
            small.encode(&whole, &mut blocks).unwrap();
            assert_eq!(blocks.len(), 2 * small.row_bytes(256).unwrap());
            let parts = small.unpack(2, 256, &blocks).unwrap();
            assert_eq!(parts.to_f32(), whole.to_f32());
            let mut decoded = vec![0.0; 512];
            small.decode(&blocks, &mut decoded);
            assert_eq!(decoded, whole.to_f32());
            Packing::Tq2_0.encode(&parts, &mut again).unwrap();
            assert_eq!(Packing::Tq2_0.unpack(2, 256, &again).unwrap(), whole);
        }
    }

    #[test]
    fn smaller_groups_with_scales_of_their_own_are_refused() {
        let mut out = vec![7];
        let error = Packing::Q2_0.encode(&matrix(64), &mut out).unwrap_err();
        assert!(error.contains("row 0, column 0") && error.contains("use groups of 64"), "{error}");
        assert_eq!(out, [7]);
        let odd = TernaryMatrix::zeros(1, 192, 64);
        assert!(Packing::Q2_0.encode(&odd, &mut out).unwrap_err().contains("do not divide"));
    }

    #[test]
    fn code_3_decodes_as_twice_the_scale_and_is_not_ternary() {
        let mut blocks = Vec::new();
        Packing::Q2_0G64.encode(&TernaryMatrix::zeros(2, 64, 64), &mut blocks).unwrap();
        blocks[18..20].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        blocks[18 + 2 + 3] |= 0b1100;
        let mut values = [0.0; 128];
        Packing::Q2_0G64.decode(&blocks, &mut values);
        assert_eq!(values[64 + 13], 1.0);
        let error = Packing::Q2_0G64.unpack(2, 64, &blocks).unwrap_err();
        assert!(error.contains("row 1, column 13"), "{error}");
        assert!(Packing::Q2_0G64.unpack(2, 64, &blocks[1..]).unwrap_err().contains("expected 36"));
    }
}
