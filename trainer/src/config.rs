//! The run file: every setting of a training run, its default, and the presets of model shapes.

mod changes;
mod check;
mod presets;
pub mod reference;

use std::path::{Path, PathBuf};

use bonsai_runtime::Config;
use bonsai_runtime::config::{Kind, TensorSpec};
use bonsai_runtime::ternary::ScaleRule;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::backend::{Distillation, Projection};
use crate::error::{Error, Result};
use crate::formats::{Compute, LatentFormat, StateFormat};
use crate::import::Import;
use crate::rotation::Rotation;
use crate::schedule::{Decay, Ramp, RampSteps, Schedule};

pub use presets::{PRESETS, preset};

/// What the forward pass multiplies with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Every matrix rounded to -s, 0, +s.
    #[default]
    Ternary,
    /// Those of the layers; embedding and head stay as they are. For measuring what their rounding costs.
    Layers,
    /// The latent weights themselves: the twin that a ternary run is measured against.
    Fp,
}

/// How matrices inside the layers are updated; embedding, head and norms always use AdamW.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW for everything.
    #[default]
    Adamw,
    /// Muon for the matrices inside the layers.
    Muon,
}

/// Settings of a run, as `run.toml` and `--set key=value` spell them. Zero or an empty text means "choose for me"
/// where the comment says so. [`mod@reference`] reads these comments, and the headings between them, for people who run the
/// program: `bonsai-trainer settings` and docs/settings.md.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    // Start
    /// `scratch`, or a Hugging Face directory (config.json, safetensors, tokenizer.json), a GGUF file or another run to start from.
    pub init: String,
    /// Model shape for `init = "scratch"`: 1m 3m 6m 10m 20m 30m 0.6b.
    pub preset: String,

    // Text
    /// Training text: files or directories of .txt, .jsonl and .parquet (.gz and .zst are unpacked), or a directory that
    /// `prepare` wrote.
    #[serde(deserialize_with = "one_or_more")]
    pub data: Vec<PathBuf>,
    /// Where .jsonl and .parquet have the text: the name of a field or column. Without it, `messages` or `conversations`.
    pub text_column: String,
    /// Validation text. Empty: a share of the training documents is set aside.
    #[serde(deserialize_with = "one_or_more")]
    pub valid: Vec<PathBuf>,
    /// Share of the documents set aside for validation.
    pub valid_fraction: f64,
    /// tokenizer.json, or a directory or GGUF file that has one. Empty: that of `init`, or one learnt from the data.
    pub tokenizer: PathBuf,
    /// Size of a tokenizer learnt from the data.
    pub vocab_size: usize,
    /// Replays another program's order: a file of u32 row starts, batch_size a step.
    pub offsets: PathBuf,

    // Length and place
    /// Where the run is written.
    pub out: PathBuf,
    /// Optimizer steps.
    pub steps: u64,
    /// Sequences per optimizer step.
    pub batch_size: usize,
    /// Sequences in memory at a time; divides batch_size, or a process's share of it. 0: all of them.
    pub micro_batch: usize,
    /// Tokens per sequence.
    pub seq_len: usize,
    /// Seed of the weights and of the order of the data.
    pub seed: u64,
    /// cpu, gpu, or auto: a GPU where there is a real one that can do what the run asks for, else the CPU.
    pub device: String,
    /// Processes that share each batch: no setting, but what started them says so.
    #[serde(skip)]
    pub ranks: usize,

    // Ternary weights
    /// ternary, or fp for the full-precision twin, or layers: ternary but for embedding and head.
    pub precision: Precision,
    /// Weights along the input dimension that share a scale: 64, 128 or 256.
    pub group: usize,
    /// absmean, refit, twn, least_squares or absmax. Empty: absmean from scratch, refit for conversion, that of the run for a
    /// ternary run to start from.
    pub scale_rule: String,
    /// How a conversion under absmean makes its latents: plain, gain (starts as refit would; also what plain becomes for a
    /// ternary file to start from, so that it keeps its codes and scales) or warp (as least_squares would).
    pub import: Import,
    /// Another basis for a conversion's weights: none, residual (the residual stream; unties the head) or full (the values of
    /// each head, too).
    pub rotation: Rotation,
    /// Steps over which weights go from dense to ternary. 0: ternary from the start. Validation is always ternary. auto: a
    /// third of the steps for a conversion with a teacher that begins as noise, else 0.
    pub ramp: RampSteps,
    /// Steps over which embedding and head do, after the layers. 0: together with the layers.
    pub embedding_ramp: u64,

    // Teacher and loss
    /// Model to distil from: a Hugging Face directory, a GGUF file or a run (rounded as it was trained), or none. Empty: a
    /// conversion learns from the checkpoint that it starts from, unless that is ternary already.
    pub teacher: String,
    /// Weight of the divergence KL(teacher, student), when there is a teacher.
    pub kl_weight: f32,
    /// Weight of the cross-entropy against the text beside it.
    pub ce_weight: f32,
    /// Temperature of both distributions in the divergence, which is multiplied by its square.
    pub temperature: f32,
    /// Weight of the distance of each layer's output from the teacher's, relative to its size, squared, mean over layers and
    /// tokens, when there is a teacher, which must have the student's layers and widths. On the CPU.
    pub hidden_weight: f32,
    /// A file that remembers what the teacher said of each window of text, so that later epochs, and other runs with the same
    /// teacher, text and `seq_len`, need not ask it again. Training then learns from the teacher's `teacher_top_k` likeliest
    /// tokens and the sum of all others, and windows begin at the same places in every epoch. Validation still asks the
    /// teacher itself. Empty: none. On the CPU, in one process.
    pub teacher_cache: PathBuf,
    /// Tokens that the cache keeps of each distribution: 6 bytes each.
    pub teacher_top_k: usize,
    /// Weight of the squared log-sum-exp of the logits: keeps them small. Without a teacher only.
    pub z_loss: f32,

    // Optimizer
    /// adamw or muon.
    pub optimizer: OptimizerKind,
    /// Peak learning rate of AdamW. 0: 3e-3 from scratch; for conversion a hundredth of the weights' mean scale, or less in
    /// a run so long that they would go further than 0.2 scales, and with Muon 2e-4 (for embedding, head and norms).
    pub lr: f64,
    /// Peak learning rate of Muon.
    pub muon_lr: f64,
    /// Momentum of Muon.
    pub muon_momentum: f32,
    /// Newton-Schulz iterations of Muon.
    pub muon_iterations: usize,
    /// Decay of AdamW's first moment.
    pub beta1: f32,
    /// Decay of AdamW's second moment.
    pub beta2: f32,
    /// AdamW's epsilon.
    pub eps: f32,
    /// Decoupled weight decay of matrices; norms have none.
    pub weight_decay: f32,
    /// Largest norm of the whole gradient. 0: no clipping.
    pub clip: f64,

    // Learning rate over the steps
    /// Steps of linear warm-up; in a short run no more than there are before the decay.
    pub warmup: u64,
    /// Shape of the learning rate after warm-up: linear, cosine or constant (rising: what lr-find does).
    pub schedule: Decay,
    /// Share of the steps that the final linear decay takes.
    pub decay: f64,
    /// Where the decay ends, as a share of the peak.
    pub lr_floor: f64,

    // Memory and speed
    /// What matrix products with weights multiply: f32, or activations, gradients and weights rounded to bf16, as mixed
    /// precision does elsewhere: faster on processors with AVX-512 BF16, the same numbers at f32's speed on others. On the CPU.
    pub compute: Compute,
    /// How latent weights of matrices are held: f32, or bf16 with stochastic rounding (2 bytes a weight less). On the CPU.
    pub latents: LatentFormat,
    /// How the optimizer's moments of matrices are held: f32, or 8bit (a quarter of the memory: 6 bytes a weight less with
    /// AdamW; beta2 must then be at most 0.99). On the CPU.
    pub optimizer_state: StateFormat,
    /// Update each tensor inside the backward pass, as soon as its gradient is whole, and drop the gradient: saves 4 bytes a
    /// weight. Needs the whole batch in memory (micro_batch 0); each tensor is then clipped by its own norm.
    pub optimizer_in_backward: bool,
    /// Keep only the residual stream of each layer and make the rest again in the backward pass: saves most of the memory
    /// of long batches for about a third more time.
    pub activation_checkpointing: bool,

    // What is written, and when
    /// Steps between lines of metrics.
    pub log_every: u64,
    /// Steps between validations; also the last step. 0: only the last.
    pub eval_every: u64,
    /// Sequences of a validation.
    pub eval_sequences: usize,
    /// Steps between text samples. 0: none.
    pub sample_every: u64,
    /// Prompt of the text samples.
    pub sample_prompt: String,
    /// Steps between checkpoints; also the last step. 0: only the last.
    pub save_every: u64,
    /// Write TensorBoard event files into the run, too.
    pub tensorboard: bool,

    // Trouble
    /// A loss this many nats above its running mean is a spike: the step is skipped. Not while a ramp rises.
    pub spike: f64,
    /// Steps in a row, skipped whole or in part, after which the run stops.
    pub max_bad_steps: u32,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            init: "scratch".into(),
            preset: "3m".into(),
            data: Vec::new(),
            text_column: "text".into(),
            valid: Vec::new(),
            valid_fraction: 0.02,
            tokenizer: PathBuf::new(),
            vocab_size: 4096,
            offsets: PathBuf::new(),
            out: PathBuf::from("runs/run"),
            steps: 1000,
            batch_size: 16,
            micro_batch: 0,
            seq_len: 256,
            seed: 0,
            device: "auto".into(),
            ranks: 1,
            precision: Precision::Ternary,
            group: 128,
            scale_rule: String::new(),
            import: Import::Plain,
            rotation: Rotation::None,
            ramp: RampSteps::Auto,
            embedding_ramp: 0,
            teacher: String::new(),
            kl_weight: 1.0,
            ce_weight: 0.0,
            temperature: 1.0,
            hidden_weight: 0.0,
            teacher_cache: PathBuf::new(),
            teacher_top_k: 64,
            z_loss: 0.0,
            optimizer: OptimizerKind::Adamw,
            lr: 0.0,
            muon_lr: 0.02,
            muon_momentum: 0.95,
            muon_iterations: 5,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.0,
            clip: 1.0,
            warmup: 50,
            schedule: Decay::Linear,
            decay: 0.4,
            lr_floor: 0.1,
            compute: Compute::F32,
            latents: LatentFormat::F32,
            optimizer_state: StateFormat::F32,
            optimizer_in_backward: false,
            activation_checkpointing: false,
            log_every: 10,
            eval_every: 100,
            eval_sequences: 64,
            sample_every: 250,
            sample_prompt: "Once upon a time".into(),
            save_every: 250,
            tensorboard: false,
            spike: 2.0,
            max_bad_steps: 5,
        }
    }
}

impl RunConfig {
    /// Reads `run.toml` and applies `key=value` settings on top, each checked by name and type.
    pub fn load(file: Option<&Path>, settings: &[(String, toml::Value)]) -> Result<Self> {
        let table = match file {
            None => toml::Table::new(),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(bonsai_runtime::Error::io(path))?;
                text.parse().map_err(|e| Error::Config(format!("{}: {}", path.display(), one_line(&e))))?
            }
        };
        Self::from_table(table, settings)
    }

    /// These settings with others on top: a resumed run that changes its mind.
    pub fn load_over(old: &Self, settings: &[(String, toml::Value)]) -> Result<Self> {
        Self::from_table(old.to_toml().parse().expect("it was written by to_toml"), settings)
    }

    fn from_table(mut table: toml::Table, settings: &[(String, toml::Value)]) -> Result<Self> {
        for (key, value) in settings {
            table.insert(key.clone(), value.clone());
        }
        reference::check_names(table.keys())?;
        let config: Self =
            table.try_into().map_err(|e| Error::Config(format!("settings of the run: {}", one_line(&e))))?;
        config.check()?;
        Ok(config)
    }

    /// The run file as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a flat table of numbers and texts")
    }

    /// What distillation minimises, when there is a teacher.
    pub fn distillation(&self) -> Distillation {
        Distillation { temperature: self.temperature, kl: self.kl_weight, cross_entropy: self.ce_weight }
    }

    /// The rise from dense weights to ternary ones; none while it is undecided.
    pub fn ramp(&self) -> Ramp {
        let steps = match self.ramp {
            RampSteps::Auto => 0,
            RampSteps::Steps(steps) => steps,
        };
        Ramp { steps, embedding: self.embedding_ramp }
    }

    /// True when training starts from a checkpoint.
    pub fn converts(&self) -> bool {
        self.init != "scratch"
    }

    /// Sequences of a step that one process reads.
    pub fn share(&self) -> usize {
        self.batch_size / self.ranks.max(1)
    }

    /// Sequences in memory at a time.
    pub fn micro_batch(&self) -> usize {
        if self.micro_batch == 0 { self.share() } else { self.micro_batch }
    }

    /// Peak learning rate of AdamW.
    pub fn peak_lr(&self) -> f64 {
        match (self.lr, self.converts()) {
            (0.0, false) => 3e-3,
            (0.0, true) => 2e-4,
            (lr, _) => lr,
        }
    }

    /// The scale rule: that of the file, or the default for the start.
    pub fn rule(&self) -> Result<ScaleRule> {
        match (self.scale_rule.as_str(), self.converts()) {
            ("", false) => Ok(ScaleRule::Absmean),
            ("", true) => Ok(ScaleRule::Refit),
            (name, _) => name.parse().map_err(Error::Config),
        }
    }

    /// How matrices are rounded; `None` for the full-precision twin.
    pub fn projection(&self) -> Result<Option<Projection>> {
        let rule = self.rule()?;
        Ok((self.precision != Precision::Fp).then_some(Projection { group: self.group, rule }))
    }

    /// How each tensor is rounded.
    pub fn projection_of(&self) -> Result<impl Fn(&TensorSpec) -> Option<Projection> + use<>> {
        let (projection, precision) = (self.projection()?, self.precision);
        Ok(move |spec: &TensorSpec| {
            let kept = precision == Precision::Layers && spec.kind != Kind::Linear;
            projection.filter(|_| !kept)
        })
    }

    /// The learning rate's course. A run too short for its warm-up has peaked when its decay begins.
    pub fn lr_schedule(&self) -> Schedule {
        let decay = if self.schedule == Decay::Linear { self.decay } else { 0.0 };
        let rise = self.steps - (decay * self.steps as f64).ceil() as u64;
        Schedule {
            steps: self.steps,
            warmup: self.warmup.min(rise),
            decay: self.decay,
            floor: self.lr_floor,
            shape: self.schedule,
        }
    }
}

/// A list of files, or one file as a text.
fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    Ok(match toml::Value::deserialize(from)? {
        toml::Value::String(one) => vec![one.into()],
        list => list.try_into().map_err(D::Error::custom)?,
    })
}

/// What is wrong with a TOML, without the quotation of the line.
fn one_line(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let place = text.lines().find(|line| line.starts_with("TOML parse error at") || line.starts_with("in `"));
    format!("{} {}", error.message(), place.unwrap_or_default()).trim_end().to_owned()
}

/// Every matrix must divide into whole groups along its input dimension.
pub fn check_groups(config: &Config, group: usize) -> Result<()> {
    let odd = config.tensors().into_iter().find(|t| t.rows > 1 && t.cols % group != 0);
    match odd {
        None => Ok(()),
        Some(t) => Err(Error::Config(format!(
            "{} has {} inputs, which groups of {group} do not divide: try --set group=64",
            t.name, t.cols
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_alone_are_rounded_where_that_is_asked_for() {
        let model = preset("1m", 512, 64).unwrap();
        let rounded = |precision| {
            let of = RunConfig { precision, ..RunConfig::default() }.projection_of().unwrap();
            model.tensors().iter().filter(|t| of(t).is_some()).map(|t| t.kind).collect::<Vec<_>>()
        };
        assert!(rounded(Precision::Ternary).contains(&Kind::Embedding));
        let layers = rounded(Precision::Layers);
        assert!(layers.len() == 7 * model.layers && layers.iter().all(|&kind| kind == Kind::Linear));
        assert!(rounded(Precision::Fp).is_empty());
    }

    #[test]
    fn a_run_shorter_than_its_warm_up_peaks_before_it_decays() {
        let rates = |config: RunConfig| {
            let schedule = config.lr_schedule();
            (0..config.steps).map(|step| schedule.factor(step)).collect::<Vec<_>>()
        };
        let short = RunConfig { steps: 10, warmup: 50, decay: 0.4, ..RunConfig::default() };
        let linear = rates(short.clone());
        assert!(
            linear[5] == 1.0 && linear[..6].is_sorted() && linear[6..].iter().rev().is_sorted(),
            "{linear:?}"
        );
        let constant = rates(RunConfig { schedule: Decay::Constant, ..short.clone() });
        assert!(constant[9] == 1.0 && constant.is_sorted(), "{constant:?}");
        assert_eq!(rates(RunConfig { steps: 1, ..short }), [1.0]);
    }

    #[test]
    fn an_unknown_setting_is_named() {
        let error = RunConfig::load(None, &[("learning_rate".into(), toml::Value::Float(1.0))]).unwrap_err();
        assert!(error.to_string().contains("learning_rate"), "{error}");
    }

    #[test]
    fn a_run_file_reads_back() {
        let config = RunConfig { steps: 7, ..RunConfig::default() };
        let table: toml::Table = config.to_toml().parse().unwrap();
        assert_eq!(config, table.try_into().unwrap());
        let text = |data: toml::Value| RunConfig::load(None, &[("data".into(), data)]);
        assert_eq!(text("a.txt".into()).unwrap(), text(vec!["a.txt"].into()).unwrap(), "one file, or a list");
        assert!(text(7.into()).unwrap_err().to_string().contains("data"));
    }
}
