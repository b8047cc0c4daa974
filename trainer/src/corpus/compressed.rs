//! Text files as streams of bytes: plain, gzip (`.gz`) or zstd (`.zst`), by the end of the name.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use bonsai_runtime::Error as RuntimeError;
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;

use crate::error::Result;

/// Bytes that are read from a file at a time.
const BUFFER: usize = 1 << 18;

/// The extension, in small letters, or the one before it where it names a compression.
pub(super) fn inner_extension(path: &Path) -> String {
    let extension = |path: &Path| path.extension().map(|end| end.to_string_lossy().to_lowercase());
    match extension(path).as_deref() {
        Some("gz" | "zst") => extension(&path.with_extension("")).unwrap_or_default(),
        other => other.unwrap_or_default().to_owned(),
    }
}

/// Opens a file for reading what it holds.
pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    let file = BufReader::with_capacity(BUFFER, File::open(path).map_err(RuntimeError::io(path))?);
    let buffered =
        |stream: Box<dyn Read>| -> Box<dyn BufRead> { Box::new(BufReader::with_capacity(BUFFER, stream)) };
    Ok(match path.extension().and_then(|end| end.to_str()) {
        Some("gz") => buffered(Box::new(MultiGzDecoder::new(file))),
        Some("zst") => buffered(Box::new(Frames { frame: None, rest: Some(file) })),
        _ => Box::new(file),
    })
}

/// A zstd stream: one frame behind the other, as parallel compressors and `cat` make them.
struct Frames<R: BufRead> {
    frame: Option<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>,
    /// Between frames, the compressed bytes that are left.
    rest: Option<R>,
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(mut rest) = self.rest.take() {
                if rest.fill_buf()?.is_empty() {
                    self.rest = Some(rest);
                    return Ok(0);
                }
                self.frame = Some(StreamingDecoder::new(rest).map_err(io::Error::other)?);
            }
            let Some(frame) = &mut self.frame else { return Ok(0) };
            match frame.read(out)? {
                0 if !out.is_empty() => self.rest = self.frame.take().map(StreamingDecoder::into_inner),
                read => return Ok(read),
            }
        }
    }
}
