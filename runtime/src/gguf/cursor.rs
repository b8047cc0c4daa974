//! A checked walk over the bytes of a file. Nothing is reserved before the bytes for it have been seen.

use std::path::Path;

use super::value::{Array, Value, ValueType};
use crate::error::{Error, Result};
use crate::tensor::Bytes;

/// A position in a file.
pub(super) struct Cursor<'a> {
    bytes: &'a Bytes,
    path: &'a Path,
    /// Bytes read so far; never beyond the end.
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a Bytes, path: &'a Path) -> Self {
        Self { bytes, path, at: 0 }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    /// Bytes not yet read.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::format(self.path, message)
    }

    /// The next `count` bytes; `what` names them in the error.
    pub fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8]> {
        let left = self.left();
        match usize::try_from(count) {
            Ok(count) if count <= left => {
                self.at += count;
                Ok(&self.bytes[self.at - count..self.at])
            }
            _ => Err(self.error(format!(
                "{what} needs {count} bytes at byte {}, but only {left} are left: the file is cut short or damaged",
                self.at
            ))),
        }
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut number = [0; N];
        number.copy_from_slice(self.take(N as u64, what)?);
        Ok(number)
    }

    pub fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count of things of at least `least` bytes each, refused when the file cannot hold that many.
    pub fn count(&mut self, least: usize, what: &str) -> Result<usize> {
        let count = self.u64(what)?;
        let most = self.left() / least;
        usize::try_from(count).ok().filter(|&count| count <= most).ok_or_else(|| {
            self.error(format!(
                "{what} is {count}, but the rest of the file has room for at most {most}: the file is cut short \
                 or damaged"
            ))
        })
    }

    pub fn str(&mut self, what: &str) -> Result<&'a str> {
        let at = self.at;
        let length = self.u64(what)?;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|_| self.error(format!("{what} at byte {at} is not UTF-8")))
    }

    pub fn value_type(&mut self, what: &str) -> Result<ValueType> {
        let id = self.u32(what)?;
        ValueType::from_id(id)
            .ok_or_else(|| self.error(format!("{what} has type {id}, but the types of GGUF are 0 to 12")))
    }

    pub fn value(&mut self, what: &str) -> Result<Value> {
        let of = self.value_type(what)?;
        Value::read(of, self, what)
    }

    pub fn bool(&mut self, what: &str) -> Result<bool> {
        match self.array(what)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [byte] => Err(self.error(format!("{what} is the truth value {byte}, expected 0 or 1"))),
        }
    }

    /// Checks an array and keeps its bytes where they are.
    pub fn values(&mut self, what: &str) -> Result<Array> {
        let element = self.value_type(what)?;
        let least = element
            .least_bytes()
            .ok_or_else(|| self.error(format!("{what} is an array of arrays, which no model file needs")))?;
        let count = self.count(least, what)?;
        let start = self.at;
        match element {
            ValueType::Str => (0..count).try_for_each(|_| self.str(what).map(drop))?,
            ValueType::Bool => (0..count).try_for_each(|_| self.bool(what).map(drop))?,
            _ => drop(self.take((count * least) as u64, what)?),
        }
        Ok(Array { element, count, bytes: self.bytes.slice(start..self.at) })
    }
}
