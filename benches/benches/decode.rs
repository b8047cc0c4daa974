//! Tokens a second of a random ternary model of 20 million weights: one by one, and a prompt at once.
#![allow(missing_docs, reason = "criterion's macros write functions without")]

use bonsai_benches::{ids, model};
use bonsai_runtime::SessionOptions;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const VOCAB: usize = 4096;
const PROMPT: usize = 128;

fn decode_and_prefill(c: &mut Criterion) {
    let model = model("20m", VOCAB);
    let mut session = model.session(SessionOptions::default()).expect("a session");
    let prompt = ids(PROMPT, VOCAB);
    let mut group = c.benchmark_group("20m");
    group.sample_size(20);
    group.throughput(Throughput::Elements(1));
    group.bench_function("decode behind 128 tokens", |b| {
        session.reset();
        session.prompt(&prompt).expect("room for the prompt");
        b.iter(|| {
            session.rewind(PROMPT);
            session.next(7).expect("room for a token")[0]
        });
    });
    group.throughput(Throughput::Elements(PROMPT as u64));
    group.bench_function("prefill of 128 tokens", |b| {
        b.iter(|| {
            session.reset();
            session.prompt(&prompt).expect("room for the prompt")[0]
        });
    });
    group.finish();
}

criterion_group!(benches, decode_and_prefill);
criterion_main!(benches);
