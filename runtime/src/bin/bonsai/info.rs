//! `bonsai info`: what a model file holds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bonsai_runtime::tokenizer::{LazyTokenizer, TokenizerFacts};
use bonsai_runtime::{KvFormat, ModelFile, Result, SessionOptions};
use serde_json::{Value, json};

use crate::output;

pub const EXAMPLES: &str = "\
Examples:
  bonsai info -m model.gguf
  bonsai info -m hf_directory --json | jq .config.layers";

#[derive(clap::Args)]
pub struct Args {
    /// GGUF file or Hugging Face directory
    #[arg(short, long, value_name = "PATH")]
    model: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Tensors, weights and bytes of one number format.
#[derive(Default)]
struct Total {
    tensors: usize,
    weights: usize,
    bytes: usize,
}

pub fn run(args: &Args) -> Result<()> {
    let file = ModelFile::open(&args.model)?;
    let formats = formats(&file);
    let tokenizer = file.tokenizer.as_ref().map(LazyTokenizer::facts).transpose()?;
    if args.json {
        output::json(&as_json(&file, &formats, tokenizer))
    } else {
        output::print(&as_text(&file, &formats, tokenizer))
    }
}

fn formats(file: &ModelFile) -> BTreeMap<&'static str, Total> {
    let mut formats = BTreeMap::<_, Total>::new();
    for tensor in file.tensors.values() {
        let total = formats.entry(tensor.format.name()).or_default();
        total.tensors += 1;
        total.weights += tensor.rows * tensor.cols;
        total.bytes += tensor.bytes.len();
    }
    formats
}

fn bits_per_weight(formats: &BTreeMap<&str, Total>) -> f64 {
    let bytes: usize = formats.values().map(|t| t.bytes).sum();
    let weights: usize = formats.values().map(|t| t.weights).sum();
    bytes as f64 * 8.0 / weights as f64
}

fn as_json(file: &ModelFile, formats: &BTreeMap<&str, Total>, tokenizer: Option<TokenizerFacts>) -> Value {
    let format = |(name, t): (&&str, &Total)| {
        ((*name).to_string(), json!({ "tensors": t.tensors, "weights": t.weights, "bytes": t.bytes }))
    };
    json!({
        "description": file.description,
        "config": file.config,
        "parameters": file.config.parameters(),
        "bits_per_weight": bits_per_weight(formats),
        "formats": formats.iter().map(format).collect::<serde_json::Map<_, _>>(),
        "tokenizer": tokenizer.map(|t| json!({
            "tokens": t.tokens, "eos": t.eos, "bos": t.bos, "chat_template": t.chat_template,
        })),
        "kv_bytes_per_token": KvFormat::default().bytes_per_token(&file.config),
    })
}

fn as_text(file: &ModelFile, formats: &BTreeMap<&str, Total>, tokenizer: Option<TokenizerFacts>) -> String {
    let c = &file.config;
    let millions = |n: u64| format!("{:.1} M", n as f64 / 1e6);
    let mebibytes = |n: usize| format!("{:.1} MiB", n as f64 / f64::from(1 << 20));
    let scaling = c.rope.scaling.map_or(String::new(), |scaling| format!(", {scaling}"));
    let norm = if c.qk_norm_eps.is_some() { "with" } else { "without" };
    let mut lines = vec![
        file.description.clone(),
        format!(
            "parameters    {}, {:.3} bits per weight",
            millions(c.parameters()),
            bits_per_weight(formats)
        ),
        format!("layers        {} of width {}, feed-forward {}", c.layers, c.hidden, c.intermediate),
        format!(
            "attention     {} heads of {}, {} key/value heads, {norm} q/k norm",
            c.heads, c.head_dim, c.kv_heads
        ),
        format!("vocabulary    {}, {} head", c.vocab, if c.tied { "tied" } else { "untied" }),
        format!("context       {} tokens, rope theta {}{scaling}", c.context, c.rope.theta),
    ];
    for (name, t) in formats {
        let (weights, bytes) = (millions(t.weights as u64), mebibytes(t.bytes));
        lines.push(format!("tensors       {} x {name}: {weights} weights, {bytes}", t.tensors));
    }
    lines.push(match tokenizer {
        Some(t) => format!(
            "tokenizer     {} tokens, end {:?}, {} chat template",
            t.tokens,
            c.eos,
            if t.chat_template { "with a" } else { "no" }
        ),
        None => "tokenizer     none: give token ids with --tokens".into(),
    });
    let usual = SessionOptions::default_context(c);
    for format in KvFormat::ALL {
        let per_token = format.bytes_per_token(c);
        lines.push(format!(
            "KV cache      {}: {:.1} KiB a token, {} for {usual}",
            format.name(),
            per_token as f64 / 1024.0,
            mebibytes(per_token * usual)
        ));
    }
    lines.join("\n") + "\n"
}
