//! Operations at every instruction level, on one thread, named `op/isa/shape`: bytes or multiplications a second.
#![allow(missing_docs, reason = "criterion's macros write functions without")]

use std::hint::black_box;

use bonsai_benches::{GROUP, normals};
use bonsai_runtime::cpu::isa::Isa;
use bonsai_runtime::cpu::ops;
use bonsai_runtime::cpu::ternary_matmul::{Rounded, rows};
use bonsai_runtime::random_model::random_matrix;
use bonsai_runtime::ternary::{CODES_PER_BYTE, Packing, ScaleRule, project_group};
use bonsai_runtime::vectorized;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const ROWS: usize = 2048;
const COLS: usize = 2048;
/// Values of a row function's call: a layer's worth of one token, in the first-level cache.
const ROW: usize = 2048;

/// One thread. One token: bytes of packed weights a second; a prompt: multiplications (as elements) a second.
fn ternary_matmul(c: &mut Criterion) {
    let w = random_matrix(ROWS, COLS, 1, Packing::Q2_0).expect("memory for a matrix");
    let mut group = c.benchmark_group("ternary_matmul");
    for tokens in [1, 128] {
        group.throughput(match tokens {
            1 => Throughput::Bytes(w.bytes.len() as u64),
            _ => Throughput::Elements((ROWS * COLS * tokens) as u64),
        });
        let activations = normals(tokens * COLS, 2);
        for isa in Isa::available() {
            let (mut x, mut out) = (Rounded::default(), vec![0.0; ROWS * tokens]);
            x.fill(isa, &activations, COLS);
            group.bench_function(BenchmarkId::new(isa.name(), format!("{ROWS}x{COLS}x{tokens}")), |b| {
                b.iter(|| rows(isa, &mut out, &w, 0, x.all()));
            });
        }
    }
    group.finish();
}

/// Activations to i8; the throughput is that of the f32 read.
fn round(c: &mut Criterion) {
    let x = normals(ROW, 2);
    each_isa(c, "round", 4 * ROW, |isa| {
        let (mut rounded, x) = (Rounded::default(), x.clone());
        move || rounded.fill(isa, &x, ROW)
    });
}

/// The row functions; the throughput counts every f32 read and written.
fn row_functions(c: &mut Criterion) {
    let (x, y) = (normals(ROW, 3), normals(ROW, 4));
    let copies = || (vec![0.0; ROW], x.clone(), y.clone());
    each_isa(c, "rms_norm", 12 * ROW, |isa| {
        let (mut out, x, gain) = copies();
        move || vectorized!(isa, ops::rms_norm(&mut out, &x, &gain, 1e-6))
    });
    each_isa(c, "dot", 8 * ROW, |isa| {
        let (_, x, y) = copies();
        move || {
            black_box(vectorized!(isa, ops::dot(&x, &y)));
        }
    });
    each_isa(c, "softmax", 8 * ROW, |isa| {
        let (mut scores, x, _) = copies();
        move || {
            scores.copy_from_slice(&x); // in place, again and again, it would end in equal numbers
            vectorized!(isa, ops::softmax(&mut scores));
        }
    });
    each_isa(c, "swiglu", 12 * ROW, |isa| {
        let (mut gate, x, up) = copies();
        move || {
            gate.copy_from_slice(&x); // in place, again and again, it would end in denormal numbers
            vectorized!(isa, ops::swiglu(&mut gate, &up));
        }
    });
    each_isa(c, "rope", 12 * ROW, |isa| {
        let (_, mut x, _) = copies();
        let (sin, cos) = (vec![0.6; ROW / 2], vec![0.8; ROW / 2]);
        move || vectorized!(isa, ops::rope(&mut x, &cos, &sin))
    });
}

/// `op/isa/ROW`, on one thread.
fn each_isa<F: FnMut()>(c: &mut Criterion, op: &str, bytes: usize, f: impl Fn(Isa) -> F) {
    let mut group = c.benchmark_group(op);
    group.throughput(Throughput::Bytes(bytes as u64));
    for isa in Isa::available() {
        let mut f = f(isa);
        group.bench_function(BenchmarkId::new(isa.name(), ROW), |b| b.iter(&mut f));
    }
    group.finish();
}

/// Latent weights to codes and scales, on one thread; the throughput is that of the latents read.
fn project(c: &mut Criterion) {
    let weights = normals(1 << 20, 3);
    let mut codes = vec![0; weights.len() / CODES_PER_BYTE];
    let mut group = c.benchmark_group("project");
    group.throughput(Throughput::Bytes(4 * weights.len() as u64));
    for rule in [ScaleRule::Absmean, ScaleRule::Refit] {
        group.bench_function(BenchmarkId::new(Isa::detect().name(), format!("{rule:?}")), |b| {
            b.iter(|| {
                let groups = weights.chunks_exact(GROUP).zip(codes.chunks_exact_mut(GROUP / CODES_PER_BYTE));
                for (w, codes) in groups {
                    black_box(vectorized!(project_group(w, rule, codes)));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, ternary_matmul, round, row_functions, project);
criterion_main!(benches);
