//! What a step minimises: cross-entropy against the text, or the divergence from a dense teacher that reads the same text.

use std::path::{Path, PathBuf};

use bonsai_runtime::ModelFile;

use crate::backend::{Backend, Distillation};
use crate::checkpoint;
use crate::config::{Precision, RunConfig};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::model::{self, Activations};
use crate::params::Params;

/// What the head's output is compared with.
pub enum Objective<'a, B: Backend> {
    /// The text alone; `z_loss` weighs the squared log-sum-exp of the logits.
    Text {
        /// Weight of the penalty.
        z_loss: f32,
    },
    /// A teacher's next-token distribution, and the text if `terms` says so.
    Teacher {
        /// The teacher's normed final residual stream, `[t, its hidden]`, and its head.
        head: (&'a B::Buffer, &'a B::Matrix),
        /// Weights and temperature.
        terms: Distillation,
    },
}

/// A dense model that reads each batch before the student does.
pub struct Teacher<B: Backend> {
    backend: B,
    params: Params<B>,
    activations: Activations<B>,
    terms: Distillation,
}

impl<B: Backend> Teacher<B> {
    /// A teacher for micro-batches of the run. `backend` is made for the teacher's shape, on the student's device.
    pub fn new(backend: B, params: Params<B>, run: &RunConfig) -> Self {
        let activations = Activations::forward_only(&backend, &params.config, run.micro_batch(), run.seq_len);
        Self { backend, params, activations, terms: run.distillation() }
    }

    /// What the teacher says about a batch.
    pub fn read(&mut self, batch: &Batch) -> Objective<'_, B> {
        model::forward(&mut self.backend, &self.params, &mut self.activations, batch);
        let head = &self.params.list[self.params.head()].value;
        Objective::Teacher { head: (self.activations.normed(), head), terms: self.terms }
    }
}

/// Where the run's teacher lies, if it has one: unless `teacher` names it or says `none`, a ternary conversion learns from
/// the checkpoint that it starts from. A ternary run to start from is no teacher, for its latent weights are no model.
pub fn teacher_path(run: &RunConfig) -> Result<Option<PathBuf>> {
    match run.teacher.as_str() {
        "none" => Ok(None),
        "" if !run.converts() || run.precision == Precision::Fp => Ok(None),
        "" => {
            let init = Path::new(&run.init);
            let dense = !checkpoint::exists(init) || checkpoint::settings(init)?.precision == Precision::Fp;
            Ok(dense.then(|| init.to_path_buf()))
        }
        named => Ok(Some(PathBuf::from(named))),
    }
}

/// Opens the teacher of a run whose student has `vocab` tokens.
pub fn open_teacher(run: &RunConfig, vocab: usize) -> Result<Option<ModelFile>> {
    let Some(path) = teacher_path(run)? else { return Ok(None) };
    let file = ModelFile::open(&path)?;
    if file.config.vocab != vocab {
        return Err(Error::Config(format!(
            "the teacher {} has {} tokens and the student {vocab}: a teacher must share the student's tokenizer",
            path.display(),
            file.config.vocab
        )));
    }
    bonsai_runtime::checkpoint::check_finite(&file, &path)?;
    Ok(Some(file))
}
