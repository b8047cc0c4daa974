//! GGUF files: the container (version 3, and 2 to read), and models in it.
//!
//! [`Gguf`] reads a container and trusts nothing in it; [`write()`] writes one. [`open`] and [`write_model`] do
//! the same for whole models: between metadata and [`Config`](crate::Config), between names of llama.cpp and ours.
//! What is not understood for certain (another architecture, a `prism.*` key, a foreign number format) is
//! refused by name, never guessed.
//!
//! ```text
//! "GGUF" | version u32 | tensors u64 | entries u64
//! entries:  key, type u32, value                          string = length u64, UTF-8
//! tensors:  name, dimensions u32, ne u64 each, type u32, offset u64
//! zeros up to a multiple of the alignment, then the data: tensor after tensor, each padded likewise
//! ```

mod architecture;
mod cursor;
mod export;
mod keys;
mod layout;
mod metadata;
mod model;
mod read;
mod rope;
mod value;
mod vocabulary;
mod write;

pub use export::{ModelTensor, PackedFormat, metadata_for, write_model};
pub use layout::{Evidence, TensorInfo, TensorType};
pub use metadata::Metadata;
pub use model::{open, open_bytes, open_parts, open_without_tokenizer};
pub use read::Gguf;
pub use value::{Array, Value, ValueType};
pub use write::{NewTensor, Source, write};

const MAGIC: &[u8; 4] = b"GGUF";
const ALIGNMENT_KEY: &str = "general.alignment";
const DEFAULT_ALIGNMENT: usize = 32;
