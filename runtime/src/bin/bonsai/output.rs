//! Standard output for results, standard error for people.

use std::io::{self, ErrorKind, IsTerminal, Write};

use bonsai_runtime::{Error, Result};

/// Writes a piece of the result and shows it at once.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::io("standard output"))
}

/// Writes a JSON value as one line.
pub fn json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value}\n"))
}

/// A line for people. That nobody listens is no reason to stop.
pub fn status(line: &str) {
    let _ = writeln!(io::stderr(), "{}", dim(line));
}

/// Says what went wrong.
pub fn error(error: &Error) {
    let label = if colour() { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
    let _ = writeln!(io::stderr(), "{label} {error}");
}

/// True if whoever read our output has gone.
pub fn is_broken_pipe(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::BrokenPipe)
}

fn dim(text: &str) -> String {
    if colour() { format!("\x1b[2m{text}\x1b[0m") } else { text.into() }
}

fn colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
