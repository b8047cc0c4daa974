//! The ternary matrix product at every instruction level, and the projection of latent weights: bytes a second.
#![allow(missing_docs, reason = "criterion's macros write functions without")]

use bonsai_benches::{GROUP, normals, packed};
use bonsai_runtime::cpu::isa::{Isa, vectorized};
use bonsai_runtime::cpu::ternary_matmul::{Rounded, rows};
use bonsai_runtime::ternary::{CODES_PER_BYTE, ScaleRule, project_group};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const ROWS: usize = 2048;
const COLS: usize = 2048;

/// One thread; the throughput is that of the packed weights.
fn ternary_matmul(c: &mut Criterion) {
    let w = packed(ROWS, COLS, 1);
    for tokens in [1, 128] {
        let mut group = c.benchmark_group(format!("ternary_matmul {ROWS} x {COLS}, {tokens} tokens"));
        group.throughput(Throughput::Bytes(w.bytes.len() as u64));
        let activations = normals(tokens * COLS, 2);
        for isa in Isa::available() {
            let (mut x, mut out) = (Rounded::default(), vec![0.0; ROWS * tokens]);
            x.fill(isa, &activations, COLS);
            group.bench_function(BenchmarkId::from_parameter(isa.name()), |b| {
                b.iter(|| rows(isa, &mut out, &w, 0, &x));
            });
        }
        group.finish();
    }
}

/// Latent weights to codes and scales, on one thread; the throughput is that of the latents read.
fn project(c: &mut Criterion) {
    let weights = normals(1 << 20, 3);
    let mut codes = vec![0; weights.len() / CODES_PER_BYTE];
    let mut group = c.benchmark_group("project");
    group.throughput(Throughput::Bytes(4 * weights.len() as u64));
    for rule in [ScaleRule::Absmean, ScaleRule::Refit] {
        group.bench_function(BenchmarkId::from_parameter(format!("{rule:?}")), |b| {
            b.iter(|| {
                vectorized(|| {
                    let groups =
                        weights.chunks_exact(GROUP).zip(codes.chunks_exact_mut(GROUP / CODES_PER_BYTE));
                    for (w, codes) in groups {
                        std::hint::black_box(project_group(w, rule, codes));
                    }
                });
            });
        });
    }
    group.finish();
}

criterion_group!(benches, ternary_matmul, project);
criterion_main!(benches);
