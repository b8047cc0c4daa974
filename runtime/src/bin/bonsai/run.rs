//! `bonsai run`: continues a prompt.

use std::time::Instant;

use bonsai_runtime::{Model, Result, Sampler, SessionOptions};
use serde_json::json;

use crate::input::{ModelArgs, PromptArgs};
use crate::output;
use crate::sampling::SamplingArgs;

pub const EXAMPLES: &str = "\
Examples:
  bonsai run -m model.gguf -p 'Once upon a time' -n 100
  bonsai run -m model.gguf -p 'The sky is' --temp 0           always the likeliest token
  bonsai run -m model.gguf -p 'The sky is' --seed 7           the same text every time, everywhere
  cat notes.txt | bonsai run -m model.gguf -f - --json        one JSON object at the end
  bonsai run -m hf_directory --tokens 1,403,407 -n 20         ids in, ids out: no tokenizer needed";

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Most tokens to write; -1 goes on until the model ends or the context is full
    #[arg(short, long, value_name = "N", default_value_t = 128, allow_negative_numbers = true)]
    #[arg(visible_aliases = ["max-tokens", "predict"])]
    n_predict: i64,
    /// Most tokens of prompt and answer, the last of which needs no room [default: the model's, at most 4096]
    #[arg(short, long, value_name = "N", visible_alias = "context")]
    ctx_size: Option<usize>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Print one JSON object at the end instead of the text as it comes
    #[arg(long)]
    json: bool,
}

/// What came out, and how fast.
struct Written {
    ids: Vec<u32>,
    text: Option<String>,
    stop: &'static str,
    prompt_seconds: f64,
    decode_seconds: f64,
}

pub fn run(args: &Args) -> Result<()> {
    let model = args.model.open()?;
    let prompt = args.prompt.ids(&model)?;
    let mut sampler = Sampler::new(args.sampling.options());
    args.model.status(&format!("sampler: {}", sampler.chain()));
    let written = write(args, &model, &prompt, &mut sampler)?;
    // The first token comes from the prompt's logits; the rest cost a pass each.
    let decoded = written.ids.len().saturating_sub(1);
    let speed = |tokens: usize, seconds: f64| tokens as f64 / seconds.max(1e-9);
    let (prompt_speed, decode_speed) =
        (speed(prompt.len(), written.prompt_seconds), speed(decoded, written.decode_seconds));
    args.model.status(&format!(
        "prompt {} tokens, {prompt_speed:.1}/s; answer {} tokens, {decode_speed:.1}/s; stopped by {}",
        prompt.len(),
        written.ids.len(),
        written.stop
    ));
    if args.json {
        output::json(&json!({
            "text": written.text,
            "tokens": written.ids,
            "stop": written.stop,
            "seed": sampler.options().seed,
            "sampler": sampler.chain(),
            "prompt_tokens": prompt.len(),
            "prompt_tokens_per_second": prompt_speed,
            "decode_tokens_per_second": decode_speed,
        }))?;
    }
    Ok(())
}

/// Generates, printing whole characters as they come (ids where there is no tokenizer).
fn write(args: &Args, model: &Model, prompt: &[u32], sampler: &mut Sampler) -> Result<Written> {
    let options = SessionOptions { context: args.ctx_size, ..args.model.session() };
    let mut session = args.model.start(model, options)?;
    let room = (session.context() + 1).saturating_sub(prompt.len());
    let wanted = usize::try_from(args.n_predict).unwrap_or(usize::MAX);
    let tokenizer = match (model.tokenizer(), &args.prompt.tokens) {
        (Err(error), Some(_)) => {
            args.model.status(&format!("no tokenizer, so ids come out: {error}"));
            None
        }
        (tokenizer, _) => tokenizer?,
    };
    let mut decoder = tokenizer.map(|tokenizer| tokenizer.stream());
    let mut written =
        Written { ids: Vec::new(), text: None, stop: "limit", prompt_seconds: 0.0, decode_seconds: 0.0 };
    let mut text = String::new();
    let mut emit = |piece: &str| {
        text.push_str(piece);
        if args.json { Ok(()) } else { output::print(piece) }
    };
    let mut start = Instant::now();
    // Even for -n 0 the prompt is checked and fed; the last sampled token needs no room of its own.
    if wanted == 0 {
        session.prompt(prompt)?;
        written.prompt_seconds = start.elapsed().as_secs_f64();
    }
    let most = wanted.min(room.max(1));
    for id in session.generate(prompt, sampler, most) {
        let id = id?;
        if written.ids.is_empty() {
            written.prompt_seconds = start.elapsed().as_secs_f64();
            start = Instant::now();
        }
        written.ids.push(id);
        match &mut decoder {
            Some(decoder) => emit(&decoder.push(id)?)?,
            None => emit(&format!("{id} "))?,
        }
    }
    match written.ids.is_empty() {
        true if wanted > 0 => written.prompt_seconds = start.elapsed().as_secs_f64(), // an end token came first
        _ => written.decode_seconds = start.elapsed().as_secs_f64(),
    }
    emit(&decoder.map_or_else(String::new, |decoder| decoder.finish()))?;
    if !args.json {
        output::print("\n")?;
    }
    if written.ids.len() < most {
        written.stop = "end token";
    } else if most < wanted {
        written.stop = "full context";
    }
    written.text = tokenizer.map(|_| text);
    Ok(written)
}
