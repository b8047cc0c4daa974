//! Trains language models whose every weight is -1, 0 or +1.
//!
//! Start with [`model`], the forward and backward pass, and [`train`], the step round them.

pub mod ablate;
pub mod backend;
pub mod bpe;
pub mod checkpoint;
pub mod commands;
pub mod communicator;
pub mod config;
pub mod convert;
pub mod corpus;
pub mod cpu;
pub mod data;
pub mod device;
pub mod diagnostics;
pub mod dialogue;
pub mod error;
pub mod eval;
pub mod export;
pub mod files;
pub mod fit;
pub mod formats;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod import;
mod ledger;
pub mod loss;
pub mod lr_find;
pub mod metrics;
pub mod model;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod numbers;
pub mod optimizer;
pub mod output;
pub mod params;
pub mod plot;
pub mod preview;
pub mod quickstart;
pub mod random;
pub mod rotation;
pub mod run;
pub mod schedule;
pub mod stories;
pub mod summary;
pub mod teacher_cache;
pub mod tensorboard;
pub mod timed;
pub mod train;
pub mod verify;

pub use error::{Error, Result};
