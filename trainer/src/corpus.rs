//! Documents from files, and their division into training and validation text.
//!
//! `.jsonl` files hold one document a line in the field "text". Everything else is plain text: cut at
//! `<|endoftext|>` where it has such marks, else at blank lines into passages of about [`PASSAGE`] bytes, so that one
//! big file can be divided, too. The division is by content, never by position: equal texts are always on the same
//! side, because a document that is trained on and validated on makes the validation loss a lie.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use bonsai_runtime::Error as RuntimeError;

use crate::error::{Error, Result};
use crate::random::mix;

/// Separates documents in plain text.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// A passage of plain text is closed at the first blank line after this many bytes.
pub const PASSAGE: usize = 2048;

/// A passage without a blank line is cut at the end of a line, or of a word, after this many bytes.
const LONGEST_PASSAGE: usize = 4096;

/// What is taken from a `.jsonl` line.
#[derive(serde::Deserialize)]
struct Line {
    text: String,
}

/// All documents of `paths`, in order. A directory stands for its `.txt` and `.jsonl` files, sorted by name.
/// Documents without any text are left out.
pub fn read_documents(paths: &[PathBuf]) -> Result<Vec<String>> {
    let mut documents = Vec::new();
    for path in paths {
        for file in files(path)? {
            if is_jsonl(&file) {
                read_jsonl(&file, &mut documents)?
            } else {
                read_text(&file, &mut documents)?
            }
        }
    }
    if documents.is_empty() {
        return Err(Error::Data {
            path: paths.first().cloned().unwrap_or_default(),
            message: "there is no text: name .txt or .jsonl files, or directories of them".into(),
        });
    }
    Ok(documents)
}

fn is_jsonl(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "jsonl" || end == "ndjson")
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(RuntimeError::io(path))? {
        let file = entry.map_err(RuntimeError::io(path))?.path();
        if file.is_file() && (is_jsonl(&file) || file.extension().is_some_and(|end| end == "txt")) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read_jsonl(path: &Path, documents: &mut Vec<String>) -> Result<()> {
    let file = File::open(path).map_err(RuntimeError::io(path))?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(RuntimeError::io(path))? == 0 {
            break;
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let Line { text } = serde_json::from_slice(&line).map_err(|error| bad_line(path, number, &error))?;
        if !text.trim().is_empty() {
            documents.push(text);
        }
    }
    Ok(())
}

fn bad_line(path: &Path, number: usize, error: &serde_json::Error) -> Error {
    let error = error.to_string();
    let reason = error.split(" at line 1").next().unwrap_or_default(); // serde counts within our one line
    let message = format!("line {number}: {reason}; every line must be a JSON object with a \"text\" string");
    Error::Data { path: path.to_path_buf(), message }
}

fn read_text(path: &Path, documents: &mut Vec<String>) -> Result<()> {
    let bytes = std::fs::read(path).map_err(RuntimeError::io(path))?;
    let text = String::from_utf8(bytes).map_err(|error| Error::Data {
        path: path.to_path_buf(),
        message: format!(
            "not UTF-8 at byte {}: convert it first, for example with iconv -f latin1 -t utf-8",
            error.utf8_error().valid_up_to()
        ),
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).replace("\r\n", "\n");
    let mut found = Vec::new();
    if text.contains(END_OF_TEXT) {
        found.extend(text.split(END_OF_TEXT).map(|part| part.trim_matches('\n').to_string()));
    } else {
        passages(&text, &mut found);
    }
    documents.extend(found.into_iter().filter(|document| !document.trim().is_empty()));
    Ok(())
}

/// Cuts `text` at blank lines into passages of at least [`PASSAGE`] bytes (the last one may be shorter).
fn passages(text: &str, documents: &mut Vec<String>) {
    let mut passage = String::new();
    for line in text.split_inclusive('\n') {
        let blank = line.trim().is_empty();
        if (blank && passage.len() >= PASSAGE) || passage.len() >= LONGEST_PASSAGE {
            documents.push(std::mem::take(&mut passage));
        }
        if blank && passage.is_empty() {
            continue;
        }
        let mut line = line;
        while line.len() > LONGEST_PASSAGE {
            let (head, tail) = line.split_at(word_end(line));
            passage.push_str(head);
            documents.push(std::mem::take(&mut passage));
            line = tail;
        }
        passage.push_str(line);
    }
    documents.push(passage);
}

/// A place near [`PASSAGE`] where a line without end may be cut: after a space if there is one, else after a letter.
fn word_end(line: &str) -> usize {
    let limit = line.floor_char_boundary(LONGEST_PASSAGE);
    line[..limit].rfind(' ').map_or(limit, |space| space + 1)
}

/// Training and validation documents that share no text.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// What is trained on.
    pub train: Vec<String>,
    /// What the loss is validated on.
    pub valid: Vec<String>,
    /// The share of the bytes that was asked for as validation; `None` for a validation text of its own.
    pub valid_fraction: Option<f64>,
    /// Chooses among divisions.
    pub seed: u64,
    /// Training documents that were dropped because the validation text has them, too.
    pub dropped: usize,
    /// The text was a single document and was cut in two: its end is the validation text.
    pub cut: bool,
}

/// Puts about `valid_fraction` of the bytes into `valid`: the documents whose seeded hashes are smallest, so that
/// neither order nor repetition matters. At least one text is on each side: a single document is cut in two.
pub fn split(documents: Vec<String>, valid_fraction: f64, seed: u64) -> Result<Split> {
    if !(valid_fraction > 0.0 && valid_fraction < 1.0) {
        return Err(Error::Config(format!(
            "the validation fraction is {valid_fraction}: choose one between 0 and 1"
        )));
    }
    let mut hashed: Vec<(u64, usize)> = documents.iter().map(|text| (hash(text, seed), text.len())).collect();
    hashed.sort_unstable();
    let largest = match (hashed.first(), hashed.last()) {
        (Some(first), Some(last)) if first.0 != last.0 => last.0,
        _ => return cut(&documents, valid_fraction, seed),
    };
    let wanted = valid_fraction * documents.iter().map(String::len).sum::<usize>() as f64;
    let mut bytes = 0;
    let mut last = 0; // the last hash that is validated on
    for (hash, length) in hashed {
        let repeated = hash == last; // copies stay together
        if hash == largest || (bytes as f64 >= wanted && bytes > 0 && !repeated) {
            break;
        }
        last = hash;
        bytes += length;
    }
    let (train, valid) = documents.into_iter().partition(|text| hash(text, seed) > last);
    Ok(Split { train, valid, valid_fraction: Some(valid_fraction), seed, dropped: 0, cut: false })
}

/// Divides what is one document, or copies of one, where a paragraph ends near the fraction; failing that a line, or
/// a word.
fn cut(documents: &[String], valid_fraction: f64, seed: u64) -> Result<Split> {
    let text = documents.first().map_or("", |text| text.trim());
    let valid = (valid_fraction * text.len() as f64) as usize;
    let wanted = text.len() - valid;
    let nearest = |mark: &str, most: usize| {
        let ends = text.match_indices(mark).map(|(at, mark)| at + mark.len());
        let end = ends.min_by_key(|end| end.abs_diff(wanted))?;
        (end.abs_diff(wanted) <= most).then_some(end)
    };
    let near = (valid / 2).max(80); // about a line
    let end = nearest("\n\n", near).or_else(|| nearest("\n", near)).or_else(|| nearest(" ", usize::MAX));
    match end.or_else(|| nearest("\n", usize::MAX)).map(|end| text.split_at(end)) {
        Some((train, valid)) if train.trim() != valid.trim() => {
            let (train, valid) = (vec![train.to_owned()], vec![valid.to_owned()]);
            Ok(Split { train, valid, valid_fraction: Some(valid_fraction), seed, dropped: 0, cut: true })
        }
        _ => Err(Error::Config(
            "the text is a single document and cannot be divided into training and validation: add documents, \
             put blank lines between paragraphs, or name a validation file"
                .into(),
        )),
    }
}

/// Takes `valid` as validation text and drops every training document that occurs in it.
pub fn separate(train: Vec<String>, valid: Vec<String>) -> Result<Split> {
    let known: HashSet<&str> = valid.iter().map(|text| text.trim()).collect();
    let before = train.len();
    let train: Vec<String> = train.into_iter().filter(|text| !known.contains(text.trim())).collect();
    let dropped = before - train.len();
    if train.is_empty() {
        return Err(Error::Config(
            "every training document is also in the validation text: choose another validation file".into(),
        ));
    }
    Ok(Split { train, valid, valid_fraction: None, seed: 0, dropped, cut: false })
}

/// FNV-1a of the text without the white space around it, seeded and mixed.
fn hash(text: &str, seed: u64) -> u64 {
    mix(fnv1a(text.trim().as_bytes()) ^ mix(seed.wrapping_add(1)))
}

/// The 64-bit FNV-1a hash.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}
