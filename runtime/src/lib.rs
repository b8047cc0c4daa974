//! Runs ternary language models: every weight is -1, 0 or +1 times a scale shared by its group.

pub mod backend;
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))] // there is no clock
pub mod bench;
#[cfg(feature = "chat")]
pub mod chat;
pub mod checkpoint;
pub mod config;
pub mod cpu;
pub mod error;
pub mod fit;
pub mod gguf;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod model;
pub mod model_file;
mod pages;
pub mod perplexity;
pub mod quantized;
pub mod random;
pub mod random_model;
pub mod sampler;
pub mod session;
pub mod tensor;
pub mod ternary;
pub mod tokenizer;
pub mod verify;

#[cfg(feature = "chat")]
pub use chat::{ChatOptions, ChatTemplate, Message, Tool};
pub use config::Config;
pub use cpu::KvFormat;
pub use error::{Error, ErrorCode, Result};
pub use model_file::ModelFile;
pub use sampler::{Sampler, SamplerOptions};
pub use session::{Conversation, Device, Model, Session, SessionOptions};
pub use tokenizer::Tokenizer;
