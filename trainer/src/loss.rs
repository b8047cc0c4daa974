//! What a step minimises: cross-entropy against the text, or the divergence from a dense teacher that reads the same text.

use std::path::{Path, PathBuf};

use bonsai_runtime::{Config, ModelFile};

use crate::backend::{Backend, Distillation, Teaching};
use crate::checkpoint;
use crate::config::{Precision, RunConfig};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::model::{self, Activations};
use crate::params::Params;
use crate::teacher_cache::TeacherCache;

/// What the head's output is compared with.
pub enum Objective<'a, B: Backend> {
    /// The text alone; `z_loss` weighs the squared log-sum-exp of the logits.
    Text {
        /// Weight of the penalty.
        z_loss: f32,
    },
    /// A teacher's next-token distribution, and the text if `terms` says so.
    Teacher {
        /// What it says.
        word: Teaching<'a, B::Buffer, B::Matrix>,
        /// Weights and temperature.
        terms: Distillation,
        /// The teacher's residual stream after each layer, `[t, hidden]`, and how much the student's distance from it
        /// weighs; none where it weighs nothing.
        streams: (&'a [B::Buffer], f32),
    },
}

/// A dense model that reads each batch before the student does.
pub struct Teacher<B: Backend> {
    backend: B,
    params: Params<B>,
    activations: Activations<B>,
    terms: Distillation,
    hidden_weight: f32,
    cache: Option<TeacherCache>,
}

impl<B: Backend> Teacher<B> {
    /// A teacher for micro-batches of the run. `backend` is made for the teacher's shape, on the student's device.
    pub fn new(backend: B, params: Params<B>, run: &RunConfig) -> Self {
        let (c, batch, seq) = (&params.config, run.micro_batch(), run.seq_len);
        let activations = match run.hidden_weight > 0.0 {
            true => Activations::with_checkpointing(&backend, c, batch, seq, true), // which keeps the residual stream
            false => Activations::forward_only(&backend, c, batch, seq),
        };
        let (terms, hidden_weight) = (run.distillation(), run.hidden_weight);
        Self { backend, params, activations, terms, hidden_weight, cache: None }
    }

    /// The same, which asks the cache first when it teaches.
    pub fn with_cache(self, cache: Option<TeacherCache>) -> Self {
        Self { cache, ..self }
    }

    /// What the student learns from: the cache's word where there is one, which is then asked first.
    pub fn teach(&mut self, batch: &Batch) -> Result<Objective<'_, B>> {
        let Some(mut cache) = self.cache.take() else { return Ok(self.read(batch)) };
        let k = cache.top_k();
        let found = cache.fill(batch, || {
            model::forward(&mut self.backend, &self.params, &mut self.activations, batch);
            let head = &self.params.list[self.params.head()].value;
            self.backend.likeliest((self.activations.normed(), head), k, self.terms.temperature)
        });
        let cache = self.cache.insert(cache);
        found?;
        Ok(Objective::Teacher {
            word: Teaching::Likeliest(cache.word()),
            terms: self.terms,
            streams: (&[], 0.0),
        })
    }

    /// What the teacher says about a batch.
    pub fn read(&mut self, batch: &Batch) -> Objective<'_, B> {
        model::forward(&mut self.backend, &self.params, &mut self.activations, batch);
        let head = &self.params.list[self.params.head()].value;
        let streams = if self.hidden_weight > 0.0 { self.activations.streams() } else { &[] };
        Objective::Teacher {
            word: Teaching::Head(self.activations.normed(), head),
            terms: self.terms,
            streams: (streams, self.hidden_weight),
        }
    }
}

/// Where the run's teacher lies, if it has one: unless `teacher` names it or says `none`, a ternary conversion learns from
/// the checkpoint that it starts from. A ternary run or file to start from is none: it is what the student is, too.
pub fn teacher_path(run: &RunConfig) -> Result<Option<PathBuf>> {
    let named = named_teacher(run)?;
    if named.is_none() && !run.teacher_cache.as_os_str().is_empty() {
        return Err(Error::Config("teacher_cache without a teacher: name one, or leave it out".into()));
    }
    Ok(named)
}

fn named_teacher(run: &RunConfig) -> Result<Option<PathBuf>> {
    match run.teacher.as_str() {
        "none" => Ok(None),
        "" if !run.converts() || run.precision == Precision::Fp => Ok(None),
        "" => {
            let init = Path::new(&run.init);
            let dense =
                checkpoint::ternary_run(init)?.is_none() && checkpoint::ternary_group(init)?.is_none();
            Ok(dense.then(|| init.to_path_buf()))
        }
        named => Ok(Some(PathBuf::from(named))),
    }
}

/// Opens the teacher of a run with a student of this shape; with the settings that it was rounded by, if it is a ternary
/// run.
pub fn open_teacher(run: &RunConfig, student: &Config) -> Result<Option<(ModelFile, Option<RunConfig>)>> {
    let Some(path) = teacher_path(run)? else { return Ok(None) };
    let file = ModelFile::open(&path)?;
    let (theirs, ours) = (&file.config, student);
    if theirs.vocab != ours.vocab {
        return Err(Error::Config(format!(
            "the teacher {} has {} tokens and the student {}: a teacher must share the student's tokenizer",
            path.display(),
            theirs.vocab,
            ours.vocab
        )));
    }
    if run.hidden_weight > 0.0 && (theirs.layers, theirs.hidden) != (ours.layers, ours.hidden) {
        return Err(Error::Config(format!(
            "hidden_weight compares layer by layer, and the teacher {} has {} layers of width {}, the student {} of {}",
            path.display(),
            theirs.layers,
            theirs.hidden,
            ours.layers,
            ours.hidden
        )));
    }
    bonsai_runtime::checkpoint::check_finite(&file, &path)?;
    Ok(Some((file, checkpoint::ternary_run(&path)?)))
}
