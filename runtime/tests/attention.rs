//! Attention and its caches: every instruction set, number of threads and cut of a prompt to the bit; the scalar
//! code against f64; memory against the formula.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use bonsai_runtime::backend::Backend;
use bonsai_runtime::config::Config;
use bonsai_runtime::cpu::isa::Isa;
use bonsai_runtime::cpu::threads::Threads;
use bonsai_runtime::cpu::{Cache, CpuBackend};
use bonsai_runtime::{KvFormat, Model, ModelFile, SessionOptions};
use proptest::prelude::*;
use support::*;

/// Heads, and what `n` tokens bring along.
#[derive(Clone)]
struct Case {
    kv_heads: usize,
    group: usize,
    dim: usize,
    tokens: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn new(kv_heads: usize, group: usize, dim: usize, tokens: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let (q, kv) = (tokens * kv_heads * group * dim, tokens * kv_heads * dim);
        let (q, k, v) = (random.normals(q), random.normals(kv), random.normals(kv));
        Self { kv_heads, group, dim, tokens, q, k, v }
    }

    fn times(mut self, q: f32, k: f32, v: f32) -> Self {
        self.q.iter_mut().for_each(|x| *x *= q);
        self.k.iter_mut().for_each(|x| *x *= k);
        self.v.iter_mut().for_each(|x| *x *= v);
        self
    }

    fn cache(&self, b: &CpuBackend) -> Cache {
        let mut cache = b.cache(self.kv_heads, self.dim, self.tokens).unwrap();
        b.reserve(&mut cache, self.tokens).unwrap();
        cache
    }

    /// The results of all tokens, fed in pieces.
    fn run(&self, isa: Isa, kv: KvFormat, piece: usize) -> Vec<f32> {
        let b = &mut CpuBackend::new(isa, false, kv);
        let cache = &mut self.cache(b);
        self.feed(b, cache, piece)
    }

    fn feed(&self, b: &mut CpuBackend, cache: &mut Cache, piece: usize) -> Vec<f32> {
        let (kv_cols, q_cols) = (self.kv_heads * self.dim, self.kv_heads * self.group * self.dim);
        let tensor = |cols| b.tensor(piece, cols).unwrap();
        let (mut q, mut k, mut v, mut out) =
            (tensor(q_cols), tensor(kv_cols), tensor(kv_cols), tensor(q_cols));
        let mut all = Vec::new();
        for first in (0..self.tokens).step_by(piece) {
            let n = piece.min(self.tokens - first);
            b.write(&mut q, &self.q[first * q_cols..][..n * q_cols]);
            b.write(&mut k, &self.k[first * kv_cols..][..n * kv_cols]);
            b.write(&mut v, &self.v[first * kv_cols..][..n * kv_cols]);
            b.attention(&mut out, &q, [&k, &v], cache, first, n);
            let mut rows = vec![0.0; n * q_cols];
            b.read(&out, &mut rows).unwrap();
            all.extend(rows);
        }
        all
    }

    fn exact(&self) -> Vec<f64> {
        let row = |x: &[f32], token: usize, heads: usize, head: usize| -> Vec<f64> {
            x[(token * heads + head) * self.dim..][..self.dim].iter().map(|&x| f64::from(x)).collect()
        };
        let heads = self.kv_heads * self.group;
        let mut all = Vec::new();
        for (token, head) in (0..self.tokens).flat_map(|token| (0..heads).map(move |head| (token, head))) {
            let q = row(&self.q, token, heads, head);
            let of = |x: &[f32], position| row(x, position, self.kv_heads, head / self.group);
            let score = |position| -> f64 {
                q.iter().zip(of(&self.k, position)).map(|(q, k)| q * k).sum::<f64>()
                    / (self.dim as f64).sqrt()
            };
            let scores: Vec<f64> = (0..=token).map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut out = vec![0.0; self.dim];
            for (position, weight) in weights.iter().enumerate() {
                let v = of(&self.v, position);
                out.iter_mut().zip(v).for_each(|(out, v)| *out += weight / total * v);
            }
            all.extend(out);
        }
        all
    }

    /// All the same, whatever computes them and however they are fed.
    fn same_everywhere(&self, kv: KvFormat) {
        let expected = bits(&self.run(Isa::SCALAR, kv, self.tokens));
        for isa in Isa::available() {
            for piece in [1, 7, 64, self.tokens] {
                let same = bits(&self.run(isa, kv, piece)) == expected;
                let Self { kv_heads, group, dim, tokens, .. } = self;
                assert!(
                    same,
                    "{} {} {kv_heads}x{group} heads of {dim}, {tokens} tokens by {piece}",
                    isa.name(),
                    kv.name()
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_shape_any_numbers(
        group in prop::sample::select(vec![1usize, 2, 3, 4, 7]),
        dim in prop::sample::select(vec![2usize, 6, 16, 64, 80, 96, 128]),
        kv in prop::sample::select(KvFormat::ALL.to_vec()),
        (kv_heads, tokens) in (1usize..4, 1usize..90),
        (q, k, v) in (-20i32..12, -20i32..12, -20i32..20),
        seed: u64,
    ) {
        let factor = |power: i32| 2f32.powi(power);
        Case::new(kv_heads, group, dim, tokens, seed).times(factor(q), factor(k), factor(v)).same_everywhere(kv);
    }
}

#[test]
fn extremes() {
    for kv in KvFormat::ALL {
        for group in [1, 2, 4, 7] {
            let case = Case::new(2, group, 64, 100, group as u64);
            case.clone().times(0.0, 1.0, 1.0).same_everywhere(kv); // all scores equal
            case.clone().times(1.0, 0.0, -0.0).same_everywhere(kv);
            case.clone().times(1e4, 1e4, 1.0).same_everywhere(kv); // one weight takes all
            case.clone().times(1e-30, 1e-12, 1e-38).same_everywhere(kv);
            case.clone().times(1.0, 1e6, 1e6).same_everywhere(kv); // beyond f16
            case.clone().times(1e5, 1e5, 1e30).same_everywhere(kv);
            let out = case.times(1.0, 1e6, 1e6).run(Isa::detect(), kv, 100);
            assert!(out.iter().all(|x| x.is_finite()), "{}", kv.name());
        }
    }
}

#[test]
fn long_contexts_on_any_number_of_threads() {
    for (kv, group) in KvFormat::ALL.into_iter().zip([1, 2, 3, 2, 1]) {
        let case = Case::new(2, group, 32, 2200, 3); // three segments
        let expected = bits(&case.run(Isa::SCALAR, kv, 128));
        for isa in Isa::available() {
            for threads in [1, 2, 3] {
                let threads = Threads::new(Some(threads)).unwrap();
                for piece in [1, 5, 999, 2200] {
                    let out = threads.run(|| case.run(isa, kv, piece));
                    assert!(bits(&out) == expected, "{} {} by {piece}", isa.name(), kv.name());
                }
            }
        }
    }
}

/// What was behind the position that a session went back to must not matter, numbers or not.
#[test]
fn later_positions_leave_no_trace() {
    let case = Case::new(1, 2, 64, 70, 4);
    for kv in KvFormat::ALL {
        let mut bad = case.clone();
        bad.k.iter_mut().chain(&mut bad.v).for_each(|x| *x = f32::NAN);
        for isa in Isa::available() {
            let b = &mut CpuBackend::new(isa, false, kv);
            let cache = &mut case.cache(b);
            assert!(bad.feed(b, cache, 7).iter().all(|x| x.is_nan()), "{}", kv.name());
            assert_eq!(bits(&case.feed(b, cache, 7)), bits(&case.run(isa, kv, 7)), "{}", kv.name());
        }
    }
}

/// The last block of a context has what is left of it, and when it nearly fills a huge page, room behind the last head for
/// more than a head: the room of another one must change nothing.
#[test]
fn the_last_block_is_as_long_as_what_is_left() {
    const MIB: usize = 1 << 20;
    const HUGE_PAGES: bool = !cfg!(target_family = "wasm");
    for (last, allocated) in [(3, 3 * 32_768), (58, if HUGE_PAGES { 2 * MIB } else { 58 * 32_768 })] {
        let (context, expected) = (2048 + last * 32, 2 * MIB + allocated);
        let case = Case::new(16, 1, 16, context, 8); // 32 KiB a tile of 32 positions as f16
        let b = &mut CpuBackend::new(Isa::detect(), false, KvFormat::F16);
        let [mut fitting, mut roomy] = [context, 8192].map(|context| b.cache(16, 16, context).unwrap());
        b.reserve(&mut fitting, context).unwrap();
        b.reserve(&mut roomy, context).unwrap();
        assert_eq!([fitting.bytes(), roomy.bytes()], [expected, 4 * MIB]);
        let found = case.feed(b, &mut fitting, 512);
        assert!(bits(&found) == bits(&case.feed(b, &mut roomy, 512)), "a context of {context}");
    }
}

/// Mean square errors relative to the energy, for normal numbers.
///
/// f32: some 30 roundings of 6e-8 deep. f16 rounds by up to 2^-11, uniformly in a binade: about (2^-11)^2 / 3 / 2
/// = 4e-8 of the energy of values, and as much again by way of the scores. int8 rounds by up to half of
/// absmax / 127, where the largest of 128 normal numbers is about 2.7 deviations: (2.7 / 127)^2 / 12 = 4e-5, twice. int4 by
/// absmax / 8: 9e-3, twice.
#[test]
fn near_f64_within_what_rounding_costs() {
    for (kv, least, most) in [
        (KvFormat::F32, 0.0, 1e-12),
        (KvFormat::F16, 1e-9, 1.6e-7),
        (KvFormat::Int16, 1e-9, 1.6e-7),
        (KvFormat::Int8, 1e-5, 1.6e-4),
        (KvFormat::Int4, 3e-3, 5e-2),
    ] {
        let case = Case::new(2, 2, 128, 1100, 5);
        let error = nmse(&case.run(Isa::detect(), kv, 128), &case.exact());
        println!("{}: {error:e}", kv.name());
        assert!((least..most).contains(&error), "{}: {error:e}", kv.name());
    }
}

/// Queries and keys of equal numbers have the largest sums of products that rounding may leave: one that did not fit an i32
/// would change its sign, and with it which values count.
#[test]
fn the_largest_sums_keep_their_sign() {
    for kv in [KvFormat::Int16, KvFormat::Int8] {
        for dim in [2, 6, 64, 128, 256, 1024] {
            let mut case = Case::new(1, 1, dim, 40, 9);
            case.q.fill(3.0);
            for (position, k) in case.k.chunks_exact_mut(dim).enumerate() {
                k.fill(if position % 3 == 0 { 0.7 } else { -0.7 });
            }
            let error = nmse(&case.run(Isa::SCALAR, kv, 40), &case.exact());
            assert!(error < 1e-3, "{} heads of {dim}: {error:e}", kv.name());
            case.same_everywhere(kv);
        }
    }
}

/// What keys are known for: one dimension that is a hundred times the others in all positions. Scores hardly change by it,
/// but one scale for a head would leave nothing of the others in four bits.
#[test]
fn a_large_dimension_costs_int4_little() {
    let plain = Case::new(2, 2, 128, 300, 6);
    let mut large = plain.clone();
    large.k.chunks_exact_mut(128).for_each(|k| k[5] += 100.0);
    let error = |case: &Case| nmse(&case.run(Isa::detect(), KvFormat::Int4, 64), &case.exact());
    let [plain, large] = [&plain, &large].map(error);
    println!("int4: {plain:e}, with one large dimension {large:e}");
    assert!(large < 0.2, "{large:e}");
}

#[test]
fn memory_is_what_the_formula_says() {
    for kv in KvFormat::ALL {
        for (kv_heads, head_dim) in [(8, 128), (2, 64), (3, 96), (1, 6)] {
            let config = Config { layers: 1, heads: kv_heads, kv_heads, head_dim, ..tiny() };
            let per_token = kv.bytes_per_token(&config);
            let b = CpuBackend::new(Isa::SCALAR, false, kv);
            // Small: exactly the context, in whole tiles of 32.
            let mut small = b.cache(kv_heads, head_dim, 33).unwrap();
            assert_eq!(small.bytes(), 0);
            b.reserve(&mut small, 1).unwrap();
            assert_eq!(small.bytes(), 64 * per_token);
            assert_eq!(kv.allocated_bytes(&config, 33), small.bytes());
            // Large: whole blocks of about 2 MiB.
            let positions = (64 << 20) / per_token;
            let mut large = b.cache(kv_heads, head_dim, 2 * positions).unwrap();
            b.reserve(&mut large, positions).unwrap();
            let allocated = large.bytes() as f64 / (positions * per_token) as f64;
            assert!((1.0..1.12).contains(&allocated), "{} {head_dim}: {allocated}", kv.name());
            let mut full = b.cache(kv_heads, head_dim, positions).unwrap();
            b.reserve(&mut full, positions).unwrap();
            assert_eq!(kv.allocated_bytes(&config, positions), full.bytes());
        }
    }
    let config = Config { layers: 28, heads: 16, kv_heads: 8, head_dim: 128, ..tiny() };
    assert_eq!(KvFormat::F16.bytes_per_token(&config), 28 * 2 * 8 * 128 * 2);
    assert_eq!(KvFormat::Int16.bytes_per_token(&config), 28 * 2 * 8 * (256 + 4));
    assert_eq!(KvFormat::Int8.bytes_per_token(&config), 28 * 2 * 8 * (128 + 4));
    assert_eq!(KvFormat::Int4.bytes_per_token(&config), 28 * 2 * 8 * (64 + 4));
}

/// Mean Kullback-Leibler divergence, in nats, of what `options` predict from what exact arithmetic does.
fn divergence(file: ModelFile, tokens: &[u32], kv: KvFormat) -> f64 {
    let vocab = file.config.vocab;
    let model = Model::from_file(file).unwrap();
    let logits = |kv| {
        let options = SessionOptions { exact: true, kv: Some(kv), ..Default::default() };
        model.session(options).unwrap().logits(tokens).unwrap()
    };
    let log_softmax = |row: &[f32]| {
        let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        let total = row.iter().map(|x| x.exp()).sum::<f64>().ln();
        row.into_iter().map(move |x| x - total).collect::<Vec<_>>()
    };
    let (exact, rounded) = (logits(KvFormat::F32), logits(kv));
    let rows = exact.chunks_exact(vocab).zip(rounded.chunks_exact(vocab));
    let one = |(p, q): (&[f32], &[f32])| {
        let (p, q) = (log_softmax(p), log_softmax(q));
        p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
    };
    rows.map(one).sum::<f64>() / tokens.len() as f64
}

/// The small random model: measured 1e-8 and 1e-5; bounds a few times that.
#[test]
fn rounded_caches_change_predictions_little() {
    let tokens = Random(6).ids(300, tiny().vocab);
    for (kv, most) in [
        (KvFormat::F32, 1e-12),
        (KvFormat::F16, 1e-6),
        (KvFormat::Int16, 1e-6),
        (KvFormat::Int8, 1e-3),
        (KvFormat::Int4, 1e-1),
    ] {
        let q2_0 = bonsai_runtime::tensor::Format::Ternary(bonsai_runtime::ternary::Packing::Q2_0G64);
        let kl = divergence(model_file(&tiny(), q2_0, 7), &tokens, kv);
        println!("{}: {kl:e} nats", kv.name());
        assert!(kl < most, "{}: {kl:e}", kv.name());
    }
}
