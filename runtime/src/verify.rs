//! Checks of a model on this machine: its ternary matrices hold ternary codes, every kernel gives the scalar
//! kernel's bits on them, and the fast mode says nearly what the exact one says.

use crate::config::Kind;
use crate::cpu::isa::Isa;
use crate::cpu::ops;
use crate::cpu::ternary_matmul::{Rounded, rows};
use crate::cpu::threads::{self, Threads};
use crate::error::{Error, Result};
use crate::model_file::ModelFile;
use crate::random::Random;
use crate::random_model;
use crate::session::{Model, Session, SessionOptions};
use crate::tensor::{Format, StoredTensor};
use crate::ternary::{Packing, count_zeros};

/// Tokens of the second product that kernels are compared on: some whole tiles and a rest of any kernel.
const BATCH: usize = 19;
/// Rows at both ends of a matrix that the second product takes.
const BATCH_ROWS: usize = 256;
/// Rows that a thread compares in one go.
const PIECE: usize = 64;
/// Tokens that are fed together when modes are compared.
const CHUNK: usize = 32;
/// Tokens after which the modes start with an empty context again.
const WINDOW: usize = 512;

/// What was found in one matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct MatrixReport {
    /// Hugging Face name.
    pub name: String,
    /// Number format.
    pub format: Format,
    /// Number of weights.
    pub weights: usize,
    /// How many of them are zero, in a matrix whose codes are ternary.
    pub zeros: Option<usize>,
    /// The first code that is not 0, 1 or 2, or scale that is no number, in words.
    pub not_ternary: Option<String>,
    /// The first kernel that gives other bits than the scalar one, in words.
    pub differs: Option<String>,
}

impl MatrixReport {
    /// What the matrix is for: its name without the layer, as `q_proj`.
    pub fn part(&self) -> &str {
        self.name.trim_end_matches(".weight").rsplit('.').next().unwrap_or(&self.name)
    }

    /// One sentence for each thing that must not be.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        let found = self.not_ternary.iter().chain(&self.differs);
        found.map(|problem| format!("{}: {problem}", self.name))
    }
}

/// Checks codes, scales and kernels on every matrix of a file, calling `done(weights)` after each.
pub fn matrices(
    file: &ModelFile,
    threads: Option<usize>,
    mut done: impl FnMut(usize),
) -> Result<Vec<MatrixReport>> {
    let threads = Threads::new(threads)?;
    let specs = file.config.tensors().into_iter().filter(|spec| spec.kind != Kind::Norm);
    let check = |spec: crate::config::TensorSpec| {
        let w = &file.tensors[&spec.name];
        let report = threads.run(|| matrix(&spec.name, w));
        done(report.weights);
        report
    };
    Ok(specs.map(check).collect())
}

fn matrix(name: &str, w: &StoredTensor) -> MatrixReport {
    let Format::Ternary(packing) = w.format else {
        let (format, weights) = (w.format, w.rows * w.cols);
        return MatrixReport {
            name: name.into(),
            format,
            weights,
            zeros: None,
            not_ternary: None,
            differs: None,
        };
    };
    let unpacked = packing.unpack(w.rows, w.cols, &w.bytes);
    let bad_scale =
        w.bytes.chunks_exact(packing.block_bytes()).position(|block| !packing.scale(block).is_finite());
    let bad_scale = bad_scale.map(|n| {
        let (row, col) = (n * packing.group() / w.cols, n * packing.group() % w.cols);
        format!("the scale of the group at row {row}, column {col} is not a number")
    });
    MatrixReport {
        name: name.into(),
        format: w.format,
        weights: w.rows * w.cols,
        zeros: unpacked.as_ref().ok().map(|matrix| count_zeros(&matrix.codes)),
        not_ternary: bad_scale.or(unpacked.err()),
        differs: kernels_differ(w),
    }
}

/// Compares every kernel with the scalar one on a small matrix: a program can afford it at each start. Gives the first
/// difference in words. There are engines for WebAssembly that get an instruction wrong.
pub fn self_test() -> Result<Option<String>> {
    let matrix = random_model::random_matrix(70, 512, 1, Packing::Q2_0)?;
    Ok(kernels_differ(&matrix))
}

/// Compares every kernel with the scalar one: all rows with one token, and rows at both ends with [`BATCH`].
fn kernels_differ(w: &StoredTensor) -> Option<String> {
    let (head, tail) =
        (0..w.rows.min(BATCH_ROWS), w.rows.saturating_sub(BATCH_ROWS).max(w.rows.min(BATCH_ROWS)));
    let pieces = |range: std::ops::Range<usize>| {
        range.clone().step_by(PIECE).map(move |n| n..range.end.min(n + PIECE))
    };
    let every = pieces(0..w.rows).collect::<Vec<_>>();
    let ends = pieces(head).chain(pieces(tail..w.rows)).collect::<Vec<_>>();
    [(1, every), (BATCH, ends)].into_iter().find_map(|(tokens, pieces)| {
        let x = activations(tokens * w.cols);
        let rounded = |isa| {
            let mut rounded = Rounded::default();
            rounded.fill(isa, &x, w.cols);
            (isa, rounded)
        };
        let scalar = rounded(Isa::SCALAR).1;
        let others: Vec<_> =
            Isa::available().into_iter().filter(|&isa| isa != Isa::SCALAR).map(rounded).collect();
        let mut found = vec![None; pieces.len()];
        threads::for_each(found.iter_mut().zip(pieces).collect(), |(found, piece)| {
            let product = |isa, x: &Rounded| {
                let mut out = vec![0.0; piece.len() * tokens];
                rows(isa, &mut out, w, piece.start, x.all());
                out
            };
            let expected = product(Isa::SCALAR, &scalar);
            *found = others.iter().find_map(|(isa, x)| {
                let at = first_difference(&expected, &product(*isa, x))?;
                let (row, isa) = (piece.start + at % piece.len(), isa.name());
                Some(format!("kernel {isa} gives other bits than scalar in row {row} with {tokens} tokens"))
            });
        });
        found.into_iter().flatten().next()
    })
}

/// Numbers of very different sizes, as activations are.
fn activations(n: usize) -> Vec<f32> {
    let mut random = Random(n as u64);
    let mut spread = 1.0;
    let next = |i: usize| {
        if i.is_multiple_of(32) {
            spread = libm::exp2f(4.0 * random.normal());
        }
        spread * random.normal()
    };
    (0..n).map(next).collect()
}

fn first_difference(a: &[f32], b: &[f32]) -> Option<usize> {
    a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits())
}

/// A way to compute the same thing, and whether it came out the same.
#[derive(Debug, Clone, PartialEq)]
pub struct PassReport {
    /// Instructions and threads.
    pub name: String,
    /// Where the first logit is that has other bits, in words.
    pub differs: Option<String>,
}

/// Feeds `ids` through the whole model with every instruction set, on one thread and on all, at once and one by
/// one: all logits must have the bits of the scalar code.
pub fn passes(model: &Model, ids: &[u32], threads: Option<usize>) -> Result<Vec<PassReport>> {
    let session = |isa, threads| {
        let context = Some(ids.len().min(model.config().context));
        model.session(SessionOptions { context, isa: Some(isa), threads, ..SessionOptions::default() })
    };
    let expected = session(Isa::SCALAR, threads)?.logits(ids)?;
    let count = threads.unwrap_or_else(Threads::default_count);
    let vocab = model.config().vocab;
    let report = |name: String, got: &[f32]| {
        let sentence = |at: usize| {
            format!(
                "{name}: logit {} of token {} has other bits than with scalar code",
                at % vocab,
                at / vocab
            )
        };
        PassReport { differs: first_difference(&expected, got).map(sentence), name }
    };
    let mut reports = Vec::new();
    for isa in Isa::available() {
        if isa != Isa::SCALAR {
            reports.push(report(
                format!("{}, {count} thread{}", isa.name(), if count == 1 { "" } else { "s" }),
                &session(isa, threads)?.logits(ids)?,
            ));
        }
        reports.push(report(format!("{}, 1 thread", isa.name()), &session(isa, Some(1))?.logits(ids)?));
    }
    let (fastest, mut one_by_one) = (Isa::detect(), Vec::new());
    let mut session = session(fastest, threads)?;
    for &id in ids {
        one_by_one.extend_from_slice(session.next(id)?);
    }
    reports.push(report(format!("{}, one by one", fastest.name()), &one_by_one));
    Ok(reports)
}

/// How far the fast mode (i8 activations) is from the exact one (f32), over the logits of many tokens.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Divergence {
    /// Tokens.
    pub tokens: usize,
    /// Mean of KL(exact || fast), in nats.
    pub kl_mean: f64,
    /// The largest one.
    pub kl_max: f64,
    /// Share of tokens where both modes have the same likeliest successor.
    pub same_top: f64,
    /// Mean of the differences between logits.
    pub difference_mean: f64,
    /// The largest one.
    pub difference_max: f64,
}

/// Feeds `ids` in both modes, calling `progress(tokens done)` now and then.
pub fn fast_against_exact(
    model: &Model,
    ids: &[u32],
    threads: Option<usize>,
    mut progress: impl FnMut(usize),
) -> Result<Divergence> {
    if ids.is_empty() {
        return Err(Error::Argument("no tokens to compare modes on".into()));
    }
    let window = WINDOW.min(model.config().context);
    let session = |exact| {
        model.session(SessionOptions { context: Some(window), exact, threads, ..SessionOptions::default() })
    };
    let (mut exact, mut fast) = (session(true)?, session(false)?);
    let pool = Threads::new(threads)?;
    let mut rows = Vec::new();
    for tokens in ids.chunks(window) {
        exact.reset();
        fast.reset();
        for chunk in tokens.chunks(CHUNK) {
            let feed = |session: &mut Session| session.logits(chunk);
            let (exact, fast) = (feed(&mut exact)?, feed(&mut fast)?);
            rows.extend(pool.run(|| compare_rows(&exact, &fast, model.config().vocab)));
            progress(rows.len());
        }
    }
    Ok(summary(&rows))
}

/// One token in both modes.
#[derive(Debug, Clone, Copy, Default)]
struct Row {
    kl: f64,
    same_top: bool,
    difference_mean: f64,
    difference_max: f64,
}

fn compare_rows(exact: &[f32], fast: &[f32], vocab: usize) -> Vec<Row> {
    let mut rows = vec![Row::default(); exact.len() / vocab];
    let tasks = rows.iter_mut().zip(exact.chunks_exact(vocab).zip(fast.chunks_exact(vocab)));
    threads::for_each(tasks.collect(), |(row, (exact, fast))| *row = compare(exact, fast));
    rows
}

/// All in f64. A logit that is not a number makes the divergence one that is not.
fn compare(exact: &[f32], fast: &[f32]) -> Row {
    let total = |x: &[f32]| {
        let max = f64::from(ops::max(x));
        (max, x.iter().map(|&x| libm::exp(f64::from(x) - max)).sum::<f64>())
    };
    let ((max, sum), (fast_max, fast_sum)) = (total(exact), total(fast));
    let (mut mean, mut row) = (0.0, Row::default());
    for (&x, &y) in exact.iter().zip(fast) {
        let (x, y) = (f64::from(x), f64::from(y));
        let p = libm::exp(x - max) / sum;
        mean += p * (x - y);
        row.difference_mean += (x - y).abs() / exact.len() as f64;
        row.difference_max = row.difference_max.max((x - y).abs());
    }
    // sum p (log p - log q), where log p = x - max - log(sum)
    row.kl = mean - (max - fast_max) - (libm::log(sum) - libm::log(fast_sum));
    row.same_top = top(exact) == top(fast);
    row
}

fn top(x: &[f32]) -> usize {
    (1..x.len()).fold(0, |best, i| if x[i] > x[best] { i } else { best })
}

fn summary(rows: &[Row]) -> Divergence {
    let n = rows.len() as f64;
    let mean = |f: fn(&Row) -> f64| rows.iter().map(f).sum::<f64>() / n;
    let max = |f: fn(&Row) -> f64| rows.iter().map(f).fold(0.0, f64::max);
    Divergence {
        tokens: rows.len(),
        kl_mean: mean(|r| r.kl),
        kl_max: max(|r| r.kl),
        same_top: mean(|r| f64::from(u8::from(r.same_top))),
        difference_mean: mean(|r| r.difference_mean),
        difference_max: max(|r| r.difference_max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_by_hand() {
        let ln = |p: f32| p.ln();
        // P = (1/2, 1/4, 1/4), Q = (1/4, 1/2, 1/4): KL = 1/2 ln 2 - 1/4 ln 2
        let exact = [ln(0.5), ln(0.25), ln(0.25)];
        let fast = [ln(0.25) + 3.0, ln(0.5) + 3.0, ln(0.25) + 3.0]; // a constant changes no probability
        let row = compare(&exact, &fast);
        assert!((row.kl - 0.25 * std::f64::consts::LN_2).abs() < 1e-6, "{row:?}");
        assert!(!row.same_top);
        assert!((row.difference_max - 3.0 - std::f64::consts::LN_2).abs() < 1e-6);
        let same = compare(&exact, &exact);
        assert!(same.kl.abs() < 1e-12 && same.same_top && same.difference_max == 0.0);
        assert!(compare(&exact, &[f32::NAN; 3]).kl.is_nan());
        let both = summary(&[row, same]);
        assert_eq!((both.tokens, both.same_top, both.kl_max), (2, 0.5, row.kl));
        assert!((both.kl_mean - row.kl / 2.0).abs() < 1e-12);
    }

    #[test]
    fn a_damaged_matrix_is_found() {
        let good = crate::random_model::random_matrix(6, 256, 1, crate::ternary::Packing::Q2_0)
            .expect("a small one");
        let report = matrix("model.layers.0.mlp.up_proj.weight", &good);
        assert_eq!((report.part(), report.problems().count()), ("up_proj", 0));
        let damaged = |at: usize, byte: u8| {
            let mut bytes = good.bytes.to_vec();
            bytes[at] = byte;
            matrix("x", &StoredTensor { bytes: bytes.into(), ..good.clone() }).not_ternary.expect("damage")
        };
        assert!(damaged(34 * 2 + 3, 0b11).contains("row 1, column 4"));
        assert!(
            damaged(34 + 1, 0x7e).contains("the scale of the group at row 0, column 128 is not a number")
        );
    }
}
