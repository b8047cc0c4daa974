//! `embed`: rows of a projected table.

use rayon::prelude::*;

use super::CpuMatrix;

/// `out[i] = table[tokens[i]]`.
pub(super) fn embed(out: &mut [f32], table: &CpuMatrix, tokens: &[u32]) {
    out.par_chunks_exact_mut(table.cols)
        .zip(tokens)
        .for_each(|(out, &token)| table.read_rows(token as usize, out));
}

/// `d_table[tokens[i]] += d_out[i]`: one thread, in token order, so that the sums have one order.
pub(super) fn embed_backward(d_table: &mut [f32], d_out: &[f32], tokens: &[u32]) {
    let cols = d_out.len() / tokens.len();
    for (d_out, &token) in d_out.chunks_exact(cols).zip(tokens) {
        let row = &mut d_table[token as usize * cols..][..cols];
        row.iter_mut().zip(d_out).for_each(|(sum, d)| *sum += d);
    }
}
