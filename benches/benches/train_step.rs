//! A training step of preset 3m, tokens a second, with each optimizer.
#![allow(missing_docs, reason = "criterion's macros write functions without")]

use bonsai_benches::{tokens, trainer};
use bonsai_trainer::config::{OptimizerKind, RunConfig};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const VOCAB: usize = 4096;

fn train_step(c: &mut Criterion) {
    let base = RunConfig { batch_size: 8, seq_len: 128, ..RunConfig::default() };
    let per_step = base.batch_size * base.seq_len;
    let data = tokens(VOCAB, 8 * per_step + 1);
    let mut group = c.benchmark_group("train_step 3m, 8 x 128 tokens");
    group.sample_size(10).throughput(Throughput::Elements(per_step as u64));
    for optimizer in [OptimizerKind::Adamw, OptimizerKind::Muon] {
        let mut trainer = trainer("3m", VOCAB, RunConfig { optimizer, ..base.clone() });
        group.bench_function(format!("{optimizer:?}"), |b| {
            b.iter(|| trainer.step(&data).expect("a step").loss)
        });
    }
    group.finish();
}

criterion_group!(benches, train_step);
criterion_main!(benches);
