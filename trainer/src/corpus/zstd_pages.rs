//! Parquet pages compressed with zstd, which the parquet crate could unpack only with a C library: it is told that
//! they are not compressed, and what it reads is unpacked here.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Compression;
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::RowGroupReader;
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;
use ruzstd::decoding::StreamingDecoder;

/// No page is larger: its size is an i32.
const LARGEST_PAGE: u64 = i32::MAX as u64;

/// A row group that unpacks zstd, too.
pub(super) struct Group<'a> {
    inner: Box<dyn RowGroupReader + 'a>,
    file: Arc<File>,
}

impl<'a> Group<'a> {
    /// Row group `inner` of `file`.
    pub(super) fn new(inner: Box<dyn RowGroupReader + 'a>, file: Arc<File>) -> Self {
        Self { inner, file }
    }
}

impl RowGroupReader for Group<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.inner.metadata()
    }

    fn num_columns(&self) -> usize {
        self.inner.num_columns()
    }

    fn get_column_page_reader(&self, i: usize) -> Result<Box<dyn PageReader>> {
        let column = self.metadata().column(i);
        if !matches!(column.compression(), Compression::ZSTD(_)) {
            return self.inner.get_column_page_reader(i);
        }
        let packed = column.clone().into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
        let rows = usize::try_from(self.metadata().num_rows())?;
        Ok(Box::new(Unpacked(SerializedPageReader::new(self.file.clone(), &packed, rows, None)?)))
    }

    fn get_column_bloom_filter(&self, _: usize) -> Option<&Sbbf> {
        None
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_row_group(projection, self)
    }
}

/// Pages of a column, unpacked.
struct Unpacked(SerializedPageReader<File>);

impl Iterator for Unpacked {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Unpacked {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        self.0.get_next_page()?.map(unpack).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.0.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.0.skip_next_page()
    }
}

fn unpack(mut page: Page) -> Result<Page> {
    match &mut page {
        Page::DataPage { buf, .. } | Page::DictionaryPage { buf, .. } => *buf = unpacked(buf, 0)?,
        Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, is_compressed: true, .. } => {
            *buf = unpacked(buf, *def_levels_byte_len as usize + *rep_levels_byte_len as usize)?;
        }
        Page::DataPageV2 { .. } => (),
    }
    Ok(page)
}

/// `packed` with all but its first `plain` bytes unpacked.
fn unpacked(packed: &Bytes, plain: usize) -> Result<Bytes> {
    let failed = |reason: String| ParquetError::General(format!("zstd: {reason}"));
    let Some((plain, packed)) = packed.split_at_checked(plain) else {
        return Err(failed("the page is shorter than its levels".into()));
    };
    let mut out = plain.to_vec();
    if !packed.is_empty() {
        let stream = StreamingDecoder::new(packed).map_err(|e| failed(e.to_string()))?;
        stream.take(LARGEST_PAGE).read_to_end(&mut out).map_err(|e| failed(e.to_string()))?;
    }
    Ok(out.into())
}
