//! Every operation of the GPU against f64, at shapes that fill no tile: cases for any device that can be awaited.

use bonsai_runtime::KvFormat;
use bonsai_runtime::backend::{Backend, Norm};
use bonsai_runtime::gpu::{GpuBackend, GpuMatrix, GpuTensor, LIKELIEST, NO_TOKEN, likeliest};
use bonsai_runtime::sampler::Candidate;
use bonsai_runtime::tensor::{Format, StoredTensor};
use bonsai_runtime::ternary::Packing;

use super::support::*;

/// Most tokens of a pass here.
pub const TOKENS: usize = 70;
/// Most numbers of a token here.
pub const WIDEST: usize = 2048;
/// Rows of a tensor: those of a pass, and some that nothing may touch.
const ROWS: usize = TOKENS + 16;
/// Of sums of some hundred f32 products: each rounding adds 2^-24 of a partial sum, and there are about as many of them
/// as there are products to a thread; then the square.
const PRODUCTS: f64 = 1e-12;
/// The exponential turns an absolute error of the gate into a relative one, and gates here go into the hundreds.
const GATES: f64 = 1e-10;
/// Keys and values are f16: each is off by up to 2^-12 of itself, uniformly, hence 2^-24 / 3 of its energy, and scores
/// by about as much.
const F16: f64 = 2e-7;
/// Keys and values are rounded to multiples of a 127th of the largest of a head, at most three deviations here: off by
/// up to half of one, uniformly, hence (3 / 127)^2 / 12 of its energy for values, 5e-5. Errors of scores, which are sums
/// of products with keys as far off, are as large relative to scores; weights are their exponentials, and scores here go
/// up to ten.
const INT8: f64 = 1e-3;

/// Backends that must give the same bits, for passes of at most [`TOKENS`] tokens of at most [`WIDEST`] numbers.
struct Machines<'a> {
    backends: &'a mut [GpuBackend],
    /// The largest normalised mean square error so far.
    worst: f64,
}

/// Every case.
pub const NAMES: [&str; 9] = [
    "embed",
    "norm_matmul",
    "norm_matmul_of_some_rows",
    "matmul_add",
    "norm_swiglu",
    "attend",
    "attend_int8",
    "argmax",
    "top_k",
];

/// Runs a case, and returns the largest normalised mean square error of its results.
pub async fn run(name: &str, backends: &mut [GpuBackend]) -> f64 {
    let machines = &mut Machines { backends, worst: 0.0 };
    match name {
        "embed" => embed(machines).await,
        "norm_matmul" => norm_matmul(machines).await,
        "norm_matmul_of_some_rows" => norm_matmul_of_some_rows(machines).await,
        "matmul_add" => matmul_add(machines).await,
        "norm_swiglu" => norm_swiglu(machines).await,
        "attend" => attend(machines, F16).await,
        "attend_int8" => {
            machines.keep(KvFormat::Int8);
            attend(machines, INT8).await;
            machines.keep(KvFormat::F16);
        }
        "argmax" => argmax(machines).await,
        "top_k" => top_k(machines).await,
        _ => panic!("no case {name}"),
    }
    machines.worst
}

impl Machines<'_> {
    /// Runs an operation twice on each backend and returns the result that all runs agree upon. The operation gets
    /// tensors from [`tensor`], and returns the one to be read with the number of its values that count; those behind
    /// them must still be not-a-number.
    async fn run(&mut self, f: impl Fn(&mut GpuBackend) -> (GpuTensor, usize)) -> Vec<f32> {
        let mut first: Option<Vec<f32>> = None;
        for b in &mut *self.backends {
            for _ in 0..2 {
                let got = once(b, &f).await;
                let first = first.get_or_insert_with(|| got.clone());
                assert_eq!(bits(first), bits(&got), "the same bits every time and everywhere");
            }
        }
        first.expect("a backend")
    }

    /// Has keys and values kept in another format from now on.
    fn keep(&mut self, kv: KvFormat) {
        self.backends.iter_mut().for_each(|b| b.keep(kv).unwrap());
    }

    fn close(&mut self, what: &str, got: &[f32], expected: &[f64], bound: f64) {
        let error = nmse(got, expected);
        println!("{what}: {error:.1e}");
        assert!(error < bound, "{what}: {error:e}");
        self.worst = self.worst.max(error);
    }
}

async fn once(b: &mut GpuBackend, f: impl Fn(&mut GpuBackend) -> (GpuTensor, usize)) -> Vec<f32> {
    let (out, len) = f(b);
    let mut values = vec![0.0; len + 8];
    b.read_async(&out, &mut values).await.unwrap();
    assert!(values[..len].iter().all(|x| x.is_finite()), "poison got in");
    assert!(values[len..].iter().all(|x| x.is_nan()), "something was written behind the end");
    values.truncate(len);
    values
}

/// A tensor `[ROWS, cols]` of not-a-number that begins with `values`.
fn tensor(b: &mut GpuBackend, cols: usize, values: &[f32]) -> GpuTensor {
    let mut tensor = b.tensor(ROWS, cols).unwrap();
    let mut all = vec![f32::NAN; ROWS * cols];
    all[..values.len()].copy_from_slice(values);
    b.write(&mut tensor, &all);
    tensor
}

fn norm(b: &mut GpuBackend, gain: &[f32], eps: f32) -> Norm<GpuTensor> {
    let mut tensor = b.tensor(1, gain.len()).unwrap();
    b.write(&mut tensor, gain);
    Norm { gain: tensor, eps }
}

fn matrix(b: &GpuBackend, stack: &[StoredTensor]) -> GpuMatrix {
    b.matrix(&stack.iter().collect::<Vec<_>>()).unwrap()
}

fn formats() -> impl Iterator<Item = Format> {
    Packing::ALL.map(Format::Ternary).into_iter().chain([Format::F32, Format::F16, Format::Bf16])
}

/// Columns that the format can have, and that fill no workgroup.
fn columns(format: Format) -> usize {
    match format {
        Format::Ternary(packing) => 5 * packing.group(),
        _ => 336,
    }
}

fn random_matrix(random: &mut Random, rows: usize, cols: usize, format: Format) -> StoredTensor {
    stored(rows, cols, &random.normals(rows * cols), format)
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// Rows of `x` normalised, in f64.
fn normed(x: &[f32], gain: &[f32], eps: f32) -> Vec<f64> {
    let rows = x.chunks_exact(gain.len()).flat_map(|row| {
        let square: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let factor = 1.0 / (square / row.len() as f64 + f64::from(eps)).sqrt();
        row.iter().zip(gain).map(move |(&x, &gain)| f64::from(x) * factor * f64::from(gain))
    });
    rows.collect()
}

/// `h` (`[tokens, cols]`) times `w` transposed, in f64.
fn product(w: &StoredTensor, h: &[f64]) -> Vec<f64> {
    let weights = wide(&w.to_f32());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    h.chunks_exact(w.cols).flat_map(|h| weights.chunks_exact(w.cols).map(move |row| dot(row, h))).collect()
}

async fn embed(machines: &mut Machines<'_>) {
    let mut random = Random(1);
    for format in formats() {
        let table = random_matrix(&mut random, 37, columns(format), format);
        let ids: Vec<u32> = [0, 36, 5, 5, 17].into_iter().chain(random.ids(TOKENS - 5, 37)).collect();
        for ids in [&ids[..], &ids[1..2]] {
            let run = machines.run(|b| {
                let mut out = tensor(b, table.cols, &[]);
                let table = matrix(b, std::slice::from_ref(&table));
                let mut tokens = b.tokens(TOKENS).unwrap();
                b.write_tokens(&mut tokens, ids);
                b.embed(&mut out, &table, &tokens, ids.len());
                (out, ids.len() * columns(format))
            });
            let got = run.await;
            let rows = table.to_f32();
            let expected = ids.iter().flat_map(|&id| rows[id as usize * table.cols..][..table.cols].to_vec());
            assert_eq!(got, expected.collect::<Vec<_>>(), "{}: exact", format.name());
        }
    }
}

async fn norm_matmul(machines: &mut Machines<'_>) {
    let mut random = Random(2);
    for (format, tokens) in formats().flat_map(|format| [1, 2, 33, TOKENS].map(|tokens| (format, tokens))) {
        let cols = columns(format);
        let stack = [70, 33, 5].map(|rows| random_matrix(&mut random, rows, cols, format));
        let (x, gain) = (random.normals(tokens * cols), random.normals(cols));
        let expected = stack.each_ref().map(|w| product(w, &normed(&x, &gain, 1e-3)));
        for (n, (w, expected)) in stack.iter().zip(&expected).enumerate() {
            let run = machines.run(|b| {
                let (x, w, norm) = (tensor(b, cols, &x), matrix(b, &stack), norm(b, &gain, 1e-3));
                let [mut q, mut k, mut v] = stack.each_ref().map(|w| tensor(b, w.rows, &[]));
                b.norm_matmul([&mut q, &mut k, &mut v], &x, &norm, &w, 0..tokens);
                let outs = [q, k, v];
                (outs.into_iter().nth(n).unwrap(), tokens * stack[n].rows)
            });
            let got = run.await;
            machines.close(
                &format!("{} x {tokens}, {} rows", format.name(), w.rows),
                &got,
                expected,
                PRODUCTS,
            );
        }
    }
}

async fn norm_matmul_of_some_rows(machines: &mut Machines<'_>) {
    let mut random = Random(3);
    let format = Format::Ternary(Packing::Q2_0);
    let w = random_matrix(&mut random, 1030, 384, format);
    let (x, gain) = (random.normals(20 * 384), random.normals(384));
    let all = product(&w, &normed(&x, &gain, 1e-6));
    for rows in [19..20, 3..9, 0..1] {
        let run = machines.run(|b| {
            let (x, norm) = (tensor(b, 384, &x), norm(b, &gain, 1e-6));
            let (w, mut out) = (matrix(b, std::slice::from_ref(&w)), tensor(b, 1030, &[]));
            b.norm_matmul([&mut out], &x, &norm, &w, rows.clone());
            (out, rows.len() * 1030)
        });
        let got = run.await;
        machines.close(&format!("rows {rows:?}"), &got, &all[rows.start * 1030..rows.end * 1030], PRODUCTS);
    }
}

async fn matmul_add(machines: &mut Machines<'_>) {
    let mut random = Random(4);
    for (format, tokens) in formats().flat_map(|format| [1, 2, 33].map(|tokens| (format, tokens))) {
        let cols = columns(format);
        for rows in [4, 129] {
            let w = random_matrix(&mut random, rows, cols, format);
            let (x, y) = (random.normals(tokens * rows), random.normals(tokens * cols));
            let run = machines.run(|b| {
                let (mut x, y) = (tensor(b, rows, &x), tensor(b, cols, &y));
                let w = matrix(b, std::slice::from_ref(&w));
                b.matmul_add(&mut x, &y, &w, tokens);
                (x, tokens * rows)
            });
            let got = run.await;
            let sums = product(&w, &wide(&y)).into_iter().zip(&x);
            let expected: Vec<f64> = sums.map(|(sum, &x)| sum + f64::from(x)).collect();
            machines.close(&format!("{} x {tokens}, {rows} rows", format.name()), &got, &expected, PRODUCTS);
        }
    }
}

async fn norm_swiglu(machines: &mut Machines<'_>) {
    let mut random = Random(5);
    for (format, tokens) in formats().flat_map(|format| [1, 2, 33].map(|tokens| (format, tokens))) {
        let cols = columns(format);
        for rows in [6, 67] {
            let stack = [(); 2].map(|()| random_matrix(&mut random, rows, cols, format));
            let (x, mut gain) = (random.normals(tokens * cols), random.normals(cols));
            gain[0] = 300.0; // gates of some hundreds: far beyond where exp would overflow
            let run = machines.run(|b| {
                let (x, w, norm) = (tensor(b, cols, &x), matrix(b, &stack), norm(b, &gain, 1e-6));
                let mut out = tensor(b, rows, &[]);
                b.norm_swiglu(&mut out, &x, &norm, &w, tokens);
                (out, tokens * rows)
            });
            let got = run.await;
            let [gate, up] = stack.each_ref().map(|w| product(w, &normed(&x, &gain, 1e-6)));
            let expected: Vec<f64> =
                gate.iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
            machines.close(&format!("{} x {tokens}, {rows} rows", format.name()), &got, &expected, GATES);
        }
    }
}

/// Heads, heads of keys and values, width of a head.
const HEADS: [[usize; 3]; 6] = [[4, 2, 128], [3, 3, 16], [6, 2, 32], [8, 1, 64], [2, 1, 256], [5, 5, 48]];

async fn attend(machines: &mut Machines<'_>, bound: f64) {
    let mut random = Random(6);
    for ([heads, kv_heads, dim], with_norms) in HEADS.into_iter().zip([true, false].into_iter().cycle()) {
        let context = 150;
        let [q, k, v] = [heads, kv_heads, kv_heads].map(|n| random.normals(context * n * dim));
        let [q_gain, k_gain] = [(); 2].map(|()| random.normals(dim));
        let angles: Vec<f32> = (0..context)
            .flat_map(|_| {
                let turns = random.normals(dim / 2);
                turns.iter().map(|x| x.cos()).chain(turns.iter().map(|x| x.sin())).collect::<Vec<_>>()
            })
            .collect();
        let norms = with_norms.then_some([(&q_gain[..], 1e-6), (&k_gain[..], 1e-3)]);
        let expected = attended([&q, &k, &v], norms, &angles, [heads, kv_heads, dim]);
        // A chunk, one by one, another chunk: what is checked is the last.
        for pieces in
            [vec![0..1, 1..TOKENS], vec![0..63, 63..64, 64..65], vec![0..70, 70..75, 75..140, 140..141]]
        {
            let last = pieces.last().unwrap().clone();
            let run = machines.run(|b| {
                let norms = norms.map(|norms| norms.map(|(gain, eps)| norm(b, gain, eps)));
                let mut cache = b.cache(kv_heads, dim, context).unwrap();
                let mut out = None;
                for piece in pieces.clone() {
                    b.reserve(&mut cache, piece.end).unwrap();
                    let part =
                        |all: &[f32], n: usize| all[piece.start * n * dim..piece.end * n * dim].to_vec();
                    let mut q = tensor(b, heads * dim, &part(&q, heads));
                    let mut k = tensor(b, kv_heads * dim, &part(&k, kv_heads));
                    let mut v = tensor(b, kv_heads * dim, &part(&v, kv_heads));
                    let angles = tensor(b, dim, &part(&angles, 1));
                    let mut found = tensor(b, heads * dim, &[]);
                    let qkv = [&mut q, &mut k, &mut v];
                    b.attend(&mut found, qkv, norms.as_ref(), &angles, &mut cache, piece);
                    out = Some(found);
                }
                (out.unwrap(), last.len() * heads * dim)
            });
            let got = run.await;
            let expected = &expected[last.start * heads * dim..last.end * heads * dim];
            machines.close(&format!("{heads} / {kv_heads} x {dim}, {pieces:?}"), &got, expected, bound);
        }
    }
}

/// Norms, rotation and softmax as the papers write them, in f64, for every token.
fn attended(
    [q, k, v]: [&[f32]; 3],
    norms: Option<[(&[f32], f32); 2]>,
    angles: &[f32],
    [heads, kv_heads, dim]: [usize; 3],
) -> Vec<f64> {
    let turned = |x: &[f32], n: usize, norm: Option<(&[f32], f32)>| {
        let mut x = norm.map_or_else(|| wide(x), |(gain, eps)| normed(x, gain, eps));
        for (row, head) in x.chunks_exact_mut(dim).enumerate() {
            let (cos, sin) = angles[row / n * dim..][..dim].split_at(dim / 2);
            for i in 0..dim / 2 {
                let ([a, b], [cos, sin]) = ([head[i], head[i + dim / 2]], [cos[i], sin[i]].map(f64::from));
                [head[i], head[i + dim / 2]] = [a * cos - b * sin, b * cos + a * sin];
            }
        }
        x
    };
    let q = turned(q, heads, norms.map(|norms| norms[0]));
    let k = turned(k, kv_heads, norms.map(|norms| norms[1]));
    let mut out = Vec::new();
    for (row, q) in q.chunks_exact(dim).enumerate() {
        let (token, head) = (row / heads, row % heads / (heads / kv_heads));
        let at = |position: usize| (position * kv_heads + head) * dim;
        let score = |position| {
            let dot: f64 = q.iter().zip(&k[at(position)..]).map(|(q, k)| q * k).sum();
            (dot / (dim as f64).sqrt()).exp()
        };
        let scores: Vec<f64> = (0..=token).map(score).collect();
        let total: f64 = scores.iter().sum();
        let mix = |i: usize| {
            scores.iter().enumerate().map(|(p, s)| s / total * f64::from(v[at(p) + i])).sum::<f64>()
        };
        out.extend((0..dim).map(mix));
    }
    out
}

/// Rows of one number to several shares of a workgroup each; every place of the largest that a kernel could get wrong.
async fn argmax(machines: &mut Machines<'_>) {
    let mut random = Random(7);
    for count in [1, 63, 65, 1030, 70_001] {
        let row = random.normals(count);
        let with = |at: &[usize], x: f32| {
            let mut row = row.clone();
            at.iter().for_each(|&at| row[at % count] = x);
            row
        };
        let zeros = |x: f32| vec![x; count];
        let (middle, last) = (count / 2, count - 1);
        let rows = [
            (row.clone(), place_of_largest(&row)),
            (with(&[last], 9.0), last as u32),
            (with(&[last, middle], 9.0), middle as u32),
            (with(&[middle], f32::INFINITY), middle as u32),
            (with(&[last], f32::NAN), NO_TOKEN),
            (with(&[0], -f32::NAN), NO_TOKEN),
            (zeros(f32::NEG_INFINITY), 0),
            (zeros(-1.0), 0),
            ([&zeros(-0.0)[1..], &[0.0]].concat(), 0),
        ];
        for (n, (row, expected)) in rows.iter().enumerate() {
            for b in &mut *machines.backends {
                let (mut logits, mut tokens) = (b.tensor(1, count).unwrap(), b.tokens(4).unwrap());
                b.write(&mut logits, row);
                b.write_tokens(&mut tokens, &[5, 6, 7, 8]);
                let found = b.gpu().buffer_of(&[1u32; 4]).unwrap();
                b.argmax(&mut tokens, &found, 2, &logits);
                let mut got = [[0u32; 4]; 2];
                b.gpu().read_async(tokens.all(), &mut got[0]).await.unwrap();
                b.gpu().read_async(found.all(), &mut got[1]).await.unwrap();
                assert_eq!(got, [[*expected, 6, 7, 8], [1, 1, *expected, 1]], "row {n} of {count}");
            }
        }
    }
}

fn place_of_largest(row: &[f32]) -> u32 {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as u32
}

/// Rows of one number to three steps of sorting, with equals, both zeros, infinities and what is not a number.
async fn top_k(machines: &mut Machines<'_>) {
    let mut random = Random(8);
    for count in [1, 63, 64, 65, 1024, 1025, 16_385, 151_936] {
        let normals = random.normals(count);
        let few: Vec<f32> = normals.iter().map(|x| x.round()).collect(); // hundreds of equals, zeros of both signs
        let mut ends = normals.clone();
        ends[count / 2] = f32::INFINITY;
        ends[count - 1] = f32::NEG_INFINITY;
        let rising: Vec<f32> = (0..count).map(|i| i as f32).collect();
        for (n, row) in [normals, few, ends, rising, vec![f32::NEG_INFINITY; count]].iter().enumerate() {
            for b in &mut *machines.backends {
                let got = found_likeliest(b, row).await.unwrap();
                let got: Vec<_> = got.iter().map(|c| (c.id, c.logit.to_bits())).collect();
                assert_eq!(got, sorted(row), "row {n} of {count}");
            }
        }
        for broken in [f32::NAN, -f32::NAN] {
            let mut row = vec![1.0; count];
            row[count / 3] = broken;
            for b in &mut *machines.backends {
                found_likeliest(b, &row).await.unwrap_err();
            }
        }
    }
}

async fn found_likeliest(b: &mut GpuBackend, row: &[f32]) -> bonsai_runtime::Result<Vec<Candidate>> {
    let mut logits = b.tensor(1, row.len()).unwrap();
    b.write(&mut logits, row);
    likeliest(&b.begin_likeliest(&logits).unwrap().await.unwrap())
}

/// Places and bits of the largest, the lowest place first among equals.
fn sorted(row: &[f32]) -> Vec<(u32, u32)> {
    let mut all: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(LIKELIEST);
    all.into_iter().map(|(place, x)| (place, x.to_bits())).collect()
}
