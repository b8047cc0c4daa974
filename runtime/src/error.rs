//! What can go wrong, as one sentence for people and one number or word for programs.

use std::path::{Path, PathBuf};

/// The result of everything that may fail: opening, encoding, making a session, reading back.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in the runtime. `Display` is one lower-case sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file in question.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it claims to be: truncated, contradictory, or full of non-numbers.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file in question.
        path: PathBuf,
        /// What was found and what was expected.
        message: String,
    },
    /// The file is sound but asks for something that this program does not do.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The tokenizer could not be built or used.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template could not be read or run.
    #[error("chat template: {0}")]
    Template(String),
    /// An argument makes no sense for this model.
    #[error("{0}")]
    Argument(String),
    /// A token id is outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab}")]
    Token {
        /// The offending id.
        id: u32,
        /// Number of ids that the model knows: 0..vocab.
        vocab: usize,
    },
    /// The session's context is full.
    #[error(
        "the context of {capacity} tokens is full: use a larger one (bonsai run and chat: --ctx-size) or a shorter prompt"
    )]
    ContextFull {
        /// Tokens that fit.
        capacity: usize,
    },
    /// An allocation would not fit.
    #[error("not enough memory: {0}")]
    Memory(String),
    /// `verify` found something that must not be.
    #[error("verification failed: {0}")]
    Check(String),
    /// There is no GPU that can be used, or it failed. What was computed on it since the last answer is lost.
    #[error("GPU: {0}")]
    Gpu(String),
    /// The user asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// The kind of an [`Error`], whose number is for C: numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ErrorCode {
    /// [`Error::Io`]
    Io = 1,
    /// [`Error::Format`]
    Format = 2,
    /// [`Error::Unsupported`]
    Unsupported = 3,
    /// [`Error::Tokenizer`]
    Tokenizer = 4,
    /// [`Error::Argument`]
    Argument = 5,
    /// [`Error::Token`]
    Token = 6,
    /// [`Error::ContextFull`]
    ContextFull = 7,
    /// [`Error::Memory`]
    Memory = 8,
    /// [`Error::Cancelled`]
    Cancelled = 9,
    /// [`Error::Check`]
    Check = 10,
    /// [`Error::Template`]
    Template = 11,
    /// [`Error::Gpu`]
    Gpu = 12,
}

impl ErrorCode {
    /// A word for JavaScript.
    pub fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Format => "format",
            Self::Unsupported => "unsupported",
            Self::Tokenizer => "tokenizer",
            Self::Argument => "argument",
            Self::Token => "token",
            Self::ContextFull => "context-full",
            Self::Memory => "memory",
            Self::Cancelled => "cancelled",
            Self::Check => "check",
            Self::Template => "template",
            Self::Gpu => "gpu",
        }
    }
}

impl Error {
    /// An [`Error::Format`] about `path`.
    pub fn format(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::Format { path: path.as_ref().to_path_buf(), message: message.into() }
    }

    /// What a model says whose weights are damaged.
    pub(crate) fn not_numbers() -> Self {
        Self::format("model", "its logits are not numbers: the weights are damaged")
    }

    /// Names the file that an [`std::io::Error`] was about: `.map_err(Error::io(path))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// The kind of this error.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Io { .. } => ErrorCode::Io,
            Self::Format { .. } => ErrorCode::Format,
            Self::Unsupported(_) => ErrorCode::Unsupported,
            Self::Tokenizer(_) => ErrorCode::Tokenizer,
            Self::Argument(_) => ErrorCode::Argument,
            Self::Token { .. } => ErrorCode::Token,
            Self::ContextFull { .. } => ErrorCode::ContextFull,
            Self::Memory(_) => ErrorCode::Memory,
            Self::Cancelled => ErrorCode::Cancelled,
            Self::Check(_) => ErrorCode::Check,
            Self::Template(_) => ErrorCode::Template,
            Self::Gpu(_) => ErrorCode::Gpu,
        }
    }

    /// The exit code of a command-line program: 1 a check failed, 2 usage, 3 bad input file, 4 out of memory or context,
    /// 6 no GPU or it failed, 130 cancelled.
    pub fn exit_code(&self) -> u8 {
        match self.code() {
            ErrorCode::Check => 1,
            ErrorCode::Argument | ErrorCode::Token => 2,
            ErrorCode::Io | ErrorCode::Format | ErrorCode::Unsupported => 3,
            ErrorCode::Tokenizer | ErrorCode::Template => 3,
            ErrorCode::ContextFull | ErrorCode::Memory => 4,
            ErrorCode::Gpu => 6,
            ErrorCode::Cancelled => 130,
        }
    }
}
