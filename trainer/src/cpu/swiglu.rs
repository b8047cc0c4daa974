//! `swiglu`: `out = silu(gate) up`, with `silu(z) = z / (1 + exp(-z))`.

use bonsai_runtime::{cpu::ops, vectorized};
use rayon::prelude::*;

/// Numbers that one task takes.
const CHUNK: usize = 1 << 14;

/// `out = silu(gate) up`.
pub(super) fn swiglu(out: &mut [f32], gate: &[f32], up: &[f32]) {
    let tasks = out.par_chunks_mut(CHUNK).zip(gate.par_chunks(CHUNK)).zip(up.par_chunks(CHUNK));
    tasks.for_each(|((out, gate), up)| {
        vectorized!({
            for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
                *out = g * sigmoid(g) * u;
            }
        });
    });
}

/// `gate <- d_out up silu'(gate)`, `up <- d_out silu(gate)`, with `silu'(z) = s (1 + z (1 - s))`, `s = sigmoid(z)`.
pub(super) fn swiglu_backward(gate: &mut [f32], up: &mut [f32], d_out: &[f32]) {
    let tasks = gate.par_chunks_mut(CHUNK).zip(up.par_chunks_mut(CHUNK)).zip(d_out.par_chunks(CHUNK));
    tasks.for_each(|((gate, up), d_out)| {
        vectorized!({
            for ((gate, up), &d) in gate.iter_mut().zip(up).zip(d_out) {
                let (z, s) = (*gate, sigmoid(*gate));
                *gate = d * *up * s * (1.0 + z * (1.0 - s));
                *up = d * z * s;
            }
        });
    });
}

#[inline(always)]
fn sigmoid(z: f32) -> f32 {
    1.0 / (1.0 + ops::exp(-z))
}
