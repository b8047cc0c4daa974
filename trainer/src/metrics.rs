//! `metrics.jsonl`: one JSON object a line, for programs and for `plot`.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use bonsai_runtime::Error as RuntimeError;
use serde_json::Value;

use crate::error::Result;
use crate::files;

/// Name of the file inside a run.
pub const FILE: &str = "metrics.jsonl";

/// Appends to a run's metrics.
pub struct Metrics {
    path: PathBuf,
    /// `None` where another process writes.
    file: Option<File>,
}

impl Metrics {
    /// Opens the metrics of a run that stands at `step`: lines of later steps, which a crash left behind, go.
    pub fn open(dir: &Path, step: u64) -> Result<Self> {
        let path = dir.join(FILE);
        let old = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(), // a crash may have left half a line
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(RuntimeError::io(&path)(error).into()),
        };
        let kept: String =
            old.lines().filter(|line| belongs(line, step)).map(|line| format!("{line}\n")).collect();
        files::write(dir, FILE, &kept)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(RuntimeError::io(&path))?;
        Ok(Self { path, file: Some(file) })
    }

    /// Metrics that are written nowhere.
    pub fn silent() -> Self {
        Self { path: PathBuf::new(), file: None }
    }

    /// Adds one line.
    pub fn log(&mut self, line: &Value) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        Ok(writeln!(file, "{line}").map_err(RuntimeError::io(&self.path))?)
    }
}

/// True for a whole line of a step that the run has done.
fn belongs(line: &str, step: u64) -> bool {
    let parsed: Option<Value> = serde_json::from_str(line).ok();
    parsed.and_then(|v| v["step"].as_u64()).is_some_and(|s| s <= step && step > 0)
}
