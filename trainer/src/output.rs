//! Results go to standard output, and what cannot be written there is an error like any other.

use std::io::{self, ErrorKind, Write};

use bonsai_runtime::Error as RuntimeError;
use serde::Serialize;

use crate::error::{Error, Result};

/// Writes a piece of the result and shows it at once.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Ok(written.map_err(RuntimeError::io("standard output"))?)
}

/// Writes a line.
pub fn line(text: impl std::fmt::Display) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Writes a value as JSON.
pub fn json(value: &impl Serialize) -> Result<()> {
    line(serde_json::to_string_pretty(value).expect("numbers and texts"))
}

/// A number of things: `1 step`, `2 steps`.
pub fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// True if whoever read our output has gone.
pub fn is_broken_pipe(error: &Error) -> bool {
    matches!(error, Error::Runtime(RuntimeError::Io { source, .. }) if source.kind() == ErrorKind::BrokenPipe)
}
