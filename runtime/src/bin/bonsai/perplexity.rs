//! `bonsai perplexity`: how well a model predicts a text.

use std::path::PathBuf;
use std::time::Instant;

use bonsai_runtime::perplexity::{PerplexityOptions, perplexity};
use bonsai_runtime::{Result, SessionOptions, Tokenizer};
use indicatif::ProgressBar;
use serde_json::json;

use crate::input::{ModelArgs, read_text, tokenizer};
use crate::output;

pub const EXAMPLES: &str = "\
Examples:
  bonsai perplexity -m model.gguf -f wiki.txt
  bonsai perplexity -m model.gguf -f wiki.txt --exact --json

Each window starts with an empty context; all its tokens but the first are scored. Bits per byte can be compared
between models with different tokenizers, perplexity cannot.";

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// UTF-8 text to predict; - reads standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Tokens that are fed together
    #[arg(short, long, value_name = "N", default_value_t = 512, visible_aliases = ["ctx-size", "context"], short_alias = 'c')]
    window: usize,
    /// Only the first N windows of the text [default: all]
    #[arg(long, value_name = "N", visible_alias = "chunks", value_parser = clap::value_parser!(u64).range(1..))]
    windows: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let model = args.model.open()?;
    let tokenizer = tokenizer(&model)?;
    let mut tokens = tokenizer.encode(&read_text(&args.file)?)?;
    let SessionOptions { exact, kv, device, threads, .. } = args.model.session();
    let options = PerplexityOptions { window: args.window, exact, kv, device, threads };
    let window = options.window.min(model.config().context);
    if window < args.window {
        args.model.status(&format!("windows of {window} tokens: the model's context is no longer"));
    }
    if let Some(windows) = args.windows {
        tokens.truncate(window.saturating_mul(windows.try_into().unwrap_or(usize::MAX)));
    }
    let bar = if args.model.quiet { ProgressBar::hidden() } else { output::progress(tokens.len(), "tokens") };
    let start = Instant::now();
    let result = perplexity(&model, &tokens, &options, |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    let speed = result.tokens as f64 / start.elapsed().as_secs_f64();
    let bits_per_byte = scored_bytes(tokenizer, &tokens, window).map(|bytes| result.bits_per_byte(bytes));
    if args.json {
        return output::json(&json!({
            "perplexity": result.value(),
            "bits_per_byte": bits_per_byte,
            "nll_sum": result.nll_sum,
            "scored_tokens": result.tokens,
            "windows": result.windows,
            "window": window,
            "exact": exact,
            "kv": args.model.session().kv_format().name(),
            "tokens_per_second": speed,
        }));
    }
    args.model
        .status(&format!("{} tokens in {} windows of {window}, {speed:.0}/s", result.tokens, result.windows));
    let bits = bits_per_byte.map_or(String::new(), |bits| format!("bits per byte {bits:.4}\n"));
    output::print(&format!("perplexity {:.4}\n{bits}", result.value()))
}

/// Bytes of the tokens that count: all but the first of each window. `None` if tokens are not bytes.
fn scored_bytes(tokenizer: &Tokenizer, tokens: &[u32], window: usize) -> Option<usize> {
    let scored = tokens.chunks(window).flat_map(|tokens| &tokens[1..]);
    scored.map(|&id| tokenizer.token_bytes(id).map(<[u8]>::len)).sum()
}
