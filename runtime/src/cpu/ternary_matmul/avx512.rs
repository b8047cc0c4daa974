//! AVX-512 with VNNI. One token (decode): eight rows at once, two to a register, unpacked straight from the file's blocks. Many
//! tokens (prefill): a tile of sixteen rows, the lanes of a register, is unpacked once into the first-level cache and used for
//! all tokens, eight at a time.
//!
//! Vector instructions for 128 weights and one token: 2.7 in prefill, of which 2 multiply bytes; 9 in decode, which waits for
//! memory.

mod many_tokens;
mod one_token;
pub(super) mod vbmi;

use super::tile::many_tokens;
use super::{Activations, Rows};
use crate::ternary::Packing;
use many_tokens::{TOKENS, tile_products};
use one_token::one_token;

/// Rows that one token meets together.
const ROWS: usize = 8;

/// See [`super::rows`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn rows(out: &mut [f32], weights: Rows, x: Activations) {
    match weights.packing {
        Packing::Q2_0 => packed_rows::<34>(out, weights, x),
        Packing::Q2_0G64 => packed_rows::<36>(out, weights, x),
        Packing::Tq2_0 => packed_rows::<66>(out, weights, x),
        Packing::Ptq1_0 => packed_rows::<28>(out, weights, x),
        Packing::Tq1_0 => packed_rows::<54>(out, weights, x),
    }
}

/// `BLOCK` bytes hold 128 weights (one block, or two of 64) or 256; each packing has a length of its own.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn packed_rows<const BLOCK: usize>(out: &mut [f32], weights: Rows, x: Activations) {
    match x.tokens() {
        1 => one_token::<BLOCK>(out, weights, x),
        #[expect(unsafe_code, reason = "the loop takes kernels of any level")]
        // SAFETY: this function is compiled for the same instructions.
        _ => unsafe { many_tokens::<BLOCK>(out, weights, x, tile_products, TOKENS) },
    }
}
