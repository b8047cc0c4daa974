//! `bonsai bench`: tokens a second, in the manner of llama-bench, beside what the memory can deliver.

use std::path::PathBuf;

use bonsai_runtime::bench::{
    Bench, Cost, Place, Test, Timing, Work, mean_and_deviation, median, read_bandwidth,
};
use bonsai_runtime::cpu::isa::Isa;
use bonsai_runtime::cpu::threads::Threads;
use bonsai_runtime::gguf::PackedFormat;
use bonsai_runtime::random_model::{random_model, shape};
use bonsai_runtime::{Device, Error, KvFormat, Model, ModelFile, Result};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::output::{self, Table, status};

pub const EXAMPLES: &str = "\
Examples:
  bonsai bench                                   a random model of Qwen3-0.6B's shape: nothing to download
  bonsai bench --shape 1.7b -t 1,2,4             how speed grows with threads
  bonsai bench -m model.gguf -p 512 -n 128       prompt of 512 tokens, then 128 tokens one by one
  bonsai bench -m model.gguf -p 0 -n 64 -d 0,4096    decoding behind 4096 tokens
  bonsai bench -m model.gguf --device gpu        the same on a GPU (built with --features gpu)
  bonsai bench -m model.gguf --device gpu --autotune    the fastest kernels for this GPU, and what limits it
  bonsai bench -m model.gguf -o json > bench.json    all samples

Tests are named as llama-bench does: pp512 (a prompt), tg128 (token by token), '@ d4096' (behind 4096 tokens).
  t/s       mean ± standard deviation over the repetitions, after a warm-up
  median    what a busy machine disturbs least; the columns after it follow from it
  GB/s      weights and KV cache that decoding reads
  of read   that, as a share of the speed at which the same threads can read these weights and do nothing else
            (best of several passes, measured just before; the last line gives it; of CPUs only)
  GMAC/s    multiplications in the matrices a prompt needs";

#[derive(clap::Args)]
pub struct Args {
    /// GGUF file or Hugging Face directory; without it, a random model of --shape is made in memory
    #[arg(short, long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Shape of the random model: 0.6b, 1.7b, 4b, 8b, and for browsers 25m and 25m-vocab
    #[arg(long, value_name = "NAME", default_value = "0.6b", conflicts_with = "model")]
    shape: String,
    /// Packing of the random model: q2_0, q2_0_g64, pq2_0, ptq1_0, tq2_0 or tq1_0
    #[arg(long, value_name = "FORMAT", default_value = "q2_0", conflicts_with = "model")]
    format: PackedFormat,
    /// Prompt lengths; 0: none
    #[arg(short = 'p', long, value_name = "N,..", value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<usize>,
    /// Numbers of tokens to decode; 0: none
    #[arg(short, long, value_name = "N,..", value_delimiter = ',', default_value = "128")]
    n_gen: Vec<usize>,
    /// Numbers of tokens in front of all that
    #[arg(short = 'd', long, value_name = "N,..", value_delimiter = ',', default_value = "0")]
    n_depth: Vec<usize>,
    /// Numbers of threads [default: one per core]
    #[arg(short, long, value_name = "T,..", value_delimiter = ',')]
    threads: Vec<usize>,
    /// Where to compute: cpu, gpu (or an error), auto (a GPU if there is a good one); `bonsai devices` lists them
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Device,
    /// Keys and values of the context as f32, f16, int16, int8 or int4 [default: int16; f16 on a GPU]
    #[arg(long, value_name = "FORMAT")]
    kv: Option<KvFormat>,
    /// Try every way of computing products on this GPU, remember the fastest, and print what limits a token there; -n
    /// tokens are decoded for each number of tokens per submission
    #[arg(long, conflicts_with_all = ["output", "json", "n_depth", "repetitions"])]
    autotune: bool,
    /// Copy the weights into huge pages before, as `bonsai run --no-mmap` does
    #[arg(long)]
    no_mmap: bool,
    /// How often each test is repeated
    #[arg(short, long, value_name = "R", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "md")]
    output: Format,
    /// Same as -o json
    #[arg(long)]
    json: bool,
    /// No status lines, no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Format {
    Md,
    Json,
    Csv,
}

/// Something measured, and what it is measured against.
struct Measured {
    timing: Timing,
    device: Device,
    /// Bytes a second that the memory delivers to as many threads of a CPU.
    bandwidth: Option<f64>,
}

/// The model and what stays the same in every line.
struct Subject {
    name: String,
    model: Model,
    cost: Cost,
    bytes: usize,
    kv: KvFormat,
}

pub fn run(args: &Args) -> Result<()> {
    let plan = Plan::new(args)?;
    if args.autotune {
        return autotune(args, &plan);
    }
    let subject = args.subject()?;
    let bar = if args.quiet { ProgressBar::hidden() } else { output::progress(plan.runs(), "runs") };
    let (format, mut bandwidths) = (if args.json { Format::Json } else { args.output }, Vec::new());
    let (mut all, table) = (Vec::new(), table(&subject.name));
    for &threads in &plan.threads {
        let mut bandwidth = None;
        for &depth in &plan.depths {
            bar.set_message(format!("{threads} threads: {depth} tokens in front"));
            let place = Place { device: args.device, threads, kv: args.kv() };
            let mut bench = Bench::new(&subject.model, place, depth, plan.most())?;
            if bench.device() == Device::Cpu && bandwidth.is_none() {
                bar.set_message(format!("{threads} threads: read bandwidth"));
                let measured = read_bandwidth(&subject.model, threads)?;
                bandwidths.push((threads, measured));
                bandwidth = Some(measured);
            }
            if args.device != Device::Cpu && !args.quiet && depth == plan.depths[0] {
                bar.suspend(|| status(&bench.status()));
            }
            for &work in &plan.works {
                bar.set_message(format!("{threads} threads: {}", Test { work, depth, threads }));
                let timing = bench.run(work, args.repetitions as usize, || bar.inc(1))?;
                let measured = Measured { timing, device: bench.device(), bandwidth };
                if format == Format::Md {
                    let head = if all.is_empty() { table.head() } else { String::new() };
                    bar.suspend(|| output::print(&(head + &table.row(&subject.cells(&measured)))))?;
                }
                all.push(measured);
            }
        }
    }
    bar.finish_and_clear();
    match format {
        Format::Md => output::print(&footer(&subject, &bandwidths)),
        Format::Json => output::json(&all.iter().map(|m| subject.as_json(m, true)).collect()),
        Format::Csv => output::print(&csv(all.iter().map(|m| subject.as_json(m, false)))),
    }
}

#[cfg(feature = "gpu")]
fn autotune(args: &Args, plan: &Plan) -> Result<()> {
    if args.device != Device::Gpu {
        return Err(Error::Argument("--autotune is for --device gpu".into()));
    }
    let subject = args.subject()?;
    crate::autotune::run(&subject.model, &subject.name, args.kv(), plan.decoded())
}

#[cfg(not(feature = "gpu"))]
fn autotune(_: &Args, _: &Plan) -> Result<()> {
    Err(Error::Gpu("this program was built without (cargo build --features gpu,cli)".into()))
}

/// Which tests to run: for each number of threads and each depth, every prompt length, then every decode.
struct Plan {
    threads: Vec<usize>,
    depths: Vec<usize>,
    works: Vec<Work>,
    repetitions: usize,
}

impl Plan {
    fn new(args: &Args) -> Result<Self> {
        let prompts = args.n_prompt.iter().filter(|n| **n > 0).map(|&n| Work::Prompt(n));
        let decodes = args.n_gen.iter().filter(|n| **n > 0).map(|&n| Work::Decode(n));
        let works: Vec<Work> = prompts.chain(decodes).collect();
        if works.is_empty() {
            return Err(Error::Argument("nothing to measure: give -p or -n a number above 0".into()));
        }
        let mut threads = args.threads.clone();
        if threads.is_empty() || args.device == Device::Gpu {
            threads = vec![Threads::default_count()]; // a GPU does not care
        }
        Ok(Self { threads, depths: args.n_depth.clone(), works, repetitions: args.repetitions as usize })
    }

    /// Tokens of the longest test.
    fn most(&self) -> usize {
        self.works.iter().map(|work| work.tokens()).max().unwrap_or(0)
    }

    /// Tokens of the longest decode.
    #[cfg(feature = "gpu")]
    fn decoded(&self) -> usize {
        let decodes = self.works.iter().filter(|work| matches!(work, Work::Decode(_)));
        decodes.map(|work| work.tokens()).max().unwrap_or(1)
    }

    fn runs(&self) -> usize {
        self.threads.len() * self.depths.len() * self.works.len() * self.repetitions
    }
}

impl Args {
    /// What every device has, unless the CPU is asked for.
    fn kv(&self) -> KvFormat {
        self.kv.unwrap_or(if self.device == Device::Cpu { KvFormat::default() } else { KvFormat::F16 })
    }

    fn subject(&self) -> Result<Subject> {
        let mut file = match &self.model {
            Some(path) => ModelFile::open(path)?,
            None => random_model(shape(&self.shape)?, self.format.packing())?,
        };
        if self.no_mmap {
            file.copy_tensors()?;
        }
        let bytes = file.tensors.values().map(|t| t.bytes.len()).sum();
        let model = Model::from_file(file)?;
        let name = match &self.model {
            Some(path) => path.file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned()),
            None => format!("random {} {}", self.shape, self.format),
        };
        if !self.quiet {
            status(model.description());
        }
        Ok(Subject { name, cost: Cost::of(&model, self.kv()), model, bytes, kv: self.kv() })
    }
}

impl Measured {
    fn read_share(&self, bytes: Option<f64>) -> Option<f64> {
        Some(bytes? / self.bandwidth?)
    }
}

impl Subject {
    fn cells(&self, m: &Measured) -> Vec<String> {
        let speeds = m.timing.speeds();
        let (mean, deviation) = mean_and_deviation(&speeds);
        let (bytes, macs) = (self.bytes_per_second(m), self.macs_per_second(m));
        let on_gpu = m.device == Device::Gpu;
        let giga = |x: Option<f64>| x.map_or(String::new(), |x| format!("{:.1}", x / 1e9));
        vec![
            self.name.clone(),
            format!("{:.1} MiB", self.bytes as f64 / f64::from(1 << 20)),
            output::count(self.model.config().parameters()),
            if on_gpu { "gpu".into() } else { format!("cpu {}", Isa::detect().name()) },
            if on_gpu { String::new() } else { m.timing.test.threads.to_string() },
            m.timing.test.to_string(),
            format!("{mean:.2} ± {deviation:.2}"),
            format!("{:.2}", median(&speeds)),
            giga(bytes),
            m.read_share(bytes).map_or(String::new(), |share| format!("{:.0} %", 100.0 * share)),
            giga(macs),
        ]
    }

    /// Keys as llama-bench has them, as far as they mean the same here.
    fn as_json(&self, m: &Measured, samples: bool) -> Value {
        let Timing { test, seconds } = &m.timing;
        let speeds = m.timing.speeds();
        let nanoseconds: Vec<f64> = seconds.iter().map(|s| (s * 1e9).round()).collect();
        let ((avg_ts, stddev_ts), (avg_ns, stddev_ns)) =
            (mean_and_deviation(&speeds), mean_and_deviation(&nanoseconds));
        let tokens = |prompt: bool| {
            if matches!(test.work, Work::Prompt(_)) == prompt { test.work.tokens() } else { 0 }
        };
        let bytes = self.bytes_per_second(m);
        let mut value = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cpu_info": cpu(),
            "backends": if m.device == Device::Gpu { "GPU" } else { "CPU" },
            "isa": Isa::detect().name(),
            "model_filename": self.name,
            "model_type": self.model.description(),
            "model_size": self.bytes,
            "model_n_params": self.model.config().parameters(),
            "type_k": self.kv.name(),
            "type_v": self.kv.name(),
            "n_threads": test.threads,
            "n_prompt": tokens(true),
            "n_gen": tokens(false),
            "n_depth": test.depth,
            "test": test.to_string(),
            "avg_ns": avg_ns,
            "stddev_ns": stddev_ns,
            "avg_ts": avg_ts,
            "stddev_ts": stddev_ts,
            "median_ts": median(&speeds),
            "gb_per_s": bytes.map(|x| x / 1e9),
            "read_gb_per_s": m.bandwidth.map(|x| x / 1e9),
            "read_share": m.read_share(bytes),
            "gmac_per_s": self.macs_per_second(m).map(|x| x / 1e9),
        });
        if samples {
            value["samples_ns"] = json!(nanoseconds);
            value["samples_ts"] = json!(speeds);
        }
        value
    }

    fn bytes_per_second(&self, m: &Measured) -> Option<f64> {
        self.cost.bytes_read(&m.timing.test).map(|bytes| bytes / median(&m.timing.seconds))
    }

    fn macs_per_second(&self, m: &Measured) -> Option<f64> {
        self.cost.macs(&m.timing.test).map(|macs| macs / median(&m.timing.seconds))
    }
}

fn table(name: &str) -> Table {
    Table::new(&[
        ("model", -(name.chars().count() as i32)),
        ("size", 10),
        ("params", 8),
        ("backend", -16),
        ("threads", 7),
        ("test", -13),
        ("t/s", 16),
        ("median", 8),
        ("GB/s", 5),
        ("of read", 7),
        ("GMAC/s", 6),
    ])
}

fn footer(subject: &Subject, bandwidths: &[(usize, f64)]) -> String {
    if bandwidths.is_empty() {
        return String::new(); // a GPU's memory
    }
    let size = subject.cost.weight_bytes as f64 / 1e6;
    let of = |&(threads, x): &(usize, f64)| {
        format!("{:.1} GB/s with {threads} thread{}", x / 1e9, if threads == 1 { "" } else { "s" })
    };
    let all: Vec<String> = bandwidths.iter().map(of).collect();
    format!("\nread bandwidth, streaming through {size:.0} MB of weights: {}\n", all.join(", "))
}

/// Objects with the same keys, as lines.
fn csv(objects: impl Iterator<Item = Value>) -> String {
    let mut text = String::new();
    for object in objects {
        let object = object.as_object().cloned().unwrap_or_default();
        let line = |cells: Vec<String>| cells.join(",") + "\n";
        if text.is_empty() {
            text += &line(object.keys().cloned().collect());
        }
        let quoted = |value: &Value| match value {
            Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        text += &line(object.values().map(quoted).collect());
    }
    text
}

/// The processor's name, where the system says it in a file.
fn cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}
