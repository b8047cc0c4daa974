//! Runs ternary language models: every weight is -1, 0 or +1 times a scale shared by its group.

pub mod checkpoint;
pub mod config;
pub mod error;
pub mod gguf;
pub mod model_file;
pub mod tensor;
pub mod ternary;
pub mod tokenizer;

pub use config::Config;
pub use error::{Error, ErrorCode, Result};
pub use model_file::ModelFile;
pub use tokenizer::Tokenizer;
