//! Text files, read one after another, a document at a time.

use std::path::{Path, PathBuf};

use bonsai_runtime::Error as RuntimeError;

use super::{Document, columns, compressed, lines, text};
use crate::data::Dataset;
use crate::error::{Error, Result};

/// Receives the documents of files.
pub(super) type Documents<'a> = &'a mut (dyn FnMut(Document) -> Result<()> + 'a);

/// Files in the order in which their documents come, and the field that holds the text.
#[derive(Debug, Clone)]
pub struct Input {
    /// All files, one by one.
    pub files: Vec<PathBuf>,
    /// Field of a `.jsonl` line, or column of a `.parquet` file.
    pub column: String,
    /// What was asked for.
    named: PathBuf,
}

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Lines,
    Columns,
}

impl Kind {
    /// By the end of the name, that of a compression aside; `None` for what is no name of text.
    fn of(path: &Path) -> Option<Self> {
        match compressed::inner_extension(path).as_str() {
            "txt" => Some(Self::Text),
            "jsonl" | "ndjson" => Some(Self::Lines),
            "parquet" => Some(Self::Columns),
            _ => None,
        }
    }
}

impl Input {
    /// The files of `paths`. A directory stands for its files of text, sorted by name.
    pub fn new(paths: &[PathBuf], column: &str) -> Result<Self> {
        let mut all = Vec::new();
        for path in paths {
            all.extend(files(path)?);
        }
        let named = paths.first().cloned().unwrap_or_default();
        Ok(Self { files: all, column: column.into(), named })
    }

    /// Gives every document of every file to `sink`. Documents without any text are left out.
    pub fn each(&self, mut sink: impl FnMut(Document) -> Result<()>) -> Result<()> {
        self.files.iter().try_for_each(|file| self.each_of(file, &mut sink))
    }

    /// The same of text that must not be empty.
    pub fn each_of_some(&self, mut sink: impl FnMut(Document) -> Result<()>) -> Result<()> {
        let mut empty = true;
        self.each(|document| {
            empty = false;
            sink(document)
        })?;
        if empty { Err(self.nothing()) } else { Ok(()) }
    }

    /// The documents of one of the files.
    pub(super) fn each_of(&self, file: &Path, sink: Documents<'_>) -> Result<()> {
        let mut sink = |document: Document| match document.text.trim() {
            "" => Ok(()),
            _ => sink(document),
        };
        match Kind::of(file).unwrap_or(Kind::Text) {
            Kind::Text => text::read(file, &mut sink),
            Kind::Lines => lines::read(file, &self.column, &mut sink),
            Kind::Columns => columns::read(file, &self.column, &mut sink),
        }
    }

    /// What is said when all files together have no document.
    pub(super) fn nothing(&self) -> Error {
        let message = "there is no text: name .txt, .jsonl or .parquet files, or directories of them";
        Error::Data { path: self.named.clone(), message: message.into() }
    }
}

/// The one text of a file, read as training reads it. Files of documents are refused.
pub fn plain_text(path: &Path) -> Result<String> {
    let wrong = |message: &str| Err(Error::Data { path: path.to_path_buf(), message: message.into() });
    check_name(path)?;
    if !matches!(Kind::of(path), None | Some(Kind::Text)) {
        return wrong(
            "holds documents, and one plain text is read here: write their text into a .txt file first",
        );
    }
    let text = text::whole(path)?;
    if text.trim().is_empty() { wrong("there is no text in it") } else { Ok(text) }
}

/// Refuses a file whose name says that its text stands between the marks of a format that nobody reads here.
fn check_name(path: &Path) -> Result<()> {
    let advice = match compressed::inner_extension(path).as_str() {
        "json" => {
            "JSON is read as .jsonl, a document a line: jq -c '.[]' FILE.json > FILE.jsonl makes it of an array"
        }
        "csv" | "tsv" => "tables are read as .parquet or .jsonl, a document a row: convert it",
        _ => return Ok(()),
    };
    let message = format!("{advice}; if it is meant as plain text, give it a name that ends in .txt");
    Err(Error::Data { path: path.to_path_buf(), message })
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        check_name(path)?;
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(RuntimeError::io(path))? {
        let file = entry.map_err(RuntimeError::io(path))?.path();
        if file.is_file() && Kind::of(&file).is_some() {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        let message = match Dataset::is_prepared(path) {
            true => {
                "holds prepared tokens, which stand alone: name nothing beside them, or the text that they were made of"
            }
            false => "has no .txt, .jsonl or .parquet file in it",
        };
        return Err(Error::Data { path: path.to_path_buf(), message: message.into() });
    }
    Ok(files)
}
