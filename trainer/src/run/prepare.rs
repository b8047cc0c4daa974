//! What a run needs before its first step: text divided and tokenized, a vocabulary that fits, weights to start from.

use std::path::{Path, PathBuf};

use bonsai_runtime::{Config, ModelFile, Tokenizer};

use super::Watch;
use crate::config::{RunConfig, preset};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::{bpe, corpus, data};

/// Everything that a run needs before its first step.
pub struct Prepared {
    /// Shape of the model.
    pub model: Config,
    /// Starting weights of a conversion.
    pub start: Option<ModelFile>,
    /// Token shards.
    pub data: Dataset,
    /// Text to ids.
    pub tokenizer: Option<Tokenizer>,
}

/// Where a run keeps the shards that it made itself.
fn own_data(config: &RunConfig) -> PathBuf {
    config.out.join("data")
}

/// Opens the shards of a run that has begun: the prepared directory it was given, or its own.
pub(super) fn open_data(config: &RunConfig) -> Result<Dataset> {
    match config.data.as_slice() {
        [dir] if Dataset::is_prepared(dir) => Dataset::open(dir),
        _ => Dataset::open(&own_data(config)),
    }
}

/// Opens or makes tokenizer, shards and starting weights.
pub fn prepare(config: &RunConfig, watch: &Watch<'_>) -> Result<Prepared> {
    let start = config.converts().then(|| ModelFile::open(Path::new(&config.init))).transpose()?;
    let (data, tokenizer) = match config.data.as_slice() {
        [] => return Err(Error::Config("no training text: give --data FILE or DIRECTORY".into())),
        [dir] if Dataset::is_prepared(dir) => {
            let data = Dataset::open(dir)?;
            let tokenizer = prepared_tokenizer(config, &data, dir, start.as_ref())?;
            (data, tokenizer)
        }
        _ => {
            let (data, tokenizer) = from_text(config, start.as_ref(), watch)?;
            (data, Some(tokenizer))
        }
    };
    if let Some(tokenizer) = &tokenizer {
        tokenizer.save(&config.out)?;
    }
    let model = shape(config, start.as_ref(), &data, tokenizer.as_ref())?;
    Ok(Prepared { model, start, data, tokenizer })
}

/// What another process of this run has prepared.
pub(super) fn prepared(config: &RunConfig) -> Result<Prepared> {
    let start = config.converts().then(|| ModelFile::open(Path::new(&config.init))).transpose()?;
    let (data, file) = (open_data(config)?, config.out.join("tokenizer.json"));
    let tokenizer = file.exists().then(|| Tokenizer::from_file(&file)).transpose()?;
    let model = shape(config, start.as_ref(), &data, tokenizer.as_ref())?;
    Ok(Prepared { model, start, data, tokenizer })
}

/// Makes the shards of a run from text, with the tokenizer that it is given or learns.
fn from_text(
    config: &RunConfig,
    start: Option<&ModelFile>,
    watch: &Watch<'_>,
) -> Result<(Dataset, Tokenizer)> {
    let split = read_split(&config.data, &config.valid, config.valid_fraction, config.seed, watch)?;
    let tokenizer = match given_tokenizer(config, start)? {
        Some(tokenizer) => {
            check_vocabulary(tokenizer.vocab_size(), start.map(|file| &file.config))?;
            tokenizer
        }
        None => learn_tokenizer(&split.train, config.vocab_size, watch)?,
    };
    let data = tokenize(&split, &tokenizer, &own_data(config), watch)?;
    Ok((data, tokenizer))
}

/// The shape of the model: that of the file to start from, or a preset with a row for every token.
fn shape(
    config: &RunConfig,
    start: Option<&ModelFile>,
    data: &Dataset,
    tokenizer: Option<&Tokenizer>,
) -> Result<Config> {
    let mut model = match start {
        Some(file) => config.rotation.shape(&file.config),
        None => preset(&config.preset, data.meta.vocab, config.seq_len)?,
    };
    if let (None, Some(tokenizer)) = (start, tokenizer) {
        model.eos = tokenizer.eos().into_iter().collect();
        model.bos = tokenizer.bos();
    }
    check_vocabulary(data.meta.vocab, Some(&model))?;
    if config.projection()?.is_some() {
        crate::config::check_groups(&model, config.group)?;
    }
    Ok(model)
}

/// Reads documents and divides them into training and validation text.
pub fn read_split(
    files: &[PathBuf],
    valid: &[PathBuf],
    fraction: f64,
    seed: u64,
    watch: &Watch<'_>,
) -> Result<corpus::Split> {
    let documents = corpus::read_documents(files)?;
    let split = match valid {
        [] => corpus::split(documents, fraction, seed)?,
        valid => corpus::separate(documents, corpus::read_documents(valid)?)?,
    };
    if split.dropped > 0 {
        watch.say(&format!("{} training documents are validation documents too: left out", split.dropped));
    }
    if split.cut {
        let bytes = split.valid[0].len();
        watch.say(&format!(
            "the text is a single document: its last {bytes} bytes are set aside for validation (--valid names another text)"
        ));
    }
    Ok(split)
}

/// Learns a byte-level BPE from documents.
pub fn learn_tokenizer(documents: &[String], vocab_size: usize, watch: &Watch<'_>) -> Result<Tokenizer> {
    let bar = watch.spinner(format!("learning a tokenizer of {vocab_size} tokens"));
    let tokenizer =
        bpe::learn(documents.iter(), &bpe::BpeOptions { vocab_size, ..bpe::BpeOptions::default() });
    bar.finish_and_clear();
    tokenizer
}

/// Writes token shards, with a bar.
pub fn tokenize(
    split: &corpus::Split,
    tokenizer: &Tokenizer,
    dir: &Path,
    watch: &Watch<'_>,
) -> Result<Dataset> {
    let bar =
        watch.bar((split.train.len() + split.valid.len()) as u64, "{bar:30} {pos}/{len} documents tokenized");
    let written = data::prepare(split, tokenizer, dir, &|done, _| bar.set_position(done as u64));
    bar.finish_and_clear();
    written?;
    Dataset::open(dir)
}

fn given_tokenizer(config: &RunConfig, start: Option<&ModelFile>) -> Result<Option<Tokenizer>> {
    if !config.tokenizer.as_os_str().is_empty() {
        let path = &config.tokenizer;
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.clone() };
        return Ok(Some(Tokenizer::from_file(&file)?));
    }
    match start {
        None => Ok(None),
        Some(file) => match file.tokenizer()? {
            Some(tokenizer) => Ok(Some(tokenizer.clone())),
            None => Err(Error::Config(format!("{}: has no tokenizer: give --tokenizer FILE", config.init))),
        },
    }
}

/// The tokenizer that prepared data was made with; another one that is asked for is refused.
fn prepared_tokenizer(
    config: &RunConfig,
    data: &Dataset,
    dir: &Path,
    start: Option<&ModelFile>,
) -> Result<Option<Tokenizer>> {
    let beside = dir.join("tokenizer.json");
    let given = given_tokenizer(config, start.filter(|file| file.tokenizer.is_some()))?;
    match given {
        None if beside.exists() => Ok(Some(Tokenizer::from_file(&beside)?)),
        None => Ok(None),
        Some(tokenizer) => {
            data.check_tokenizer(&tokenizer)?;
            Ok(Some(tokenizer))
        }
    }
}

/// A model must have a row for every token; a model that is yet to be made will have.
pub(super) fn check_vocabulary(tokens: usize, model: Option<&Config>) -> Result<()> {
    match model.map(|model| model.vocab) {
        Some(rows) if tokens > rows => Err(Error::Config(format!(
            "the tokenizer has {tokens} tokens, but the model only {rows}: use the model's own tokenizer"
        ))),
        _ => Ok(()),
    }
}
