//! Base 3: five codes in a byte, as llama.cpp's TQ1_0 and PrismML's PTQ1_0 have them.
//!
//! The codes t0..t4 of a byte make the number `q = 81 t0 + 27 t1 + 9 t2 + 3 t3 + t4` (at most 242), stored as
//! `ceil(256 q / 243)`: a fraction of 256 whose digits in base 3 are the codes. So code n is the whole part of three
//! times the fraction that is left after n digits: `(byte * 3^n mod 256) * 3 / 256`, without a division.

/// Where codes lie: stages of `width` bytes from `at` on with `count` codes in each byte. Weights go through the
/// stages; in a stage through code 0 of every byte, then code 1 of every byte, and so on.
pub(crate) struct Stage {
    at: usize,
    width: usize,
    count: u32,
}

/// 128 weights: 16 and 8 bytes of five, two of four.
pub(crate) const PTQ1_0: [Stage; 3] = [
    Stage { at: 0, width: 16, count: 5 },
    Stage { at: 16, width: 8, count: 5 },
    Stage { at: 24, width: 2, count: 4 },
];

/// 256 weights: 32 and 16 bytes of five, four of four.
pub(crate) const TQ1_0: [Stage; 3] = [
    Stage { at: 0, width: 32, count: 5 },
    Stage { at: 32, width: 16, count: 5 },
    Stage { at: 48, width: 4, count: 4 },
];

/// Writes the codes of `bytes` in the order of the weights.
pub(super) fn unpack(stages: &[Stage], bytes: &[u8], codes: &mut [u8]) {
    let mut codes = codes.iter_mut();
    for stage in stages {
        for n in 0..stage.count {
            for (byte, code) in bytes[stage.at..stage.at + stage.width].iter().zip(&mut codes) {
                *code = code_of(*byte, n);
            }
        }
    }
}

/// The reverse. Codes must be below 3.
pub(super) fn pack(stages: &[Stage], codes: &[u8], bytes: &mut [u8]) {
    let mut first = 0;
    for stage in stages {
        for (m, byte) in bytes[stage.at..stage.at + stage.width].iter_mut().enumerate() {
            let code = |n: u32| if n < stage.count { codes[first + m + n as usize * stage.width] } else { 0 };
            let q = (0..5).fold(0u32, |q, n| 3 * q + u32::from(code(n)));
            *byte = (256 * q).div_ceil(243) as u8;
        }
        first += stage.width * stage.count as usize;
    }
}

/// The byte that holds the code of a weight, and the power of 3 that makes it the first digit of this byte.
#[cfg(target_arch = "aarch64")]
pub(crate) const fn place(stages: &[Stage], mut weight: usize) -> (usize, u8) {
    let mut n = 0;
    loop {
        let Stage { at, width, count } = stages[n];
        if weight < width * count as usize {
            return (at + weight % width, 3u8.pow((weight / width) as u32));
        }
        weight -= width * count as usize;
        n += 1;
    }
}

/// Code `n` of a byte.
pub(crate) const fn code_of(byte: u8, n: u32) -> u8 {
    let left = byte.wrapping_mul(3u8.wrapping_pow(n));
    ((left as u16 * 3) >> 8) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_five_codes_come_back_and_no_byte_holds_a_code_above_2() {
        let stage = [Stage { at: 0, width: 1, count: 5 }];
        for q in 0..243u32 {
            let codes: [u8; 5] = std::array::from_fn(|n| (q / 3u32.pow(4 - n as u32) % 3) as u8);
            let (mut byte, mut again) = ([0], [9; 5]);
            pack(&stage, &codes, &mut byte);
            unpack(&stage, &byte, &mut again);
            assert_eq!(again, codes);
        }
        assert!((0..=255).all(|byte| (0..5).all(|n| code_of(byte, n) < 3)));
    }
}
