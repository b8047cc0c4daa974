//! `bonsai fit`: the memory that a model and its context will need.

use std::path::PathBuf;

use bonsai_runtime::fit::Fit;
use bonsai_runtime::{Error, KvFormat, ModelFile, Result, SessionOptions};
use serde_json::{Value, json};

use crate::output::{self, Table};

pub const EXAMPLES: &str = "\
Examples:
  bonsai fit -m model.gguf
  bonsai fit -m model.gguf --context 32768 --kv int8
  bonsai fit -m model.gguf --memory 2GiB --json | jq .longest_context";

#[derive(clap::Args)]
pub struct Args {
    /// GGUF file or Hugging Face directory
    #[arg(short, long, value_name = "PATH")]
    model: PathBuf,
    /// Tokens of prompt and answer together [default: the model's, at most 4096]
    #[arg(short, long, value_name = "N")]
    context: Option<usize>,
    /// Only this format of keys and values: f32, f16, int16, int8 or int4
    #[arg(long, value_name = "FORMAT")]
    kv: Option<KvFormat>,
    /// Memory to fit into, such as 900MiB or 2GiB [default: what this machine has free]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let file = ModelFile::open(&args.model)?;
    let context = args.context.unwrap_or(SessionOptions::default_context(&file.config));
    if context == 0 || context > file.config.context {
        let longest = file.config.context;
        return Err(Error::Argument(format!("a context of {context} tokens: expected 1 to {longest}")));
    }
    let memory = args.memory.or_else(available);
    let formats = args.kv.map_or(KvFormat::ALL.to_vec(), |kv| vec![kv]);
    let rows: Vec<_> = formats
        .into_iter()
        .map(|kv| (kv, Fit::new(&file, context, kv), memory.map(|m| Fit::longest_context(&file, kv, m))))
        .collect();
    match args.json {
        true => output::json(&as_json(&rows, memory)),
        false => output::print(&as_text(&rows, memory)),
    }
}

type Row = (KvFormat, Fit, Option<usize>);

fn as_json(rows: &[Row], memory: Option<usize>) -> Value {
    let row = |(kv, fit, longest): &Row| {
        json!({
            "kv": kv.name(), "context": fit.context, "weights": fit.weights, "cache": fit.cache,
            "cache_per_token": fit.cache_per_token, "activations": fit.activations, "total": fit.total(),
            "longest_context": longest,
        })
    };
    json!({ "memory": memory, "formats": rows.iter().map(row).collect::<Vec<_>>() })
}

fn as_text(rows: &[Row], memory: Option<usize>) -> String {
    let mebibytes = |bytes: usize| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let table = Table::new(&[
        ("KV cache", -8),
        ("context", 8),
        ("weights", 11),
        ("cache", 11),
        ("a token", 10),
        ("activations", 11),
        ("total", 11),
        ("longest context", 15),
    ]);
    let mut text = table.head();
    for (kv, fit, longest) in rows {
        text += &table.row(&[
            kv.name(),
            &fit.context.to_string(),
            &mebibytes(fit.weights),
            &mebibytes(fit.cache),
            &format!("{:.1} KiB", fit.cache_per_token as f64 / 1024.0),
            &mebibytes(fit.activations),
            &mebibytes(fit.total()),
            &longest.map_or(String::new(), |n| n.to_string()),
        ]);
    }
    if let Some(memory) = memory {
        text += &format!("\nThe longest context is that which fits into {}.\n", mebibytes(memory));
    }
    text + "The program itself takes about 7 MiB more, and its tokenizer comes on top.\n"
}

/// A size with its unit.
fn size(text: &str) -> std::result::Result<usize, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit: f64 = match text[digits..].trim() {
        "" | "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "KiB" => 1024.0,
        "MiB" => f64::from(1 << 20),
        "GiB" => f64::from(1 << 30),
        unit => return Err(format!("unknown unit '{unit}': B, kB, MB, GB, KiB, MiB or GiB")),
    };
    let number: f64 = text[..digits].parse().map_err(|_| format!("'{text}' is no size: try 2GiB"))?;
    Ok((number * unit) as usize)
}

/// Bytes that the system could give away without swapping; `None` where it does not say.
fn available() -> Option<usize> {
    let table = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = table.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}
