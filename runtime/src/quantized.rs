//! Blocks of quantised weights as ggml writes them: read only, for checkpoints that others have made smaller.
//!
//! ```text
//! Q4_0  32 weights, 18 bytes   d f16, qs [16]                                w = d (q - 8)
//! Q4_1  32 weights, 20 bytes   d f16, m f16, qs [16]                         w = d q + m
//! Q8_0  32 weights, 34 bytes   d f16, qs [32] i8                             w = d q
//! Q6_K 256 weights, 210 bytes  ql [128], qh [64], scales [16] i8, d f16      w = d scale (q - 32)
//! ```
//!
//! The low nibble of byte j of `qs` is weight j, the high one weight j + 16. Every product of `d` with an integer but the
//! last one of Q6_K is exact in f32, so all programs that decode these blocks agree to the bit.

use half::f16;

/// A kind of block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quantized {
    /// 4 bits and a scale.
    Q4_0,
    /// 4 bits, a scale and a minimum.
    Q4_1,
    /// 8 bits and a scale.
    Q8_0,
    /// 6 bits and a scale for 16 weights, which has a scale for 256.
    Q6K,
}

impl Quantized {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Q4_0, Self::Q4_1, Self::Q8_0, Self::Q6K];

    /// ggml's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q8_0 => "Q8_0",
            Self::Q6K => "Q6_K",
        }
    }

    /// ggml's number.
    pub fn id(self) -> u32 {
        match self {
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 8,
            Self::Q6K => 14,
        }
    }

    /// Weights of a block.
    pub fn group(self) -> usize {
        if self == Self::Q6K { 256 } else { 32 }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q8_0 => 34,
            Self::Q6K => 210,
        }
    }

    /// Bytes of a row of `cols` weights; `None` when it does not divide into blocks or nothing is that big.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.group()) {
            return None;
        }
        (cols / self.group()).checked_mul(self.block_bytes())
    }

    /// Writes the weights of whole blocks. `out` must have [`group`](Self::group) values for each.
    pub fn decode(self, blocks: &[u8], out: &mut [f32]) {
        assert_eq!(blocks.len() / self.block_bytes() * self.group(), out.len(), "blocks of {}", self.name());
        let blocks = blocks.chunks_exact(self.block_bytes());
        for (block, out) in blocks.zip(out.chunks_exact_mut(self.group())) {
            match self {
                Self::Q4_0 => {
                    let d = half_at(block, 0);
                    nibbles(&block[2..], out, |q| d * (q - 8.0));
                }
                Self::Q4_1 => {
                    let (d, m) = (half_at(block, 0), half_at(block, 2));
                    nibbles(&block[4..], out, |q| d * q + m);
                }
                Self::Q8_0 => {
                    let d = half_at(block, 0);
                    out.iter_mut().zip(&block[2..]).for_each(|(w, &q)| *w = d * f32::from(q.cast_signed()));
                }
                Self::Q6K => q6_k(block, out),
            }
        }
    }
}

/// The f16 at byte `at`.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Low nibbles to the first half of `out`, high ones to the second.
fn nibbles(qs: &[u8], out: &mut [f32], weight: impl Fn(f32) -> f32) {
    let (low, high) = out.split_at_mut(qs.len());
    for ((low, high), &q) in low.iter_mut().zip(high).zip(qs) {
        (*low, *high) = (weight(f32::from(q & 15)), weight(f32::from(q >> 4)));
    }
}

/// Two halves of 128 weights, each four quarters of 32. Quarter n takes bits 2n and 2n + 1 of `qh` on top of a nibble of `ql`:
/// the first two the low nibbles, the others the high ones.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let (ql, rest) = block.split_at(128);
    let (qh, rest) = rest.split_at(64);
    let d = half_at(rest, 16);
    for (half, out) in out.chunks_exact_mut(128).enumerate() {
        let (ql, qh, scales) = (&ql[64 * half..], &qh[32 * half..], &rest[8 * half..]);
        for (i, w) in out.iter_mut().enumerate() {
            let (quarter, j) = (i / 32, i % 32);
            let low = (ql[32 * (quarter % 2) + j] >> (4 * (quarter / 2))) & 15;
            let high = (qh[j] >> (2 * quarter)) & 3;
            let q = f32::from(low | high << 4) - 32.0;
            *w = d * f32::from(scales[i / 16].cast_signed()) * q;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(kind: Quantized, block: &[u8]) -> Vec<f32> {
        let mut out = vec![0.0; kind.group()];
        kind.decode(block, &mut out);
        out
    }

    /// d = 0.5, m = -1.
    #[test]
    fn nibbles_lie_half_a_block_apart() {
        let d = f16::from_f32(0.5).to_le_bytes();
        let m = f16::from_f32(-1.0).to_le_bytes();
        let qs: Vec<u8> = (0..16).map(|j| j | (15 - j) << 4).collect();
        let q4_0 = decoded(Quantized::Q4_0, &[&d[..], &qs].concat());
        assert_eq!((q4_0[0], q4_0[15], q4_0[16], q4_0[31]), (-4.0, 3.5, 3.5, -4.0));
        let q4_1 = decoded(Quantized::Q4_1, &[&d[..], &m, &qs].concat());
        assert_eq!((q4_1[0], q4_1[3], q4_1[16], q4_1[31]), (-1.0, 0.5, 6.5, -1.0));
    }

    #[test]
    fn bytes_are_signed() {
        let qs: Vec<u8> = (0..32).map(|j| if j == 0 { 128 } else { j }).collect();
        let q8_0 = decoded(Quantized::Q8_0, &[&f16::from_f32(0.25).to_le_bytes()[..], &qs].concat());
        assert_eq!((q8_0[0], q8_0[1], q8_0[31]), (-32.0, 0.25, 7.75));
    }

    /// Scale n is n - 8, d = 1; the six bits of weight 128 + 64 + 5 are 0b10_1101 = 45.
    #[test]
    fn six_bits_come_from_two_places() {
        let mut block = [0; 210];
        block[64 + 5] = 0b1101 << 4; // second half, third quarter: the high nibble of byte 5
        block[128 + 32 + 5] = 0b10 << 4;
        (0..16).for_each(|n| block[192 + n] = (n as i8 - 8).cast_unsigned());
        block[208..].copy_from_slice(&f16::ONE.to_le_bytes());
        let w = decoded(Quantized::Q6K, &block);
        assert_eq!(w[197], 4.0 * 13.0); // scale 12 of 16
        assert_eq!((w[0], w[255]), (-8.0 * -32.0, 7.0 * -32.0));
    }

    #[test]
    fn a_row_is_whole_blocks() {
        assert_eq!(Quantized::Q4_1.row_bytes(576), Some(360));
        assert_eq!(Quantized::Q6K.row_bytes(576), None);
        assert_eq!(Quantized::Q8_0.row_bytes(usize::MAX - 31), None);
    }
}
