//! `bonsai bench --device gpu --autotune`: what to know about a GPU first, in one block that can be pasted.

use std::time::Instant;

use bonsai_runtime::gpu::autotune::{Autotune, Tried, Tuned, dispatches, read_bandwidth};
use bonsai_runtime::gpu::choices;
use bonsai_runtime::gpu::device::{Gpu, GpuOptions};
use bonsai_runtime::{Device, KvFormat, Model, Result, Sampler, SamplerOptions, SessionOptions};

use crate::output;

/// Dispatches that must wait for each other: one, about a token's, and ten times that.
const DISPATCHES: [usize; 3] = [1, 150, 1500];
/// Tokens handed over at a time.
const PER_SUBMIT: [usize; 4] = [1, 2, 4, 8];

/// Measures, prints as it goes, and remembers the fastest ways. `tokens`: how many a speed is measured over.
pub fn run(model: &Model, name: &str, kv: KvFormat, tokens: usize) -> Result<()> {
    let gpu = Gpu::open(&GpuOptions::default())?;
    let autotune = Autotune::new(&gpu, model)?;
    output::print(&head(name, &gpu, autotune.halves()))?;
    output::print(&format!("{}\n{}", memory(&gpu)?, queue(&gpu)?))?;
    output::print(
        "products of one token; seconds are of one stack, errors against masks, shared, 64 threads\n",
    )?;
    let tuned = autotune.tune(|tuned| {
        let _ = output::print(&table(tuned)); // whoever has stopped reading still gets his choices
    })?;
    let chosen: Vec<_> = tuned.iter().filter_map(|t| t.best().map(|best| (t.shape, best.way))).collect();
    drop(autotune);
    let path = choices::remember(&gpu, &chosen)?;
    drop(gpu);
    for per_submit in PER_SUBMIT {
        let speed = speed(model, kv, per_submit, tokens)?;
        output::print(&format!("decode       {speed:.2} tokens/s, {per_submit} a submission\n"))?;
    }
    output::print(&format!("remembered   {}\n", path.display()))
}

fn head(name: &str, gpu: &Gpu, halves: bool) -> String {
    let (adapter, limits) = (gpu.adapter(), gpu.limits());
    let halves = if halves { "kept: codes may be read as such" } else { "lost: codes are masked" };
    format!(
        "bonsai       {}, {name}\ndevice       {}\nlimits       {} MiB a binding, {} MiB a buffer, {} threads, {} KiB shared, {} storage buffers, grids of {}\nadapter      {adapter}\nsmall halves {halves}\n",
        env!("CARGO_PKG_VERSION"),
        gpu.status(),
        limits.binding >> 20,
        limits.buffer >> 20,
        limits.threads,
        limits.shared >> 10,
        limits.bindings,
        limits.groups,
    )
}

fn memory(gpu: &Gpu) -> Result<String> {
    let (speed, bytes) = read_bandwidth(gpu)?;
    Ok(format!("reading      {:.1} GB/s, the best over {} MiB", speed / 1e9, bytes >> 20))
}

fn queue(gpu: &Gpu) -> Result<String> {
    let mut text = String::new();
    for count in DISPATCHES {
        let seconds = dispatches(gpu, count)?;
        text += &format!(
            "dispatches   {count:>4} that wait for each other: {:.3} ms, {:.2} us each\n",
            1e3 * seconds,
            1e6 * seconds / count as f64
        );
    }
    Ok(text)
}

/// A shape and its ways, the fastest marked.
fn table(tuned: &Tuned) -> String {
    let shape = tuned.shape;
    let weights = if shape.group > 0 { format!("groups of {}", shape.group) } else { "dense".into() };
    let mut text = format!(
        "{} x {}: {} stacks of {} matrices in {weights}, {:.2} MB each\n",
        shape.rows,
        shape.cols,
        tuned.stacks,
        shape.matrices,
        tuned.bytes as f64 / 1e6
    );
    let best = tuned.best().map(|best| best.way);
    for tried in &tuned.tried {
        let mark = if best == Some(tried.way) { "*" } else { " " };
        text += &format!("  {mark} {:<30} {}\n", tried.way.name(), cells(tried, tuned.bytes));
    }
    text
}

fn cells(tried: &Tried, bytes: u64) -> String {
    match (&tried.error, tried.seconds) {
        (Ok(error), Some(seconds)) => {
            let speed = bytes as f64 / seconds / 1e9;
            format!("{:>9.1} us {speed:>7.2} GB/s   error {error:.0e}", 1e6 * seconds)
        }
        (Ok(error), None) => format!("WRONG: error {error:.0e}"),
        (Err(why), _) => format!("not possible: {why}"),
    }
}

/// Tokens a second of greedy decoding.
fn speed(model: &Model, kv: KvFormat, per_submit: usize, tokens: usize) -> Result<f64> {
    let context = Some((tokens + 1).min(model.config().context));
    let options = SessionOptions {
        context,
        device: Device::Gpu,
        kv: Some(kv),
        tokens_per_submit: Some(per_submit),
        ..Default::default()
    };
    let (mut session, mut sampler) = (model.session(options)?, Sampler::new(SamplerOptions::greedy()));
    let mut start = Instant::now();
    let mut count = 0;
    for (n, id) in session.generate(&[0], &mut sampler, tokens).enumerate() {
        id?;
        count = n;
        if n == 0 {
            start = Instant::now(); // the prompt's
        }
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}
