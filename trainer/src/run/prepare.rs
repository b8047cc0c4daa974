//! What a run needs before its first step: text divided and tokenized, a vocabulary that fits, weights to start from.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bonsai_runtime::{Config, Error as RuntimeError, ModelFile, Tokenizer};

use super::Watch;
use crate::config::{RunConfig, preset};
use crate::corpus::{Corpus, Document, END_OF_TEXT, Facts, Side, Sink, Source};
use crate::data::{Dataset, Progress};
use crate::dialogue::Dialogue;
use crate::error::{Error, Result};
use crate::{bpe, data, dialogue, files, output};

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

/// Where the shards of a run that has begun are: the prepared directory it was given, or its own.
pub fn shards(config: &RunConfig) -> PathBuf {
    match config.data.as_slice() {
        [dir] if Dataset::is_prepared(dir) => dir.clone(),
        _ => own_data(config),
    }
}

/// Opens or makes tokenizer, shards and starting weights.
pub fn prepare(config: &RunConfig, watch: &Watch<'_>) -> Result<Prepared> {
    let start = config.converts().then(|| ModelFile::open(Path::new(&config.init))).transpose()?;
    let (data, tokenizer) = match config.data.as_slice() {
        [] => return Err(Error::Config("no training text: give --data FILE or DIRECTORY".into())),
        [dir] if Dataset::is_prepared(dir) => {
            if !config.valid.is_empty() {
                return Err(Error::Config(format!(
                    "{} is prepared and has its validation tokens: give --valid to prepare instead",
                    dir.display()
                )));
            }
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
    let (data, file) = (Dataset::open(&shards(config))?, config.out.join("tokenizer.json"));
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
    let text = Text { files: &config.data, valid: &config.valid, column: &config.text_column };
    let corpus = scan(text, (config.valid_fraction, config.seed), watch)?;
    let mut tokenizer = match given_tokenizer(config, start)? {
        Some(tokenizer) => {
            check_vocabulary(tokenizer.vocab_size(), start.map(|file| &file.config))?;
            tokenizer
        }
        None => learn_tokenizer(config.vocab_size, watch, |sink| training_text(&corpus, sink))?,
    };
    let data = tokenize(&corpus, &mut tokenizer, &own_data(config), watch)?;
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
        // A tokenizer.json alone does not say which token ends a text; documents end with this one then.
        let end = tokenizer.eos().or_else(|| tokenizer.token_id(END_OF_TEXT));
        model.eos = end.into_iter().collect();
        if data.meta.dtype.is_masked() {
            let turn = Dialogue::of(tokenizer)?.end_of_turn(tokenizer);
            model.eos.extend(turn.filter(|&id| Some(id) != end));
        }
        model.bos = tokenizer.bos();
    }
    check_vocabulary(data.meta.vocab, Some(&model))?;
    if config.projection()?.is_some() {
        crate::config::check_groups(&model, config.group)?;
    }
    Ok(model)
}

/// Files of text, and where in them it is.
#[derive(Clone, Copy)]
pub struct Text<'a> {
    /// What is trained on.
    pub files: &'a [PathBuf],
    /// The validation text, if it has files of its own.
    pub valid: &'a [PathBuf],
    /// Field or column of the text.
    pub column: &'a str,
}

/// Reads all text once and divides it into training and validation text: a share of it, chosen by a seed.
pub fn scan(text: Text<'_>, share: (f64, u64), watch: &Watch<'_>) -> Result<Corpus> {
    let bar = watch.bar(0, "reading the text: {bytes}");
    let progress = |bytes: u64| {
        bar.set_position(bytes);
        if watch.is_cancelled() { Err(RuntimeError::Cancelled.into()) } else { Ok(()) }
    };
    let corpus = Corpus::scan((text.files, text.valid), text.column, share, &progress);
    bar.finish_and_clear();
    let corpus = corpus?;
    let valid = text.valid;
    let dropped = corpus.facts().dropped;
    if dropped > 0 {
        let dropped = output::count(dropped as u64, "training document");
        watch.say(&format!("left out of training, since the validation text has the same: {dropped}"));
    }
    let Facts { bytes, valid_bytes, .. } = corpus.facts();
    let aside = valid_bytes as f64 / bytes as f64;
    if valid.is_empty() && corpus.cut().is_none() && aside > 2.0 * share.0 {
        watch.say(&format!(
            "{:.1}% of the text is set aside for validation instead of {:.1}%, since it has few documents and they are large \
             (--valid names another text)",
            100.0 * aside,
            100.0 * share.0
        ));
    }
    if let Some(bytes) = corpus.cut() {
        watch.say(&format!(
            "the text is a single document: its last {bytes} bytes are set aside for validation (--valid names another text)"
        ));
    }
    Ok(corpus)
}

/// Receives documents.
type Documents<'a> = &'a mut dyn FnMut(Document) -> Result<()>;

/// Gives the training documents of a source to `sink`.
fn training_text(source: &dyn Source, sink: Documents<'_>) -> Result<()> {
    source.each(&mut |side, document| match side {
        Side::Train => sink(document),
        Side::Valid => Ok(()),
    })
}

/// Learns a byte-level BPE from the documents that `read` gives, which are never all in memory.
pub fn learn_tokenizer(
    vocab_size: usize,
    watch: &Watch<'_>,
    read: impl FnOnce(Documents<'_>) -> Result<()> + Send,
) -> Result<Tokenizer> {
    let bar = watch.spinner(format!("learning a tokenizer of {vocab_size} tokens"));
    let options = bpe::BpeOptions { vocab_size, ..bpe::BpeOptions::default() };
    let (send, receive) = std::sync::mpsc::sync_channel(256);
    let learned = std::thread::scope(|scope| {
        let mut sink = move |document: Document| -> Result<()> {
            let sent = !watch.is_cancelled() && send.send(document.into_words()).is_ok();
            if sent { Ok(()) } else { Err(RuntimeError::Cancelled.into()) }
        };
        let reader = scope.spawn(move || read(&mut sink));
        let learned = bpe::learn(receive.into_iter(), &options);
        let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match read {
            // It was hung up on: what was learnt says why.
            Err(Error::Runtime(RuntimeError::Cancelled)) if !watch.is_cancelled() => learned,
            read => read.and(learned),
        }
    });
    bar.finish_and_clear();
    learned
}

/// Writes token shards, with a bar, or goes on with those of an interrupted run. Where there are conversations, a
/// tokenizer without a chat template gets one.
pub fn tokenize(
    source: &dyn Source,
    tokenizer: &mut Tokenizer,
    dir: &Path,
    watch: &Watch<'_>,
) -> Result<Dataset> {
    if source.facts().conversations {
        dialogue::adopt_template(tokenizer);
    }
    let bar = watch
        .bar(source.facts().bytes, "{bar:30} {bytes}/{total_bytes} tokenized, {bytes_per_sec}, {eta} left");
    let begun = AtomicBool::new(false);
    let progress = |state: Progress| {
        bar.set_position(state.done);
        if !begun.swap(true, Ordering::Relaxed) && state.kept > 0 {
            bar.reset_eta();
            watch.say(&format!("going on: {} of {} bytes of text are tokenized", state.kept, state.total));
        }
    };
    let written = data::prepare(&Stoppable { source, watch }, tokenizer, dir, &progress);
    bar.finish_and_clear();
    written?;
    Dataset::open(dir)
}

/// A source that ends when the user wants to stop; what was tokenized is kept.
struct Stoppable<'a> {
    source: &'a dyn Source,
    watch: &'a Watch<'a>,
}

impl Source for Stoppable<'_> {
    fn facts(&self) -> Facts {
        self.source.facts()
    }

    fn each(&self, sink: Sink<'_>) -> Result<()> {
        self.source.each(&mut |side, document| match self.watch.is_cancelled() {
            false => sink(side, document),
            true => Err(RuntimeError::Cancelled.into()),
        })
    }
}

/// Opens a tokenizer.json, or that of a directory or a GGUF file.
pub fn open_tokenizer(path: &Path) -> Result<Tokenizer> {
    if !files::is_gguf(path) {
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
        return Ok(Tokenizer::from_file(&file)?);
    }
    ModelFile::open(path)?.tokenizer()?.cloned().ok_or_else(|| Error::Data {
        path: path.to_path_buf(),
        message: "has no tokenizer: give a tokenizer.json, or another model".into(),
    })
}

fn given_tokenizer(config: &RunConfig, start: Option<&ModelFile>) -> Result<Option<Tokenizer>> {
    if !config.tokenizer.as_os_str().is_empty() {
        return open_tokenizer(&config.tokenizer).map(Some);
    }
    match start {
        None => Ok(None),
        Some(file) => match file.tokenizer()? {
            Some(tokenizer) => Ok(Some(tokenizer.clone())),
            None => Err(Error::Data {
                path: PathBuf::from(&config.init),
                message: "has no tokenizer: give --tokenizer FILE".into(),
            }),
        },
    }
}

/// Tokens that the vocabulary of a run from scratch will have, as far as they are known before its text is read.
pub fn vocabulary(config: &RunConfig) -> Result<usize> {
    if let [dir] = config.data.as_slice()
        && Dataset::is_prepared(dir)
    {
        return Ok(Dataset::open(dir)?.meta.vocab);
    }
    Ok(given_tokenizer(config, None)?.map_or(config.vocab_size, |tokenizer| tokenizer.vocab_size()))
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
        Some(mut tokenizer) => {
            data.check_tokenizer(&tokenizer)?;
            if data.meta.dtype.is_masked() {
                dialogue::adopt_template(&mut tokenizer); // as the one did that made the shards
            }
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
