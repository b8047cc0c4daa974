//! Tokens a second of random ternary models: a token behind a short prompt, and a prompt at once. For one table with
//! bandwidths, run `bonsai bench`; these benches compare one commit with another.
#![allow(missing_docs, reason = "criterion's macros write functions without")]

use bonsai_benches::model;
use bonsai_runtime::SessionOptions;
use bonsai_runtime::random::Random;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const SHAPES: [&str; 3] = ["20m", "0.6b", "1.7b"];
const PROMPT: usize = 128;

fn decode_and_prefill(c: &mut Criterion) {
    for shape in SHAPES {
        let model = model(shape);
        let mut session = model.session(SessionOptions::default()).expect("a session");
        let prompt = Random(0).ids(PROMPT, model.config().vocab);
        let mut group = c.benchmark_group("decode");
        group.sample_size(20).throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new(shape, format!("behind {PROMPT}")), |b| {
            session.reset();
            session.prompt(&prompt).expect("room for the prompt");
            b.iter(|| {
                session.rewind(PROMPT);
                session.next(7).expect("room for a token")[0]
            });
        });
        group.finish();
        let mut group = c.benchmark_group("prefill");
        group.sample_size(10).throughput(Throughput::Elements(PROMPT as u64));
        group.bench_function(BenchmarkId::new(shape, format!("{PROMPT} tokens")), |b| {
            b.iter(|| {
                session.reset();
                session.prompt(&prompt).expect("room for the prompt")[0]
            });
        });
        group.finish();
    }
}

criterion_group!(benches, decode_and_prefill);
criterion_main!(benches);
