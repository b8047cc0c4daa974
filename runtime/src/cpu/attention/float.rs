//! A tile of f32 or f16.

use super::kernels::{add_values, dots, unpack, weigh};
use super::{FRONT, Numbers, TILE, View};
use crate::cpu::isa::Isa;

/// Up to so many rows, kernels unpack in registers; more are worth unpacking a tile to memory.
const FEW_ROWS: usize = 4;

/// Memory of a task.
#[derive(Default)]
pub(super) struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Products of each row, then scores, then weights.
    weights: Vec<[f32; TILE]>,
}

/// Adds what the rows of `view` find in a tile; all of them see some of it. All rows take the keys before any takes the
/// values: together they fill the first-level cache.
pub(super) fn tile(
    view: &View,
    [mut keys, mut values]: [Numbers; 2],
    sums: &mut [f32],
    scratch: &mut Scratch,
) {
    let (isa, row_len, seen) = (view.chunk.isa, view.chunk.row_len(), view.seen());
    let rows = sums.len() / row_len;
    if rows > FEW_ROWS || isa == Isa::SCALAR {
        keys = unpacked(isa, keys, &mut scratch.keys);
        values = unpacked(isa, values, &mut scratch.values);
    }
    let weights = &mut scratch.weights;
    weights.resize(rows, [0.0; TILE]);
    for (n, products) in weights.chunks_mut(2).enumerate() {
        let query = |row| view.query(2 * n + row);
        match products {
            [a, b] => [*a, *b] = dots(isa, [query(0), query(1)], keys),
            [a] => [*a] = dots(isa, [query(0)], keys),
            _ => {}
        }
    }
    weigh(isa, weights, view.chunk.scale(), seen, sums);
    for (n, (weights, sums)) in weights.chunks(2).zip(sums.chunks_mut(2 * row_len)).enumerate() {
        let seen = |row| seen.by(2 * n + row);
        match (weights, sums.split_at_mut(row_len)) {
            ([a, b], (sums_a, sums_b)) if seen(0) == seen(1) => {
                let sums = [&mut sums_a[FRONT..], &mut sums_b[FRONT..]];
                add_values(isa, sums, [&a[..seen(0)], &b[..seen(0)]], values);
            }
            (weights, _) => {
                for (row, (weights, sums)) in weights.iter().zip(sums.chunks_exact_mut(row_len)).enumerate() {
                    add_values(isa, [&mut sums[FRONT..]], [&weights[..seen(row)]], values);
                }
            }
        }
    }
}

/// The numbers as f32, which all of them are exactly.
fn unpacked<'a>(isa: Isa, numbers: Numbers<'a>, buffer: &'a mut Vec<f32>) -> Numbers<'a> {
    if let Numbers::F32(_) = numbers {
        return numbers;
    }
    buffer.resize(numbers.len(), 0.0);
    unpack(isa, buffer, numbers);
    Numbers::F32(buffer)
}
