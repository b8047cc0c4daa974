//! What can go wrong while training, as one sentence for people and one exit code for programs.

use std::path::PathBuf;

/// The result of everything in the trainer that may fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in the trainer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing a model, or running one.
    #[error(transparent)]
    Runtime(#[from] bonsai_runtime::Error),
    /// The run file or an option makes no sense.
    #[error("{0}")]
    Config(String),
    /// Training text that cannot be used.
    #[error("{}: {message}", path.display())]
    Data {
        /// The file in question.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// Training text that cannot be used, where no single file is to blame.
    #[error("{0}")]
    Text(String),
    /// A check of a finished model failed.
    #[error("{0}")]
    Verify(String),
    /// The device failed in the middle of a run.
    #[error("step {step}: {cause}; {kept}")]
    Device {
        /// The step that could not be done.
        step: u64,
        /// What the device said.
        cause: bonsai_runtime::Error,
        /// What is left.
        kept: String,
    },
    /// Training stopped because the loss is no longer a number, or jumped again and again.
    #[error("training diverged at step {step}: {message}")]
    Diverged {
        /// The step that gave up.
        step: u64,
        /// What was seen.
        message: String,
    },
}

impl Error {
    /// 2 usage, 3 bad input file, 4 out of memory or context, 5 training diverged, 6 no GPU or it failed, 130 cancelled.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Runtime(error) | Self::Device { cause: error, .. } => error.exit_code(),
            Self::Config(_) => 2,
            Self::Data { .. } | Self::Text(_) | Self::Verify(_) => 3,
            Self::Diverged { .. } => 5,
        }
    }
}
