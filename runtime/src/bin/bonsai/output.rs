//! Standard output for results, standard error for people.

use std::io::{self, ErrorKind, IsTerminal, Write};

use bonsai_runtime::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};

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

/// A piece of text for people, as it comes.
pub fn aside(piece: &str) {
    let _ = write!(io::stderr(), "{}", dim(piece)).and_then(|()| io::stderr().flush());
}

/// A bar on standard error, shown on a terminal only.
pub fn progress(length: usize, unit: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template(&format!("{{bar:40}} {{pos}}/{{len}} {unit}, {{eta}} left {{msg}}"));
    ProgressBar::new(length as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// A number for people: 596.0 M.
pub fn count(n: u64) -> String {
    let n = n as f64;
    if n < 1e9 { format!("{:.1} M", n / 1e6) } else { format!("{:.2} B", n / 1e9) }
}

/// A Markdown table whose columns stand below each other in a terminal, too.
pub struct Table {
    /// Title and width, negative for columns that start at the left.
    columns: Vec<(String, i32)>,
}

impl Table {
    /// Titles and widths; a negative width starts at the left. Titles always fit.
    pub fn new(columns: &[(&str, i32)]) -> Self {
        let fit = |(title, width): &(&str, i32)| {
            let least = title.chars().count() as i32;
            (title.to_string(), if *width < 0 { (*width).min(-least) } else { (*width).max(least) })
        };
        Self { columns: columns.iter().map(fit).collect() }
    }

    /// Titles and the line below them.
    pub fn head(&self) -> String {
        let titles: Vec<&str> = self.columns.iter().map(|(title, _)| title.as_str()).collect();
        let rule = |(_, width): &(String, i32)| {
            let dashes = "-".repeat(width.unsigned_abs() as usize + 1);
            if *width < 0 { format!(":{dashes}|") } else { format!("{dashes}:|") }
        };
        self.row(&titles) + "|" + &self.columns.iter().map(rule).collect::<String>() + "\n"
    }

    /// A line.
    pub fn row(&self, cells: &[impl AsRef<str>]) -> String {
        let mut line = String::from("|");
        for (cell, (_, width)) in cells.iter().zip(&self.columns) {
            let (cell, size) = (cell.as_ref(), width.unsigned_abs() as usize);
            line += &if *width < 0 { format!(" {cell:<size$} |") } else { format!(" {cell:>size$} |") };
        }
        line + "\n"
    }
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
