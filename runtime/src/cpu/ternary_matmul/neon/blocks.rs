//! NEON: blocks of a file, in any packing, to codes in the four planes.
//!
//! A register holds a plane of a unit, so everything here is about 64 weights, the lower or the upper half of a group.
//! Where weights do not lie in the order of the planes, the bytes that hold them are looked up in that order first, and
//! then all codes of a register are brought to the front of their bytes at once: by shifts (TQ2_0), or by powers of 3
//! modulo 256 (`ternary/trits.rs`). Both tables are made from the packing's own description when this is compiled.

use std::arch::aarch64::*;

use bytemuck::{Pod, pod_read_unaligned};

use super::super::GROUP;
use crate::ternary::trits::{self, Stage};

/// The codes of unit `U` of a block. Its length tells the packing: 28 PTQ1_0, 34 Q2_0 and 36 two blocks of its groups of
/// 64, 54 TQ1_0, 66 TQ2_0.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn codes<const BLOCK: usize, const U: usize>(block: &[u8; BLOCK]) -> [int8x16_t; 4] {
    let planes = match (BLOCK, U) {
        (34, _) => two_bits(load(block, 2 + 16 * U)),
        (36, _) => two_bits(load(block, 2 + 18 * U)),
        (66, 0 | 2) => shifts(&block[16 * U..], &TQ2_0_LOWER),
        (66, _) => shifts(&block[16 * (U - 1)..], &TQ2_0_UPPER),
        (28, 0) => digits(block, &PTQ1_0_LOWER),
        (28, _) => digits(block, &PTQ1_0_UPPER),
        (_, 0) => digits(block, &TQ1_0_FIRST_LOWER),
        (_, 1) => digits(block, &TQ1_0_FIRST_UPPER),
        (_, 2) => digits(block, &TQ1_0_SECOND_LOWER),
        _ => digits(block, &TQ1_0_SECOND_UPPER),
    };
    bytemuck::cast(planes)
}

/// The scales of unit `U` of blocks of four rows.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn scales<const BLOCK: usize, const U: usize>(blocks: [&[u8; BLOCK]; 4]) -> float32x4_t {
    let at = match BLOCK {
        34 => 0,
        36 => 18 * U,
        _ => BLOCK - 2,
    };
    let bits = blocks.map(|block| u16::from_le(pod_read_unaligned(&block[at..at + 2])));
    vcvt_f32_f16(vreinterpret_f16_u16(vector(&bits)))
}

/// The four codes of each byte.
#[inline]
#[target_feature(enable = "neon")]
fn two_bits(codes: uint8x16_t) -> [uint8x16_t; 4] {
    let mask = vdupq_n_u8(3);
    [
        vandq_u8(codes, mask),
        vandq_u8(vshrq_n_u8::<2>(codes), mask),
        vandq_u8(vshrq_n_u8::<4>(codes), mask),
        vshrq_n_u8::<6>(codes),
    ]
}

/// Where the codes of a unit lie in a block, in the order of the planes.
struct Table<const N: usize> {
    /// First bytes of the registers that the block is loaded into.
    starts: [usize; N],
    /// Which byte of these registers holds each code.
    bytes: [[u8; 16]; 4],
    /// How it comes to the front of its byte: by which shift to the right, or times which power of 3.
    moves: [[u8; 16]; 4],
}

const TQ2_0_LOWER: Table<2> = Table::new(None, 0, [0, 16]);
const TQ2_0_UPPER: Table<2> = Table::new(None, 64, [0, 16]);
const PTQ1_0_LOWER: Table<1> = Table::new(Some(&trits::PTQ1_0), 0, [0]);
const PTQ1_0_UPPER: Table<2> = Table::new(Some(&trits::PTQ1_0), 64, [0, 12]);
const TQ1_0_FIRST_LOWER: Table<2> = Table::new(Some(&trits::TQ1_0), 0, [0, 16]);
const TQ1_0_FIRST_UPPER: Table<2> = Table::new(Some(&trits::TQ1_0), 64, [0, 16]);
const TQ1_0_SECOND_LOWER: Table<3> = Table::new(Some(&trits::TQ1_0), GROUP, [0, 16, 32]);
const TQ1_0_SECOND_UPPER: Table<2> = Table::new(Some(&trits::TQ1_0), GROUP + 64, [32, 36]);

impl<const N: usize> Table<N> {
    /// For the 64 weights from `first` on. Without stages: two bits a code, 32 apart.
    const fn new(stages: Option<&[Stage]>, first: usize, starts: [usize; N]) -> Self {
        let mut table = Self { starts, bytes: [[0; 16]; 4], moves: [[0; 16]; 4] };
        let mut n = 0;
        while n < 64 {
            let (byte, by) = match stages {
                Some(stages) => trits::place(stages, first + n),
                None => ((first + n) % 32, ((first + n) / 32 * 2) as u8),
            };
            let mut register = 0;
            while byte < starts[register] || byte >= starts[register] + 16 {
                register += 1;
            }
            table.bytes[n % 4][n / 4] = (16 * register + byte - starts[register]) as u8;
            table.moves[n % 4][n / 4] = by;
            n += 1;
        }
        table
    }
}

/// The bytes of a block that hold each code.
#[inline]
#[target_feature(enable = "neon")]
fn look_up<const N: usize>(block: &[u8], table: &Table<N>) -> [uint8x16_t; 4] {
    let mut registers = [vdupq_n_u8(0); 3];
    for (register, &start) in registers.iter_mut().zip(&table.starts) {
        *register = load(block, start);
    }
    let [a, b, c] = registers;
    let mut planes = [a; 4];
    for (plane, bytes) in planes.iter_mut().zip(&table.bytes) {
        let bytes = vector(bytes);
        *plane = match N {
            1 => vqtbl1q_u8(a, bytes),
            2 => vqtbl2q_u8(uint8x16x2_t(a, b), bytes),
            _ => vqtbl3q_u8(uint8x16x3_t(a, b, c), bytes),
        };
    }
    planes
}

/// Codes of two bits.
#[inline]
#[target_feature(enable = "neon")]
fn shifts<const N: usize>(block: &[u8], table: &Table<N>) -> [uint8x16_t; 4] {
    let mut planes = look_up(block, table);
    for (plane, moves) in planes.iter_mut().zip(&table.moves) {
        let left = vnegq_s8(vector(moves)); // there is no variable shift to the right
        *plane = vandq_u8(vshlq_u8(*plane, left), vdupq_n_u8(3));
    }
    planes
}

/// Codes in base 3: the first digit of `x`, a fraction of 256, is the whole part of `3 x / 256`. The average of x and
/// half of it, both rounded down, is three quarters of x, whose upper two bits they are.
#[inline]
#[target_feature(enable = "neon")]
fn digits<const N: usize>(block: &[u8], table: &Table<N>) -> [uint8x16_t; 4] {
    let mut planes = look_up(block, table);
    for (plane, moves) in planes.iter_mut().zip(&table.moves) {
        let x = vmulq_u8(*plane, vector(moves));
        *plane = vshrq_n_u8::<6>(vhaddq_u8(x, vshrq_n_u8::<1>(x)));
    }
    planes
}

/// 16 bytes of a slice from `at` on.
#[inline]
#[target_feature(enable = "neon")]
fn load(bytes: &[u8], at: usize) -> uint8x16_t {
    vector(&bytes[at..at + 16])
}

/// Numbers as a vector, from anywhere.
#[inline(always)]
pub(super) fn vector<T: Pod, V: Pod>(numbers: &[T]) -> V {
    pod_read_unaligned(bytemuck::cast_slice(numbers))
}
