//! Files that are whole or not there: written under another name, synced, renamed.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use bonsai_runtime::Error as RuntimeError;

use crate::error::Result;

/// Writes `name` in `dir` so that a crash leaves the old file or the new one.
pub fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    write_new(dir, name, text)?;
    rename(dir, name)?;
    sync_dir(dir)
}

/// Where `name` is written before it is renamed.
pub fn new_name(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.new"))
}

/// Writes and syncs `name` under its temporary name.
pub fn write_new(dir: &Path, name: &str, text: &str) -> Result<()> {
    let path = new_name(dir, name);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    Ok(write().map_err(RuntimeError::io(dir.join(name)))?)
}

/// Puts `name` in the place of the file before it.
pub fn rename(dir: &Path, name: &str) -> Result<()> {
    Ok(std::fs::rename(new_name(dir, name), dir.join(name)).map_err(RuntimeError::io(dir.join(name)))?)
}

/// Whether a file begins as a GGUF file does. What is no regular file is none: reading might take something from it.
pub fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    path.is_file()
        && File::open(path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok())
        && magic == *b"GGUF"
}

/// Makes renames survive a power cut, where the system lets a directory be synced.
pub fn sync_dir(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(dir).and_then(|d| d.sync_all()).map_err(RuntimeError::io(dir))?;
    }
    Ok(())
}
