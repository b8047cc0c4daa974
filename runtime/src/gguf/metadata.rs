//! The key-value part of a file, with getters that say which key is missing or of the wrong type.

use std::path::PathBuf;

use super::value::{Array, Value};
use crate::error::{Error, Result};

/// Ordered keys and values. Each key occurs once.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    pub(super) path: PathBuf,
    pub(super) entries: Vec<(String, Value)>,
}

impl Metadata {
    /// All entries in file order.
    pub fn entries(&self) -> &[(String, Value)] {
        &self.entries
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// An integer of any type that fits a u64.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "a number from 0 up", |value| value.integer()?.try_into().ok())
    }

    /// An integer of any type that fits a u32.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "a number from 0 to 2^32 - 1", |value| value.integer()?.try_into().ok())
    }

    /// A floating-point number that an f32 holds exactly.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "an f32", |value| match *value {
            Value::F32(x) => Some(x),
            Value::F64(x) if f64::from(x as f32) == x => Some(x as f32),
            _ => None,
        })
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", |value| if let Value::Bool(x) = value { Some(*x) } else { None })
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |value| if let Value::Str(x) = value { Some(x.as_str()) } else { None })
    }

    /// An array.
    pub fn array(&self, key: &str) -> Result<Option<&Array>> {
        self.typed(key, "an array", |value| if let Value::Array(x) = value { Some(x) } else { None })
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<impl Iterator<Item = &str>>> {
        self.typed(key, "an array of strings", |value| {
            if let Value::Array(x) = value { x.as_strings() } else { None }
        })
    }

    /// An array of i32.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.typed(
            key,
            "an array of i32",
            |value| {
                if let Value::Array(x) = value { x.as_i32s() } else { None }
            },
        )
    }

    /// An array of f32.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.typed(
            key,
            "an array of f32",
            |value| {
                if let Value::Array(x) = value { x.as_f32s() } else { None }
            },
        )
    }

    /// The value of a key that must be there.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(format!("the metadata key '{key}' is missing")))
    }

    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        Error::format(&self.path, message)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let found = || match value {
            Value::Array(array) => format!("array of {} {}", array.len(), array.element_type().name()),
            Value::Str(_) => "string".into(),
            _ => format!("{value:?}"),
        };
        let refuse = || {
            self.error(format!("the metadata key '{key}' should be {expected}, but the file has {}", found()))
        };
        convert(value).map(Some).ok_or_else(refuse)
    }
}
