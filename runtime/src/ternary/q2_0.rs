//! Q2_0: an f16 scale, then 2-bit codes, for each group of 64 (mainline llama.cpp) or 128 (PrismML) weights.
//!
//! `d: f16 | qs[group / 4]`; weight j of a block is bits `2 * (j % 4)` of byte `j / 4`; its value is
//! `(code - 1) * d` (formats.md section 1.3). PQ2_0 (type 142) is the group of 128 under a name of its own.

use half::f16;

use super::{CODES_PER_BYTE, unpack_group};

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
