//! Q2_0: an f16 scale, then 2-bit codes, for each group of 64 (mainline llama.cpp) or 128 (PrismML) weights.
//!
//! `d: f16 | qs[group / 4]`; weight j of a block is bits `2 * (j % 4)` of byte `j / 4`; its value is
//! `(code - 1) * d` (docs/formats.md). PQ2_0 (type 142) is the group of 128 under a name of its own.
//!
//! A reader takes code 3 as +2d, as llama.cpp does. It is not ternary, so [`unpack`] refuses it.

use half::f16;

use super::{CODES_PER_BYTE, TernaryMatrix, ZEROS, unpack_group};

/// Bytes of a block of `group` weights: 18 for 64, 34 for 128.
pub const fn block_bytes(group: usize) -> usize {
    2 + group / CODES_PER_BYTE
}

/// Writes the weights of `blocks` as f32.
pub fn decode(group: usize, blocks: &[u8], out: &mut [f32]) {
    for (block, out) in blocks.chunks_exact(block_bytes(group)).zip(out.chunks_exact_mut(group)) {
        unpack_group(&block[2..], scale(block).to_f32(), out);
    }
}

/// The scale of a block.
#[inline(always)]
pub fn scale(block: &[u8]) -> f16 {
    f16::from_le_bytes([block[0], block[1]])
}

/// Appends `matrix` as blocks of `group` weights, row by row: the same weights, bit for bit.
///
/// A matrix in larger groups gives its scale to several blocks; in smaller groups it fits only where the groups
/// that make up a block share a scale. The error is a sentence that says where they do not.
pub fn encode(matrix: &TernaryMatrix, group: usize, out: &mut Vec<u8>) -> Result<(), String> {
    if group == 0 || !group.is_multiple_of(8) || !matrix.cols.is_multiple_of(group) {
        return Err(format!("{} columns do not divide into groups of {group}", matrix.cols));
    }
    if !matrix.group.is_multiple_of(group) && !group.is_multiple_of(matrix.group) {
        return Err(format!("groups of {} do not become groups of {group}", matrix.group));
    }
    let start = out.len();
    out.reserve(matrix.rows * matrix.cols / group * block_bytes(group));
    for (block, codes) in matrix.codes.chunks_exact(group / CODES_PER_BYTE).enumerate() {
        match common_scale(matrix, block * group, group) {
            Some(scale) => {
                out.extend(scale.to_le_bytes());
                out.extend_from_slice(codes);
            }
            None => {
                out.truncate(start);
                let (row, col) = (block * group / matrix.cols, block * group % matrix.cols);
                return Err(format!(
                    "groups of {} have different scales in the {group} weights from row {row}, column {col} on, \
                     so groups of {group} cannot hold them: use groups of {}",
                    matrix.group, matrix.group
                ));
            }
        }
    }
    Ok(())
}

/// The one scale of the weights `first..first + group`, if there is one.
fn common_scale(matrix: &TernaryMatrix, first: usize, group: usize) -> Option<f16> {
    let scales = &matrix.scales[first / matrix.group..(first + group).div_ceil(matrix.group)];
    // Bits, so that what is packed is exactly what was there.
    scales.iter().all(|s| s.to_bits() == scales[0].to_bits()).then_some(scales[0])
}

/// Takes blocks apart again. The error says where a code is not ternary.
pub fn unpack(rows: usize, cols: usize, group: usize, blocks: &[u8]) -> Result<TernaryMatrix, String> {
    if group == 0 || !group.is_multiple_of(8) || !cols.is_multiple_of(group) {
        return Err(format!("{cols} columns do not divide into groups of {group}"));
    }
    let expected = rows * (cols / group) * block_bytes(group);
    if blocks.len() != expected {
        return Err(format!("{} bytes of blocks, expected {expected}", blocks.len()));
    }
    let (mut codes, mut scales) = (Vec::with_capacity(rows * cols / CODES_PER_BYTE), Vec::new());
    for (n, block) in blocks.chunks_exact(block_bytes(group)).enumerate() {
        scales.push(scale(block));
        codes.extend_from_slice(&block[2..]);
        if let Some(byte) = first_not_ternary(&block[2..]) {
            return Err(not_ternary(n * group + byte * CODES_PER_BYTE, cols));
        }
    }
    Ok(TernaryMatrix { rows, cols, group, codes, scales })
}

/// The first byte of codes that holds a 3.
#[inline(always)]
pub fn first_not_ternary(codes: &[u8]) -> Option<usize> {
    codes.iter().position(|&byte| byte & (byte >> 1) & ZEROS != 0)
}

/// The sentence for a matrix with a code 3 among four weights.
pub fn not_ternary(weight: usize, cols: usize) -> String {
    let (row, col) = (weight / cols, weight % cols);
    format!("a code 3, which is not ternary, in the four weights from row {row}, column {col} on")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ternary::ScaleRule;

    fn matrix(group: usize) -> TernaryMatrix {
        let w: Vec<f32> = (0..512).map(|i| ((i * 37 % 101) as f32 - 50.0) * (1 + i / 128) as f32).collect();
        TernaryMatrix::project(&w, 2, 256, group, ScaleRule::Absmean)
    }

    #[test]
    fn larger_groups_become_smaller_ones_and_back() {
        let whole = matrix(128);
        let (mut small, mut large) = (Vec::new(), Vec::new());
        encode(&whole, 64, &mut small).unwrap();
        let halves = unpack(2, 256, 64, &small).unwrap();
        assert_eq!(halves.to_f32(), whole.to_f32());
        encode(&halves, 128, &mut large).unwrap();
        assert_eq!(unpack(2, 256, 128, &large).unwrap(), whole);
    }

    #[test]
    fn smaller_groups_with_scales_of_their_own_are_refused() {
        let mut out = vec![7];
        let error = encode(&matrix(64), 128, &mut out).unwrap_err();
        assert!(error.contains("row 0, column 0") && error.contains("use groups of 64"), "{error}");
        assert_eq!(out, [7]);
        assert!(encode(&matrix(64), 96, &mut out).unwrap_err().contains("do not divide"));
    }

    #[test]
    fn code_3_decodes_as_twice_the_scale_and_is_not_ternary() {
        let mut blocks = Vec::new();
        encode(&TernaryMatrix::zeros(2, 64, 64), 64, &mut blocks).unwrap();
        blocks[18..20].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        blocks[18 + 2 + 3] |= 0b1100;
        let mut values = [0.0; 128];
        decode(64, &blocks, &mut values);
        assert_eq!(values[64 + 13], 1.0);
        let error = unpack(2, 64, 64, &blocks).unwrap_err();
        assert!(error.contains("row 1, column 12"), "{error}");
        assert!(unpack(2, 64, 64, &blocks[1..]).unwrap_err().contains("expected 36"));
    }
}
