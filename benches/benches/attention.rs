//! Attention of all layers of a 0.6B model (28 layers, 16 query and 8 key/value heads of 128) on two threads: one
//! token behind many, and a prompt in chunks. Each layer has a cache of its own, as in a model, so that deep
//! caches come from memory. The throughput is that of the cache, or of the prompt's tokens.
//!
//! Where no font is installed, criterion's plots fail: `cargo bench --bench attention -- --noplot`.
#![allow(missing_docs, reason = "criterion's macros write functions without")]

use bonsai_benches::normals;
use bonsai_runtime::backend::Backend;
use bonsai_runtime::cpu::isa::Isa;
use bonsai_runtime::cpu::threads::Threads;
use bonsai_runtime::cpu::{Cache, CpuBackend, CpuTensor, KvFormat};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const LAYERS: usize = 28;
const HEADS: usize = 16;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;
const CHUNK: usize = 128;
const PROMPT: usize = 512;

struct Model {
    backend: CpuBackend,
    caches: Vec<Cache>,
    q: CpuTensor,
    k: CpuTensor,
    v: CpuTensor,
    out: CpuTensor,
}

impl Model {
    fn new(context: usize, kv: KvFormat) -> Self {
        let mut backend = CpuBackend::new(Isa::detect(), false, kv);
        let cache = |_| {
            let mut cache = backend.cache(KV_HEADS, HEAD_DIM, context).expect("a cache");
            backend.reserve(&mut cache, context).expect("memory");
            cache
        };
        let caches = (0..LAYERS).map(cache).collect();
        let mut tensor = |cols: usize, seed| {
            let mut tensor = backend.tensor(CHUNK, cols).expect("memory");
            backend.write(&mut tensor, &normals(CHUNK * cols, seed));
            tensor
        };
        let (q, out) = (tensor(HEADS * HEAD_DIM, 1), tensor(HEADS * HEAD_DIM, 2));
        let (k, v) = (tensor(KV_HEADS * HEAD_DIM, 3), tensor(KV_HEADS * HEAD_DIM, 4));
        Self { backend, caches, q, k, v, out }
    }

    fn attention(&mut self, position: usize, tokens: usize) {
        let Self { backend, caches, q, k, v, out } = self;
        caches.iter_mut().for_each(|cache| backend.attention(out, q, [k, v], cache, position, tokens));
    }

    fn cache_bytes(&self) -> usize {
        self.caches.iter().map(Cache::bytes).sum()
    }
}

fn attention(c: &mut Criterion) {
    let threads = Threads::new(Some(2)).expect("two threads");
    let mut group = c.benchmark_group("attention 0.6b, 2 threads");
    group.sample_size(10);
    for kv in KvFormat::ALL {
        for depth in [128, 1024, 4096] {
            let mut model = Model::new(depth, kv);
            group.throughput(Throughput::Bytes(model.cache_bytes() as u64));
            group.bench_function(BenchmarkId::new(format!("decode {}", kv.name()), depth), |b| {
                // Some positions are enough to have all of the memory.
                (0..depth).step_by(16).for_each(|position| threads.run(|| model.attention(position, 1)));
                b.iter(|| threads.run(|| model.attention(depth - 1, 1)));
            });
        }
        let mut model = Model::new(PROMPT, kv);
        group.throughput(Throughput::Elements(PROMPT as u64));
        group.bench_function(BenchmarkId::new(format!("prompt {}", kv.name()), PROMPT), |b| {
            b.iter(|| {
                (0..PROMPT).step_by(CHUNK).for_each(|first| threads.run(|| model.attention(first, CHUNK)))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, attention);
criterion_main!(benches);
