//! Blocks of quantised weights as ggml writes them: read only, for checkpoints that others have made smaller.
//!
//! ```text
//! Q4_0  32 weights, 18 bytes   d f16, qs [16]                                w = d (q - 8)
//! Q4_1  32 weights, 20 bytes   d f16, m f16, qs [16]                         w = d q + m
//! Q5_0  32 weights, 22 bytes   d f16, qh [4], qs [16]                        w = d (q - 16)
//! Q5_1  32 weights, 24 bytes   d f16, m f16, qh [4], qs [16]                 w = d q + m
//! Q8_0  32 weights, 34 bytes   d f16, qs [32] i8                             w = d q
//! Q4_K 256 weights, 144 bytes  d f16, m f16, scales [12], qs [128]           w = d scale q - m min
//! Q5_K 256 weights, 176 bytes  d f16, m f16, scales [12], qh [32], qs [128]  w = d scale q - m min
//! Q6_K 256 weights, 210 bytes  ql [128], qh [64], scales [16] i8, d f16      w = d scale (q - 32)
//! ```
//!
//! Without a K, the low nibble of byte j of `qs` is weight j, the high one weight j + 16, and bit j of `qh` is on top of weight
//! j. Every product of `d` with integers but the last one of Q6_K is exact in f32, and a sum is rounded once, so all programs
//! that decode these blocks agree to the bit.

use half::f16;

/// A kind of block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quantized {
    /// 4 bits and a scale.
    Q4_0,
    /// 4 bits, a scale and a minimum.
    Q4_1,
    /// 5 bits and a scale.
    Q5_0,
    /// 5 bits, a scale and a minimum.
    Q5_1,
    /// 8 bits and a scale.
    Q8_0,
    /// 4 bits, a scale and a minimum for 32 weights, which have both for 256.
    Q4K,
    /// The same with 5 bits.
    Q5K,
    /// 6 bits and a scale for 16 weights, which has a scale for 256.
    Q6K,
}

impl Quantized {
    /// Every kind.
    pub const ALL: [Self; 8] =
        [Self::Q4_0, Self::Q4_1, Self::Q5_0, Self::Q5_1, Self::Q8_0, Self::Q4K, Self::Q5K, Self::Q6K];

    /// ggml's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// ggml's number.
    pub fn id(self) -> u32 {
        match self {
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
        }
    }

    /// Weights of a block.
    pub fn group(self) -> usize {
        if matches!(self, Self::Q4K | Self::Q5K | Self::Q6K) { 256 } else { 32 }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
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
                    nibbles(&block[2..], 0, out, |q| d * (q - 8.0));
                }
                Self::Q4_1 => {
                    let (d, m) = (half_at(block, 0), half_at(block, 2));
                    nibbles(&block[4..], 0, out, |q| d * q + m);
                }
                Self::Q5_0 => {
                    let d = half_at(block, 0);
                    nibbles(&block[6..], word_at(block, 2), out, |q| d * (q - 16.0));
                }
                Self::Q5_1 => {
                    let (d, m) = (half_at(block, 0), half_at(block, 2));
                    nibbles(&block[8..], word_at(block, 4), out, |q| d * q + m);
                }
                Self::Q8_0 => {
                    let d = half_at(block, 0);
                    out.iter_mut().zip(&block[2..]).for_each(|(w, &q)| *w = d * f32::from(q.cast_signed()));
                }
                Self::Q4K => q4_k(block, &[0; 32], &block[16..], out),
                Self::Q5K => q4_k(block, &block[16..48], &block[48..], out),
                Self::Q6K => q6_k(block, out),
            }
        }
    }
}

/// The f16 at byte `at`.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The 32 bits from byte `at` on.
fn word_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// Low nibbles to the first half of `out`, high ones to the second, each with a bit of `qh` on top.
fn nibbles(qs: &[u8], qh: u32, out: &mut [f32], weight: impl Fn(f32) -> f32) {
    for (j, w) in out.iter_mut().enumerate() {
        let low = u32::from(qs[j % 16]) >> (j / 16 * 4) & 15;
        *w = weight((low | (qh >> j & 1) << 4) as f32);
    }
}

/// Q4_K, and Q5_K, which has bits n of `qh` on top of the nibbles. Parts of 32 weights; parts 2n and 2n + 1 are the low and the high
/// nibbles of the same bytes.
fn q4_k(block: &[u8], qh: &[u8], qs: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (n, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], n);
        let (d, m, qs) = (d * f32::from(scale), m * f32::from(min), &qs[n / 2 * 32..]);
        for (w, (q, qh)) in out.iter_mut().zip(qs.iter().zip(qh)) {
            *w = d * f32::from(q >> (n % 2 * 4) & 15 | (qh >> n & 1) << 4) - m;
        }
    }
}

/// Six bits each of part `n`: the first four parts have bytes of their own, of whose upper two bits the others take their
/// upper two.
fn scale_and_min(scales: &[u8], n: usize) -> (u8, u8) {
    if n < 4 {
        return (scales[n] & 63, scales[n + 4] & 63);
    }
    let both = scales[n + 4];
    (both & 15 | scales[n - 4] >> 6 << 4, both >> 4 | scales[n] >> 6 << 4)
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

    /// d = 0.5, m = -1; bit j is set for weights 3 and 16.
    #[test]
    fn a_fifth_bit_lies_on_top() {
        let [d, m] = [0.5, -1.0].map(|x| f16::from_f32(x).to_le_bytes());
        let (qh, qs) = ((1u32 << 3 | 1 << 16).to_le_bytes(), [0x21; 16]);
        let q5_0 = decoded(Quantized::Q5_0, &[&d[..], &qh, &qs].concat());
        assert_eq!((q5_0[2], q5_0[3], q5_0[16], q5_0[17]), (-7.5, 0.5, 1.0, -7.0));
        let q5_1 = decoded(Quantized::Q5_1, &[&d[..], &m, &qh, &qs].concat());
        assert_eq!((q5_1[2], q5_1[3], q5_1[16], q5_1[17]), (-0.5, 7.5, 8.0, 0.0));
    }

    /// d = 1, m = 2. Of part 1 the scale is 5 and the minimum 9, of part 6 they are 0b10_0011 = 35 and 0b01_0100 = 20.
    #[test]
    fn six_bits_of_scales_and_minima_come_from_two_places() {
        let mut block = vec![0; 176];
        block[..2].copy_from_slice(&f16::ONE.to_le_bytes());
        block[2..4].copy_from_slice(&f16::from_f32(2.0).to_le_bytes());
        (block[4 + 1], block[4 + 5]) = (5, 9);
        (block[4 + 2], block[4 + 6], block[4 + 10]) = (0b10 << 6, 0b01 << 6, 0b0100 << 4 | 0b0011);
        block[16 + 3] = 1 << 6; // weight 3 of part 6
        (block[48 + 3], block[48 + 96 + 3]) = (7 << 4, 4); // of part 1, and of part 6
        let w = decoded(Quantized::Q5K, &block);
        assert_eq!((w[32], w[32 + 3]), (-18.0, 5.0 * 7.0 - 18.0));
        assert_eq!((w[192], w[192 + 3], w[224]), (-40.0, 35.0 * 20.0 - 40.0, 0.0));
        block.drain(16..48);
        let w = decoded(Quantized::Q4K, &block);
        assert_eq!((w[32 + 3], w[192 + 3]), (5.0 * 7.0 - 18.0, 35.0 * 4.0 - 40.0));
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
