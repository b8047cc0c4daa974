//! Trains language models whose every weight is -1, 0 or +1.

pub mod bpe;
pub mod corpus;
pub mod data;
pub mod error;
pub mod plot;
pub mod random;
pub mod stories;

pub use error::{Error, Result};
