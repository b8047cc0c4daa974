//! Times training steps on made-up tokens and prints one JSON line: the counterpart of `tools/peers/train_step.py`.
//!
//! `train_step PRESET BATCH SEQ STEPS [KEY=VALUE ...]`, for example `train_step 20m 16 256 5` (model A of the peers);
//! `device=gpu` in a build with `--features gpu`, which also says what the last step asked of the device. `teacher=random`
//! lets a GPU's run learn from a dense model of the same shape.

use std::time::Instant;

#[cfg(feature = "gpu")]
use bonsai_runtime::Config;
use bonsai_trainer::backend::Backend;
use bonsai_trainer::config::{RunConfig, preset};
use bonsai_trainer::data::Tokens;
use bonsai_trainer::train::Trainer;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, batch, seq, steps, settings @ ..] = arguments.as_slice() else {
        eprintln!("usage: train_step PRESET BATCH SEQ STEPS [KEY=VALUE ...]");
        std::process::exit(2);
    };
    let number = |text: &String| text.parse::<usize>().expect("a whole number");
    let (batch, seq, steps) = (number(batch), number(seq), number(steps));
    let settings: Vec<_> =
        settings.iter().map(|s| bonsai_trainer::commands::parse_setting(s).expect("KEY=VALUE")).collect();
    let config = RunConfig { batch_size: batch, seq_len: seq, steps: steps as u64, ..RunConfig::default() };
    let config = RunConfig::load_over(&config, &settings).expect("settings of a run");
    let vocab = if name == "0.6b" { 151_936 } else { 4096 };
    let model = preset(name, vocab, seq).expect("a preset");
    let tokens = bonsai_benches::tokens(vocab, batch * seq * 4 + 1);
    let (seconds, losses) = match config.device.as_str() {
        #[cfg(feature = "gpu")]
        "gpu" => on_gpu(&model, config, &tokens),
        #[cfg(not(feature = "gpu"))]
        "gpu" => panic!("built without --features gpu"),
        _ => timed(&mut bonsai_benches::trainer(name, vocab, config), &tokens),
    };
    report(name, &model, batch * seq, &seconds, &losses);
}

/// Seconds and loss of every step.
fn timed<B: Backend>(trainer: &mut Trainer<B>, tokens: &Tokens) -> (Vec<f64>, Vec<f64>) {
    let steps = trainer.config.steps;
    let step = |_| {
        let clock = Instant::now();
        let loss = trainer.step(tokens).expect("a step").loss;
        (clock.elapsed().as_secs_f64(), loss)
    };
    (0..steps).map(step).unzip()
}

/// The same on a GPU, with what it allocated and what the last step asked for on stderr.
#[cfg(feature = "gpu")]
fn on_gpu(model: &Config, config: RunConfig, tokens: &Tokens) -> (Vec<f64>, Vec<f64>) {
    use bonsai_runtime::gpu::device::{Gpu, GpuOptions};
    use bonsai_trainer::gpu::GpuBackend;
    let gpu = Gpu::open(&GpuOptions::default()).expect("a GPU");
    eprintln!("{}", gpu.status());
    let open = || GpuBackend::new(gpu.clone(), model, config.seq_len).expect("a known shape");
    let teacher = (config.teacher == "random").then(|| bonsai_benches::teacher(open(), model, &config));
    let forecast = bonsai_trainer::fit::Forecast::new(model, teacher.as_ref().map(|_| model), &config);
    let forecast = forecast.expect("settings of a run").total();
    let mut trainer = bonsai_benches::trainer_on(open(), model.clone(), config.clone()).with_teacher(teacher);
    let all = config.steps;
    trainer.config.steps = all - 1;
    let (mut seconds, mut losses) = timed(&mut trainer, tokens);
    let before = trainer.backend.counts();
    trainer.config.steps = 1;
    let last = timed(&mut trainer, tokens);
    let after = trainer.backend.counts();
    eprintln!(
        "the last step: {} dispatches, {} submissions, {} read-backs, {} bytes up, {} down, {:.1} MB bound",
        after.dispatches - before.dispatches,
        after.submits - before.submits,
        after.read_backs - before.read_backs,
        after.bytes_up - before.bytes_up,
        after.bytes_down - before.bytes_down,
        (after.bytes_bound - before.bytes_bound) as f64 / 1e6,
    );
    eprintln!("allocated {:.1} MB, forecast {:.1} MB", after.allocated as f64 / 1e6, forecast as f64 / 1e6);
    seconds.extend(last.0);
    losses.extend(last.1);
    (seconds, losses)
}

fn report(name: &str, model: &bonsai_runtime::Config, tokens: usize, seconds: &[f64], losses: &[f64]) {
    let mut sorted = seconds[1.min(seconds.len() - 1)..].to_vec(); // the first step makes buffers
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    println!(
        "{{\"model\": \"{name}\", \"parameters\": {}, \"tokens\": {tokens}, \"seconds\": {seconds:.3?}, \"median_s\": {median:.4}, \"tokens_per_s\": {:.1}, \"peak_rss_mib\": {}, \"losses\": {losses:.4?}}}",
        model.parameters(),
        tokens as f64 / median,
        peak_rss_mib(),
    );
}

/// Largest resident size of this process so far, where the system tells.
fn peak_rss_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / 1024
}
