//! How fast a model runs here, and how near that comes to what the memory can deliver.
//!
//! Tests and their names are those of llama-bench: `pp512` feeds a prompt of 512 tokens at once, `tg128` feeds
//! 128 tokens one by one, ` @ d4096` does so behind 4096 others. Tokens are random.

use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::cpu::KvFormat;
use crate::cpu::threads::{self, Threads};
use crate::error::{Error, Result};
use crate::random::Random;
use crate::session::{Device, Model, Session, SessionOptions};
use crate::vectorized;

/// Tokens fed one by one before the clock starts.
const WARM_UP: usize = 16;
/// Bytes that a thread reads in one go when the bandwidth is measured.
const PIECE: usize = 1 << 20;
/// The bandwidth is the best of at least so many passes over the weights,
const LEAST_PASSES: usize = 5;
/// and of as many as fit into this time.
const PASSES_TIME: Duration = Duration::from_secs(1);

/// What is fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A prompt of so many tokens.
    Prompt(usize),
    /// So many tokens one by one.
    Decode(usize),
}

/// One line of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// What is fed.
    pub work: Work,
    /// Behind how many tokens.
    pub depth: usize,
    /// On how many threads.
    pub threads: usize,
}

impl Work {
    /// Tokens.
    pub fn tokens(self) -> usize {
        let (Self::Prompt(tokens) | Self::Decode(tokens)) = self;
        tokens
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.work {
            Work::Prompt(n) => write!(f, "pp{n}")?,
            Work::Decode(n) => write!(f, "tg{n}")?,
        }
        if self.depth > 0 { write!(f, " @ d{}", self.depth) } else { Ok(()) }
    }
}

/// Seconds of each repetition of a test.
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    /// What was measured.
    pub test: Test,
    /// How long it took, again and again.
    pub seconds: Vec<f64>,
}

impl Timing {
    /// Tokens a second of each repetition.
    pub fn speeds(&self) -> Vec<f64> {
        self.seconds.iter().map(|s| self.test.work.tokens() as f64 / s).collect()
    }
}

/// Mean and sample standard deviation (0 of a single number), as llama-bench computes them.
pub fn mean_and_deviation(x: &[f64]) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let squares: f64 = x.iter().map(|x| (x - mean).powi(2)).sum();
    (mean, if x.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

/// The middle one, or the mean of the two in the middle: what a busy machine disturbs least.
pub fn median(x: &[f64]) -> f64 {
    let mut sorted = x.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[(x.len() - 1) / 2] + sorted[x.len() / 2]) / 2.0
}

/// Where and how the tests run.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The machine.
    pub device: Device,
    /// Threads of the CPU.
    pub threads: usize,
    /// Format of the keys and values.
    pub kv: KvFormat,
}

/// A session for tests of one depth and place.
pub struct Bench {
    session: Session,
    depth: usize,
    threads: usize,
    random: Random,
}

impl Bench {
    /// Feeds `depth` tokens. `most`: tokens of the longest test to come.
    pub fn new(model: &Model, place: Place, depth: usize, most: usize) -> Result<Self> {
        let (context, longest) = (depth.saturating_add(most), model.config().context);
        if context > longest {
            return Err(Error::Argument(format!(
                "{most} tokens behind {depth} need a context of {context}, but the model's ends at {longest}"
            )));
        }
        let options = SessionOptions {
            context: Some(context),
            kv: Some(place.kv),
            threads: Some(place.threads),
            device: place.device,
            ..SessionOptions::default()
        };
        let (mut session, mut random) = (model.session(options)?, Random(0));
        if depth > 0 {
            session.prompt(&random.ids(depth, model.config().vocab))?;
        }
        Ok(Self { session, depth, threads: place.threads, random })
    }

    /// Where it runs: [`Device::Cpu`] or [`Device::Gpu`].
    pub fn device(&self) -> Device {
        self.session.device()
    }

    /// The same, for people.
    pub fn status(&self) -> String {
        self.session.status()
    }

    /// Runs a test once to warm up (of a decode its first tokens), then `repetitions` times with the clock on,
    /// calling `done` after each.
    pub fn run(&mut self, work: Work, repetitions: usize, mut done: impl FnMut()) -> Result<Timing> {
        self.once(match work {
            Work::Prompt(_) => work,
            Work::Decode(n) => Work::Decode(n.min(WARM_UP)),
        })?;
        let mut seconds = Vec::new();
        for _ in 0..repetitions {
            seconds.push(self.once(work)?);
            done();
        }
        let test = Test { work, depth: self.depth, threads: self.threads };
        Ok(Timing { test, seconds })
    }

    fn once(&mut self, work: Work) -> Result<f64> {
        let ids = self.random.ids(work.tokens(), self.session.vocab());
        self.session.rewind(self.depth);
        let start = Instant::now();
        match work {
            Work::Prompt(_) => {
                black_box(self.session.prompt(&ids)?);
            }
            Work::Decode(_) => {
                for id in ids {
                    black_box(self.session.next(id)?);
                }
            }
        }
        Ok(start.elapsed().as_secs_f64())
    }
}

/// What a token costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of all matrices: what each decoded token reads.
    pub weight_bytes: usize,
    /// Bytes of the keys and values of one token: each later token reads them, too.
    pub cache_bytes: usize,
    /// Multiplications in the matrices of the layers.
    pub layer_macs: usize,
    /// Multiplications in the head, which a prompt needs for its last token only.
    pub head_macs: usize,
}

impl Cost {
    /// Counts the matrices of a model.
    pub fn of(model: &Model, kv: KvFormat) -> Self {
        let config = model.config();
        let macs: usize = model.matrices().map(|w| w.rows * w.cols).sum();
        let head_macs = config.vocab * config.hidden;
        Self {
            weight_bytes: model.matrices().map(|w| w.bytes.len()).sum(),
            cache_bytes: kv.bytes_per_token(config),
            layer_macs: macs - head_macs,
            head_macs,
        }
    }

    /// Bytes that a decode reads: all weights for each token, and once the keys and values of each token up to it.
    pub fn bytes_read(&self, test: &Test) -> Option<f64> {
        let Work::Decode(n) = test.work else { return None };
        let (n, depth) = (n as f64, test.depth as f64);
        let cached_tokens = n * depth + n * (n + 1.0) / 2.0;
        Some(n * self.weight_bytes as f64 + cached_tokens * self.cache_bytes as f64)
    }

    /// Multiplications in the matrices that a prompt needs. Attention is not counted.
    pub fn macs(&self, test: &Test) -> Option<f64> {
        let Work::Prompt(n) = test.work else { return None };
        Some(n as f64 * self.layer_macs as f64 + self.head_macs as f64)
    }
}

/// Bytes a second that `threads` threads read when they stream through the model's own weights and do nothing else.
/// The best of some passes: other programs can only make it smaller.
pub fn read_bandwidth(model: &Model, threads: usize) -> Result<f64> {
    let threads = Threads::new(Some(threads))?;
    let pieces: Vec<&[u8]> = model.matrices().flat_map(|w| w.bytes.chunks(PIECE)).collect();
    let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
    let (mut best, start) = (f64::MAX, Instant::now());
    let mut passes = 0;
    while passes < LEAST_PASSES || start.elapsed() < PASSES_TIME {
        let pieces = pieces.clone();
        let start = Instant::now();
        threads.run(|| {
            threads::for_each(pieces, |piece| {
                black_box(vectorized!(read(piece)));
            })
        });
        best = best.min(start.elapsed().as_secs_f64());
        passes += 1;
    }
    Ok(bytes as f64 / best)
}

/// Reads every byte: as cheap as anything that uses them can be.
#[inline(always)]
fn read(bytes: &[u8]) -> [u8; 128] {
    let mut lanes = [0; 128];
    for part in bytes.as_chunks::<128>().0 {
        // Bytes, for of wider words LLVM makes gathers with AVX-512, a fifth as fast.
        lanes.iter_mut().zip(part).for_each(|(lane, byte)| *lane ^= byte);
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_llama_bench() {
        let test = Test { work: Work::Decode(128), depth: 4096, threads: 2 };
        assert_eq!(test.to_string(), "tg128 @ d4096");
        assert_eq!(Test { work: Work::Prompt(512), depth: 0, threads: 2 }.to_string(), "pp512");
    }

    #[test]
    fn statistics_by_hand() {
        assert_eq!(mean_and_deviation(&[1.0, 2.0, 3.0]), (2.0, 1.0));
        assert_eq!(mean_and_deviation(&[5.0]), (5.0, 0.0));
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0]), median(&[7.0])), (2.0, 2.5, 7.0));
    }

    #[test]
    fn costs_by_hand() {
        let cost = Cost { weight_bytes: 100, cache_bytes: 10, layer_macs: 7, head_macs: 3 };
        let test = Test { work: Work::Decode(3), depth: 5, threads: 1 };
        assert_eq!(cost.bytes_read(&test), Some(300.0 + 10.0 * (6.0 + 7.0 + 8.0)));
        assert_eq!(cost.macs(&test), None);
        assert_eq!(cost.macs(&Test { work: Work::Prompt(4), ..test }), Some(31.0));
    }
}
