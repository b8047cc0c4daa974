//! `preview`: what a model will read, token by token, with the ones that it learns to write told from the rest.

mod show;

use std::path::{Path, PathBuf};

use bonsai_runtime::Tokenizer;
use clap::Args;
use serde::Serialize;

use crate::config::RunConfig;
use crate::corpus::{Document, Input};
use crate::data::{Dataset, Encoder, IGNORE, Order, Piece};
use crate::error::{Error, Result};
use crate::numbers::whole;
use crate::output;
use crate::{checkpoint, dialogue, run, train};

/// What `preview` is asked for.
#[derive(Args)]
pub struct Arguments {
    /// Files or directories of text, a directory that `prepare` wrote, or a run directory.
    #[arg(long, required = true, num_args = 1..)]
    data: Vec<PathBuf>,
    /// Field or column that holds the text; without it, `messages` or `conversations`.
    #[arg(long, default_value = "text")]
    text_column: String,
    /// tokenizer.json, or a model directory or GGUF file that has a tokenizer; prepared data brings its own.
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Documents of text, or windows of prepared data, to show.
    #[arg(long, short = 'n', default_value_t = 3, value_parser = whole::<usize>, allow_negative_numbers = true)]
    number: usize,
    /// Documents or windows to pass over first.
    #[arg(long, default_value_t = 0, value_parser = whole::<usize>, allow_negative_numbers = true)]
    skip: usize,
    /// Tokens of a window [default: those of the run, else 256].
    #[arg(long, value_parser = whole::<usize>, allow_negative_numbers = true)]
    seq_len: Option<usize>,
    /// Seed of the windows' order [default: that of the run, else 0].
    #[arg(long, value_parser = whole::<u64>, allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Show the id behind each token.
    #[arg(long)]
    ids: bool,
    /// JSON on stdout.
    #[arg(long)]
    json: bool,
}

/// What `--help` ends with.
pub const HELP: &str = "Of text it shows whole documents, tokenized as `prepare` would; of prepared data and of runs the windows that training
reads, in its order. In a terminal, targets (what the model learns to write) are green and context (what it only reads)
grey, in two shades so that tokens can be told apart. Elsewhere, and with NO_COLOR, tokens are separated by │, and
context stands in [brackets]. A line follows where a document ends. ⏎ is the end of a line inside a token.
Examples:
  bonsai-trainer preview --data chats.jsonl --tokenizer Qwen3-0.6B/
  bonsai-trainer preview --data shards -n 2 --seq-len 128 --ids
  bonsai-trainer preview --data runs/mine --skip 16        the second step of a run with batch size 16
  bonsai-trainer preview --data shards --json | jq '.[0].tokens[] | select(.target) | .text'";

/// A document, or a window of prepared data.
#[derive(Debug, Serialize)]
pub struct Sample {
    /// `document 0`, or the window's number and first token.
    pub title: String,
    /// In order.
    pub tokens: Vec<Token>,
}

/// A token of a sample.
#[derive(Debug, Serialize)]
pub struct Token {
    /// In the vocabulary.
    pub id: u32,
    /// Its text, or its bytes like `<E2>` where they are no whole character.
    pub text: String,
    /// Whether the model learns to write it.
    pub target: bool,
    /// Whether it ends a document.
    pub ends_document: bool,
}

/// Prints what was asked for.
pub fn preview(arguments: &Arguments) -> Result<()> {
    let samples = match arguments.data.as_slice() {
        [dir] if dir.is_dir() => match prepared(dir, arguments.seed)? {
            Some(prepared) => windows(prepared, arguments)?,
            None => documents(arguments)?,
        },
        _ => documents(arguments)?,
    };
    if arguments.json {
        output::json(&samples)
    } else {
        output::print(&show::show(&samples, arguments.ids, show::colored()).to_string())
    }
}

/// Shards with the settings of the run that reads them.
struct Prepared {
    data: Dataset,
    tokenizer: Tokenizer,
    order: Order,
    seq: usize,
}

/// Opens prepared data, or that of a run; `None` if `dir` is neither.
fn prepared(dir: &Path, seed: Option<u64>) -> Result<Option<Prepared>> {
    let run = match checkpoint::exists(dir) {
        true => checkpoint::settings(dir)?,
        false if !Dataset::is_prepared(dir) => return Ok(None),
        false => RunConfig { data: vec![dir.to_path_buf()], ..RunConfig::default() },
    };
    let run = RunConfig { seed: seed.unwrap_or(run.seed), ..run };
    let shards = run::shards(&run);
    if !Dataset::is_prepared(&shards) {
        return Ok(None);
    }
    let (data, tokenizer) = (Dataset::open(&shards)?, Tokenizer::from_file(&shards.join("tokenizer.json"))?);
    Ok(Some(Prepared { data, tokenizer, order: train::order(&run)?, seq: run.seq_len }))
}

/// Windows in the order in which training reads them.
fn windows(prepared: Prepared, arguments: &Arguments) -> Result<Vec<Sample>> {
    let Prepared { data, tokenizer, order, seq } = prepared;
    let seq = arguments.seq_len.unwrap_or(seq);
    let (first, count) = (arguments.skip as u64, arguments.number as u64);
    order.check(&data.train, first + count, seq)?;
    let (mut ids, mut targets) = (vec![0; seq + 1], vec![0; seq + 1]);
    let window = |row: u64| -> Result<Sample> {
        let start = order.start(data.train.len(), row, seq);
        data.train.read(start..start + seq + 1, &mut ids);
        data.train.read_targets(start..start + seq + 1, &mut targets);
        targets[0] = IGNORE; // nothing is before it
        let tokens = ids
            .iter()
            .zip(&targets)
            .map(|(&id, &target)| token(&tokenizer, data.meta.eos, id, target != IGNORE));
        Ok(Sample {
            title: format!("window {row}, from token {start}"),
            tokens: tokens.collect::<Result<_>>()?,
        })
    };
    (first..first + count).map(window).collect()
}

/// The first documents of text files.
fn documents(arguments: &Arguments) -> Result<Vec<Sample>> {
    let mut tokenizer = tokenizer(arguments)?;
    let found = some_documents(arguments)?;
    let conversations = found.iter().any(|document| document.conversation.is_some());
    if conversations {
        dialogue::adopt_template(&mut tokenizer);
    }
    let encoder = Encoder::new(&tokenizer, conversations)?;
    let sample = |(number, document): (usize, &Document)| -> Result<Sample> {
        let (pieces, _) = encoder.encode(document)?;
        let of_piece = |piece: Piece| piece.ids.into_iter().map(move |id| (id, piece.target));
        let tokens = pieces.into_iter().flat_map(of_piece);
        let tokens = tokens.map(|(id, target)| token(&tokenizer, encoder.eos, id, target));
        Ok(Sample { title: format!("document {number}"), tokens: tokens.collect::<Result<_>>()? })
    };
    (arguments.skip..).zip(&found).map(sample).collect()
}

/// Reads no further than asked for.
fn some_documents(arguments: &Arguments) -> Result<Vec<Document>> {
    let (mut seen, mut found) = (0, Vec::new());
    let enough = || Error::from(bonsai_runtime::Error::Cancelled);
    let read = Input::new(&arguments.data, &arguments.text_column)?.each_of_some(|document| {
        if found.len() == arguments.number {
            return Err(enough());
        }
        seen += 1;
        if seen > arguments.skip {
            found.push(document);
        }
        Ok(())
    });
    match read {
        Err(Error::Runtime(bonsai_runtime::Error::Cancelled)) | Ok(()) => Ok(found),
        Err(error) => Err(error),
    }
}

fn tokenizer(arguments: &Arguments) -> Result<Tokenizer> {
    let Some(path) = &arguments.tokenizer else {
        return Err(Error::Config(
            "text needs --tokenizer: a tokenizer.json, or a model that has one".into(),
        ));
    };
    run::open_tokenizer(path)
}

fn token(tokenizer: &Tokenizer, eos: u32, id: u32, target: bool) -> Result<Token> {
    let text = match tokenizer.token_bytes(id).map(std::str::from_utf8) {
        Some(Ok(text)) => text.to_owned(),
        Some(Err(_)) => {
            tokenizer.token_bytes(id).unwrap_or_default().iter().map(|b| format!("<{b:02X}>")).collect()
        }
        None => tokenizer.decode(&[id])?,
    };
    Ok(Token { id, text, target, ends_document: id == eos })
}
