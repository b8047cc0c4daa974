//! Parquet: a document a row, read row group by row group and in it page by page, the one column that is needed.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use bonsai_runtime::Error as RuntimeError;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::{Map, Value};

use super::Document;
use super::input::Documents;
use super::lines::{CONVERSATIONS, conversation};
use super::zstd_pages::Group;
use crate::error::{Error, Result};

/// Gives the documents of a file.
pub(super) fn read(path: &Path, column: &str, sink: Documents<'_>) -> Result<()> {
    let file = Arc::new(File::open(path).map_err(RuntimeError::io(path))?);
    let handle = file.try_clone().map_err(RuntimeError::io(path))?;
    let reader = SerializedFileReader::new(handle).map_err(|error| damaged(path, "its footer", &error))?;
    let schema = reader.metadata().file_metadata().schema();
    let projection = projection(path, schema, column)?;
    let first = projection.get_fields().first().map_or("", |field| field.name());
    for at in 0..reader.num_row_groups() {
        let group = || format!("row group {at} of {}", reader.num_row_groups());
        let bad = |error: &ParquetError| damaged(path, &group(), error);
        check_compression(path, reader.metadata().row_group(at), first)?;
        let rows = Group::new(reader.get_row_group(at).map_err(|e| bad(&e))?, file.clone());
        let rows = RowIter::from_row_group(Some(projection.clone()), &rows).map_err(|e| bad(&e))?;
        for (number, row) in rows.enumerate() {
            let row = row.map_err(|error| bad(&error))?;
            let place = || format!("{}: row {number} of {}", path.display(), group());
            let found = document(row, place)
                .map_err(|reason| wrong(path, &format!("{}: row {number}: {reason}", group())))?;
            found.map_or(Ok(()), &mut *sink)?;
        }
    }
    Ok(())
}

/// Refuses what cannot be unpacked without a C library, by name.
fn check_compression(path: &Path, group: &RowGroupMetaData, column: &str) -> Result<()> {
    let mut columns = group.columns().iter();
    let parts = columns.find(|part| part.column_path().parts().first().is_some_and(|name| name == column));
    match parts.map(|part| part.compression()) {
        Some(Compression::BROTLI(_) | Compression::LZO) => Err(wrong(
            path,
            "is compressed with brotli or lzo: write it again with zstd, snappy, gzip, lz4 or none",
        )),
        _ => Ok(()),
    }
}

/// The schema with the column of documents alone.
fn projection(path: &Path, schema: &Type, column: &str) -> Result<Type> {
    let fields = schema.get_fields();
    let named = |name: &str| fields.iter().find(|field| field.name() == name);
    let Some(field) = [column].into_iter().chain(CONVERSATIONS).find_map(named) else {
        let names: Vec<&str> = fields.iter().map(|field| field.name()).collect();
        return Err(wrong(
            path,
            &format!(
                "there is no column \"{column}\", only {}: name one with --text-column",
                names.join(", ")
            ),
        ));
    };
    let projection = Type::group_type_builder(schema.name()).with_fields(vec![field.clone()]).build();
    projection.map_err(|error| damaged(path, "its schema", &error))
}

/// The document of a row, if it has one.
fn document(row: Row, place: impl Fn() -> String) -> Result<Option<Document>, String> {
    match row.into_columns().into_iter().next() {
        None | Some((_, Field::Null)) => Ok(None),
        Some((_, Field::Str(text))) => Ok(Some(text.into())),
        Some((_, Field::Bytes(bytes))) => {
            let text = bytes.as_utf8().map_err(|_| "its text is not UTF-8".to_owned())?;
            Ok(Some(text.to_owned().into()))
        }
        Some((_, Field::ListInternal(list))) => {
            let messages = conversation(list.elements().iter().map(json).collect())?;
            Ok(messages.map(|text| Document { text, conversation: Some(place()) }))
        }
        Some((name, _)) => Err(format!(
            "column \"{name}\" holds neither texts nor lists of messages: name another with --text-column"
        )),
    }
}

/// A field of a message as JSON; numbers and dates as text, which is what templates make of them.
fn json(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::Bool(*value),
        Field::Str(text) => Value::String(text.clone()),
        Field::Group(row) => {
            let entries = row.get_column_iter().map(|(name, field)| (name.clone(), json(field)));
            Value::Object(entries.collect::<Map<String, Value>>())
        }
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(json).collect()),
        other => Value::String(other.to_string()),
    }
}

fn damaged(path: &Path, place: &str, error: &ParquetError) -> Error {
    let reason = error.to_string().replace('\n', " ");
    wrong(
        path,
        &format!(
            "{place} cannot be read ({reason}): the file is damaged, cut off or no parquet; fetch it again or leave it out"
        ),
    )
}

fn wrong(path: &Path, message: &str) -> Error {
    Error::Data { path: path.to_path_buf(), message: message.to_owned() }
}
