//! Times training steps on made-up tokens and prints one JSON line: the counterpart of `tools/peers/train_step.py`.
//!
//! `train_step PRESET BATCH SEQ STEPS [KEY=VALUE ...]`, for example `train_step 20m 16 256 5` (model A of the peers).

use std::time::Instant;

use bonsai_trainer::config::{RunConfig, preset};

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
    let mut trainer = bonsai_benches::trainer(name, vocab, config);
    let mut seconds = Vec::new();
    let mut losses = Vec::new();
    for _ in 0..steps {
        let clock = Instant::now();
        losses.push(trainer.step(&tokens).expect("a step").loss);
        seconds.push(clock.elapsed().as_secs_f64());
    }
    report(name, &model, batch * seq, &seconds, &losses);
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
