//! Trains language models whose every weight is -1, 0 or +1.

pub mod bpe;
pub mod error;

pub use error::{Error, Result};
