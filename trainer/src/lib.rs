//! stub
#![allow(missing_docs)]
pub mod backend; pub mod config; pub mod cpu; pub mod error; pub mod model; pub mod optimizer; pub mod params; pub mod random; pub mod schedule; pub mod data;
pub use error::{Error, Result};
