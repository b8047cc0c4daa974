//! What a teacher said of windows of text, in a file: asked once, known in every later epoch, after a resume, and to other runs
//! with the same teacher and text.
//!
//! ```text
//! header: "BONSTEA1", then u32 vocab, seq, k, f32 temperature, u64 fingerprint of the teacher
//! record: u64 FNV-1a of the window's tokens, u64 FNV-1a of what follows, u32 ids [seq, k], f16 log-probabilities [seq, k]
//! ```
//!
//! Little-endian. Records only ever come behind each other; what a crash left of the last one is cut off.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bonsai_runtime::{Error as RuntimeError, ModelFile};
use half::f16;
use rayon::prelude::*;

use crate::backend::Likeliest;
use crate::config::RunConfig;
use crate::corpus::{FNV_START, fnv1a, fnv1a_from};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::formats::Compute;

const MAGIC: &[u8] = b"BONSTEA1";
const HEADER: usize = 32;
/// Key and checksum of a record.
const HEAD: usize = 16;

/// An open cache.
pub struct TeacherCache {
    path: PathBuf,
    /// Locked while the cache is open.
    file: File,
    seq: usize,
    k: usize,
    /// Where the record of a window is, by its key.
    known: HashMap<u64, u64>,
    end: u64,
    /// What was last filled in, and its bytes.
    word: Likeliest,
    record: Vec<u8>,
}

impl TeacherCache {
    /// The cache that a run asks for, new or as earlier runs left it.
    pub fn open(run: &RunConfig, teacher: &ModelFile) -> Result<Option<Self>> {
        if run.teacher_cache.as_os_str().is_empty() {
            return Ok(None);
        }
        let (path, vocab) = (run.teacher_cache.clone(), teacher.config.vocab);
        let (seq, k) = (run.seq_len, run.teacher_top_k.min(vocab));
        let header = header(vocab, seq, k, run.temperature, fingerprint(teacher, run.compute));
        let io = RuntimeError::io(&path);
        let options = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = options.map_err(io)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(refused(&path, "another run uses it: wait for that, or name another file"));
        }
        let (known, end) = (HashMap::new(), HEADER as u64);
        let mut cache =
            Self { path, file, seq, k, known, end, word: Likeliest::default(), record: Vec::new() };
        cache.word.k = k;
        cache.read_all(&header)?;
        Ok(Some(cache))
    }

    /// Tokens kept of each distribution.
    pub fn top_k(&self) -> usize {
        self.k
    }

    /// Windows that are known.
    pub fn windows(&self) -> usize {
        self.known.len()
    }

    /// What [`TeacherCache::fill`] found last.
    pub fn word(&self) -> &Likeliest {
        &self.word
    }

    /// Makes what the teacher says of a batch the [`TeacherCache::word`]; `ask` asks the teacher, unless every window is known.
    pub fn fill(&mut self, batch: &Batch, ask: impl FnOnce() -> Likeliest) -> Result<()> {
        assert_eq!(batch.seq, self.seq, "windows of the run's length");
        let keys: Vec<u64> = batch.tokens.chunks_exact(self.seq).map(key_of).collect();
        let asked = keys.iter().any(|key| !self.known.contains_key(key)).then(ask);
        self.word.ids.clear();
        self.word.log_p.clear();
        for (row, key) in keys.into_iter().enumerate() {
            match (self.known.get(&key).copied(), &asked) {
                (Some(place), _) => self.read(place)?,
                (None, Some(asked)) => {
                    let (ids, log_p) = asked.rows(row * self.seq, self.seq);
                    self.word.ids.extend_from_slice(ids);
                    self.word.log_p.extend_from_slice(log_p);
                    self.append(key, ids, log_p)?;
                }
                (None, None) => unreachable!("it was asked, since a window was not known"),
            }
        }
        Ok(())
    }

    /// Bytes of a record.
    fn size(&self) -> usize {
        HEAD + 6 * self.seq * self.k
    }

    /// Notes which records there are, and cuts off what is not a whole one.
    fn read_all(&mut self, header: &[u8; HEADER]) -> Result<()> {
        let mut found = Vec::new();
        self.io(|file| file.take(HEADER as u64).read_to_end(&mut found).map(drop))?;
        if found.is_empty() {
            return self.io(|file| file.write_all(header));
        }
        if found != header {
            let other = found.starts_with(MAGIC);
            return Err(refused(
                &self.path,
                match other {
                    true => {
                        "it is of another teacher, seq_len, teacher_top_k or temperature: name another file"
                    }
                    false => "this is no teacher cache, and stays as it is: name another file",
                },
            ));
        }
        let mut record = vec![0; self.size()];
        while self.io(|file| whole(file.read_exact(&mut record)))? {
            let [key, sum] = [0, 8].map(|at| u64_at(&record, at));
            if sum != fnv1a(&record[HEAD..]) {
                break;
            }
            self.known.insert(key, self.end);
            self.end += record.len() as u64;
        }
        let end = self.end;
        self.io(|file| file.set_len(end))
    }

    /// Reads a record behind what is filled in already.
    fn read(&mut self, place: u64) -> Result<()> {
        let mut record = std::mem::take(&mut self.record);
        record.resize(self.size(), 0);
        self.io(|file| file.seek(SeekFrom::Start(place)).and_then(|_| file.read_exact(&mut record)))?;
        let (ids, log_p) = record[HEAD..].split_at(4 * self.seq * self.k);
        self.word.ids.extend(ids.as_chunks().0.iter().map(|id| u32::from_le_bytes(*id)));
        self.word.log_p.extend(log_p.as_chunks().0.iter().map(|p| f16::from_le_bytes(*p)));
        self.record = record;
        Ok(())
    }

    fn append(&mut self, key: u64, ids: &[u32], log_p: &[f16]) -> Result<()> {
        let mut record = std::mem::take(&mut self.record);
        record.clear();
        record.resize(HEAD, 0);
        record.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
        record.extend(log_p.iter().flat_map(|p| p.to_le_bytes()));
        let sum = fnv1a(&record[HEAD..]);
        record[..8].copy_from_slice(&key.to_le_bytes());
        record[8..HEAD].copy_from_slice(&sum.to_le_bytes());
        let end = self.end;
        self.io(|file| file.seek(SeekFrom::Start(end)).and_then(|_| file.write_all(&record)))?;
        self.known.insert(key, end);
        self.end += record.len() as u64;
        self.record = record;
        Ok(())
    }

    fn io<T>(&mut self, f: impl FnOnce(&mut File) -> std::io::Result<T>) -> Result<T> {
        Ok(f(&mut self.file).map_err(RuntimeError::io(&self.path))?)
    }
}

/// Whether a record was there; a disk that fails is another matter than a file that ends.
fn whole(read: std::io::Result<()>) -> std::io::Result<bool> {
    match read {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    }
}

fn refused(path: &Path, message: &str) -> Error {
    Error::Data { path: path.to_path_buf(), message: message.into() }
}

fn header(vocab: usize, seq: usize, k: usize, temperature: f32, teacher: u64) -> [u8; HEADER] {
    let numbers = [vocab as u32, seq as u32, k as u32, temperature.to_bits()].map(u32::to_le_bytes);
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..24].copy_from_slice(numbers.as_flattened());
    header[24..].copy_from_slice(&teacher.to_le_bytes());
    header
}

/// A number that tells apart who speaks: of the shape, of what products multiply, and of every weight.
fn fingerprint(teacher: &ModelFile, compute: Compute) -> u64 {
    let start = fnv1a_from(FNV_START, format!("{:?} {compute:?}", teacher.config).as_bytes());
    let tensors = teacher.config.tensors();
    let hashes: Vec<u64> =
        (tensors.par_iter().map(|spec| fnv1a(&teacher.tensors[&spec.name].bytes))).collect();
    hashes.into_iter().fold(start, |hash, tensor| fnv1a_from(hash, &tensor.to_le_bytes()))
}

fn key_of(tokens: &[u32]) -> u64 {
    tokens.iter().fold(FNV_START, |hash, id| fnv1a_from(hash, &id.to_le_bytes()))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
