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
    scores: Vec<[f32; TILE]>,
}

/// Adds what the rows of `view` find in a tile; all of them see some of it.
pub(super) fn tile(
    view: &View,
    [mut keys, mut values]: [Numbers; 2],
    sums: &mut [f32],
    scratch: &mut Scratch,
) {
    let (isa, row_len) = (view.chunk.isa, view.chunk.row_len());
    let rows = sums.len() / row_len;
    if rows > FEW_ROWS || isa == Isa::SCALAR {
        keys = unpacked(isa, keys, &mut scratch.keys);
        values = unpacked(isa, values, &mut scratch.values);
    }
    let scores = &mut scratch.scores;
    scores.resize(rows, [0.0; TILE]);
    let (pairs, single) = scores.as_chunks_mut::<2>();
    for (n, pair) in pairs.iter_mut().enumerate() {
        *pair = dots(isa, [view.query(2 * n), view.query(2 * n + 1)], keys);
    }
    if let [score] = single {
        [*score] = dots(isa, [view.query(rows - 1)], keys);
    }
    for (row, (scores, sums)) in scores.iter_mut().zip(sums.chunks_exact_mut(row_len)).enumerate() {
        weigh(isa, scores, view.chunk.scale(), view.seen(row), sums);
    }
    for (n, sums) in sums.chunks_mut(2 * row_len).enumerate() {
        let row = 2 * n;
        let weights = |row: usize| &scores[row][..view.seen(row)];
        let (a, b) = sums.split_at_mut(row_len);
        match b {
            [] => add_values(isa, [&mut a[FRONT..]], [weights(row)], values),
            b if view.seen(row) == view.seen(row + 1) => {
                add_values(isa, [&mut a[FRONT..], &mut b[FRONT..]], [weights(row), weights(row + 1)], values);
            }
            b => {
                add_values(isa, [&mut a[FRONT..]], [weights(row)], values);
                add_values(isa, [&mut b[FRONT..]], [weights(row + 1)], values);
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
