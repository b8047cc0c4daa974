//! Hugging Face directories.
use crate::{error::Result, model_file::ModelFile};
pub(crate) fn open(_: &std::path::Path) -> Result<ModelFile> {
    Err(crate::Error::Unsupported("placeholder".into()))
}
