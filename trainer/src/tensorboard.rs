//! TensorBoard event files: the numbers of `metrics.jsonl` once more, for people who watch runs there.
//!
//! A file is a row of records: length (u64), its checksum, the bytes, their checksum; little-endian, the checksum a masked
//! CRC-32C (tensorflow/core/lib/io/record_writer.h). A record is an `Event` in the protobuf encoding
//! (tensorflow/core/util/event.proto): wall_time = 1 (double), step = 2 (int64), file_version = 3 (string), summary = 5;
//! a summary is a row of values = 1 with tag = 1 (string) and simple_value = 2 (float).

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bonsai_runtime::Error as RuntimeError;
use serde_json::Value;

use crate::error::Result;

/// How names of event files begin.
pub const PREFIX: &str = "events.out.tfevents.";

/// Appends to an event file.
pub struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// A new file in `dir`: TensorBoard reads all of a directory in the order of their names.
    pub fn create(dir: &Path) -> Result<Self> {
        let path = dir.join(format!("{PREFIX}{:010}.{}.bonsai", now() as u64, std::process::id()));
        let file = File::create(&path).map_err(RuntimeError::io(&path))?;
        let mut events = Self { path, file };
        let mut event = stamp(0);
        bytes(&mut event, 3, b"brain.Event:2");
        events.write(&event)?;
        Ok(events)
    }

    /// The numbers of one line of metrics.
    pub fn log(&mut self, line: &Value) -> Result<()> {
        let mut summary = Vec::new();
        each_number("", line, &mut |tag, number| {
            let mut value = Vec::new();
            bytes(&mut value, 1, tag.as_bytes());
            value.push(2 << 3 | 5);
            value.extend((number as f32).to_le_bytes());
            bytes(&mut summary, 1, &value);
        });
        if summary.is_empty() {
            return Ok(());
        }
        let mut event = stamp(line["step"].as_u64().unwrap_or(0));
        bytes(&mut event, 5, &summary);
        self.write(&event)
    }

    fn write(&mut self, event: &[u8]) -> Result<()> {
        let length = (event.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked(crc32c(&length)).to_le_bytes());
        record.extend(event);
        record.extend(masked(crc32c(event)).to_le_bytes());
        Ok(self.file.write_all(&record).map_err(RuntimeError::io(&self.path))?)
    }
}

/// Calls `see(tag, number)` for each number but the step; `layers.q.scale` has the tag `layers/q/scale`.
fn each_number(prefix: &str, value: &Value, see: &mut impl FnMut(&str, f64)) {
    match value {
        Value::Number(number) if prefix != "step" => see(prefix, number.as_f64().unwrap_or(f64::NAN)),
        Value::Object(fields) => {
            for (key, value) in fields {
                let tag = if prefix.is_empty() { key.clone() } else { format!("{prefix}/{key}") };
                each_number(&tag, value, see);
            }
        }
        _ => {}
    }
}

/// An event's time and step.
fn stamp(step: u64) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend(now().to_le_bytes());
    event.push(2 << 3);
    varint(&mut event, step);
    event
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// A field of bytes: text or a message.
fn bytes(out: &mut Vec<u8>, field: u8, content: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, content.len() as u64);
    out.extend(content);
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// CRC-32C (Castagnoli), a bit at a time: a record is some hundred bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let byte = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    };
    !bytes.iter().fold(!0, byte)
}

fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283); // the check value of the CRC catalogue
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa); // RFC 3720, B.4
    }

    #[test]
    fn records_hold_what_was_logged() {
        let dir = tempfile::tempdir().unwrap();
        let mut events = Events::create(dir.path()).unwrap();
        let line =
            serde_json::json!({"step": 300, "loss": 2.5, "sample": "x", "layers": {"q": {"scale": 0.25}}});
        events.log(&line).unwrap();
        let bytes = std::fs::read(&events.path).unwrap();
        let mut rest = &bytes[..];
        let mut records = Vec::new();
        while let Some((head, tail)) = rest.split_first_chunk::<12>() {
            let (length, crc) = head.split_first_chunk::<8>().unwrap();
            assert_eq!(masked(crc32c(length)).to_le_bytes(), crc);
            let n = u64::from_le_bytes(*length) as usize;
            assert_eq!(masked(crc32c(&tail[..n])).to_le_bytes(), tail[n..n + 4]);
            records.push(&tail[..n]);
            rest = &tail[n + 4..];
        }
        assert_eq!(records.len(), 2);
        assert_eq!(&records[0][records[0].len() - 13..], b"brain.Event:2");
        // step 300 as a varint, then the summary with two values
        let expected = [
            &[2 << 3, 0xac, 2, 5 << 3 | 2, 36, 1 << 3 | 2, 21, 1 << 3 | 2, 14][..],
            b"layers/q/scale",
            &[2 << 3 | 5],
            &0.25f32.to_le_bytes(),
            &[1 << 3 | 2, 11, 1 << 3 | 2, 4],
            b"loss",
            &[2 << 3 | 5],
            &2.5f32.to_le_bytes(),
        ]
        .concat();
        assert_eq!(records[1][9..], expected);
    }
}
