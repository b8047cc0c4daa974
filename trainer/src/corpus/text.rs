//! Plain text: cut at `<|endoftext|>` where a file has such marks, else at blank lines into passages of about
//! [`PASSAGE`] bytes, so that one big file can be divided, too. Read line by line, a long one in
//! pieces: what is in memory is one document.

use std::io::{BufRead, Read};
use std::path::Path;

use bonsai_runtime::Error as RuntimeError;

use super::input::Documents;
use super::{END_OF_TEXT, compressed};
use crate::error::{Error, Result};

/// A passage of plain text is closed at the first blank line after this many bytes.
pub const PASSAGE: usize = 2048;

/// A passage without a blank line is cut at the end of a line, or of a word, after this many bytes.
const LONGEST_PASSAGE: usize = 4096;

/// A line of more bytes, as in files without any end of line, is read in pieces.
const LONGEST_LINE: usize = 1 << 20;

/// Gives the documents of a file.
pub(super) fn read(path: &Path, sink: Documents<'_>) -> Result<()> {
    let mut document = String::new();
    if has_marks(path)? {
        each_line(path, |line| marked(line, &mut document, sink))?;
        document.truncate(document.trim_end_matches('\n').len());
    } else {
        each_line(path, |line| passage(line, &mut document, sink))?;
    }
    sink(document.into())
}

/// All of a file, undivided: what [`read`] reads, unpacked, without a byte order mark, lines ended by `\n`.
pub(super) fn whole(path: &Path) -> Result<String> {
    let mut text = String::new();
    each_line(path, |line| {
        text.push_str(line);
        Ok(())
    })?;
    Ok(text)
}

/// Whether a file separates documents by [`END_OF_TEXT`].
fn has_marks(path: &Path) -> Result<bool> {
    let mut reader = compressed::open(path)?;
    let mut read = Vec::new();
    let (first, rest) = (b'<', &END_OF_TEXT.as_bytes()[1..]);
    loop {
        let block = reader.fill_buf().map_err(RuntimeError::io(path))?;
        if block.is_empty() {
            return Ok(false);
        }
        let length = block.len();
        read.extend_from_slice(block);
        reader.consume(length);
        if read.split(|&byte| byte == first).skip(1).any(|behind| behind.starts_with(rest)) {
            return Ok(true);
        }
        read.drain(..read.len().saturating_sub(rest.len())); // a mark may lie across the border
    }
}

/// Calls `each` with every line, its end included and written as `\n`; with one of more than [`LONGEST_LINE`] bytes in
/// pieces.
fn each_line(path: &Path, mut each: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let mut reader = compressed::open(path)?;
    let (mut line, mut at) = (Vec::new(), 0);
    loop {
        let room = (LONGEST_LINE - line.len()) as u64;
        let read = reader.by_ref().take(room).read_until(b'\n', &mut line).map_err(RuntimeError::io(path))?;
        if read == 0 && line.is_empty() {
            return Ok(());
        }
        let length = if line.len() < LONGEST_LINE { line.len() } else { piece(&line) };
        let text =
            std::str::from_utf8(&line[..length]).map_err(|error| not_utf8(path, at + error.valid_up_to()))?;
        let text = if at == 0 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
        match text.strip_suffix("\r\n") {
            None => each(text)?,
            Some(text) => each(&format!("{text}\n"))?,
        }
        at += length;
        line.drain(..length);
    }
}

/// Where a piece of a long line may end: before what may be the beginning of a mark, of the line's end or of a character.
fn piece(line: &[u8]) -> usize {
    let tail = line.len() - END_OF_TEXT.len().min(line.len());
    let begins = |&byte: &u8| byte == b'<' || byte == b'\r' || byte >= 0xC0;
    line[tail..].iter().position(begins).map_or(line.len(), |at| tail + at)
}

fn not_utf8(path: &Path, at: usize) -> Error {
    let message =
        format!("not UTF-8 at byte {at}: convert it first, for example with iconv -f latin1 -t utf-8");
    Error::Data { path: path.to_path_buf(), message }
}

/// Adds a line to the document; a mark in it ends the document.
fn marked(line: &str, document: &mut String, sink: Documents<'_>) -> Result<()> {
    let mut parts = line.split(END_OF_TEXT);
    let first = parts.next().unwrap_or_default();
    append(document, first);
    for part in parts {
        document.truncate(document.trim_end_matches('\n').len());
        sink(std::mem::take(document).into())?;
        append(document, part);
    }
    Ok(())
}

/// No document begins with the end of a line.
fn append(document: &mut String, text: &str) {
    document.push_str(if document.is_empty() { text.trim_start_matches('\n') } else { text });
}

/// Adds a line to the passage, which ends at blank lines and has at least [`PASSAGE`] bytes (the last one may be
/// shorter).
fn passage(line: &str, passage: &mut String, sink: Documents<'_>) -> Result<()> {
    let blank = line.trim().is_empty();
    if (blank && passage.len() >= PASSAGE) || passage.len() >= LONGEST_PASSAGE {
        sink(std::mem::take(passage).into())?;
    }
    if blank && passage.is_empty() {
        return Ok(());
    }
    let mut line = line;
    while line.len() > LONGEST_PASSAGE {
        let (head, tail) = line.split_at(word_end(line));
        passage.push_str(head);
        sink(std::mem::take(passage).into())?;
        line = tail;
    }
    passage.push_str(line);
    Ok(())
}

/// A place near [`PASSAGE`] where a line without end may be cut: after a space if there is one, else after a letter.
fn word_end(line: &str) -> usize {
    let limit = line.floor_char_boundary(LONGEST_PASSAGE);
    line[..limit].rfind(' ').map_or(limit, |space| space + 1)
}
