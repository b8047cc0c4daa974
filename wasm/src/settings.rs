//! The JSON that says how to compute, to sample and to write text. Unknown names are refused, so that a misspelt one shows.

use serde::Deserialize;

use crate::error::{Result, argument};

/// Settings out of JSON; nothing at all is the defaults.
pub(crate) fn parse<'a, T: Deserialize<'a> + Default>(json: Option<&'a str>) -> Result<T> {
    let parsed = json.map(serde_json::from_str).transpose();
    Ok(parsed.map_err(|e| argument(format!("settings: {e}")))?.unwrap_or_default())
}
