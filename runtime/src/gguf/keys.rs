//! The metadata keys that begin with the name of the architecture.

use super::architecture::Architecture;
use super::metadata::Metadata;
use crate::error::{Error, Result};

/// The keys of the architecture, which begin with its name.
pub(super) struct Keys<'a> {
    pub metadata: &'a Metadata,
    pub architecture: Architecture,
}

impl Keys<'_> {
    /// A key as the file has it.
    pub fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture.name())
    }

    pub fn optional(&self, key: &str) -> Result<Option<usize>> {
        let number = self.metadata.u32(&self.full(key))?;
        Ok(number.map(|n| n as usize))
    }

    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        self.metadata.required(&self.full(key), value)
    }

    pub fn size(&self, key: &str) -> Result<usize> {
        self.required(key, self.optional(key)?)
    }

    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.metadata.f32(&self.full(key))
    }

    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.metadata.str(&self.full(key))
    }

    /// Refuses a key unless it is missing or has the one value that changes nothing.
    pub fn neutral(&self, key: &str, neutral: f32) -> Result<()> {
        match self.f32(key)? {
            Some(x) if x != neutral => {
                Err(Error::Unsupported(format!("'{}' = {x}: only {neutral} is", self.full(key))))
            }
            _ => Ok(()),
        }
    }
}
