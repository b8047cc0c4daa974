//! Tokenizes a source into shards: one thread reads, all encode, one writes in order. What is written is noted several
//! times a second, so that a preparation that was killed goes on where it was.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bonsai_runtime::{Error as RuntimeError, Tokenizer};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::encoder::{Encoder, Piece};
use super::shard::{Kept, Shard};
use super::{LOCK, META, Meta, PROGRESS, fingerprint, read_meta};
use crate::corpus::{Document, Side, Source, fnv1a};
use crate::error::{Error, Result};
use crate::files;

/// Bytes of text that all threads encode before any is written: bounds the memory.
const ROUND: usize = 1 << 20;

/// Time between two notes of what is on disk: the most that a crash loses.
const NOTE_EVERY: Duration = Duration::from_millis(300);

/// How far a preparation is, in bytes of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Tokenized.
    pub done: u64,
    /// Of these, tokenized by a preparation that did not end.
    pub kept: u64,
    /// All of them.
    pub total: u64,
}

/// What `progress.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    /// Everything that decides about the shards: hashes of text, tokenizer and chat template, the share set aside.
    key: String,
    /// Bytes of documents that were tokenized.
    done: u64,
    train: Kept,
    valid: Kept,
}

/// Documents in their order, to be encoded together.
type Round = Vec<(Side, Document)>;

/// Encodes both sides of `source` into shards under `directory`, the same bytes for any number of threads and however
/// often it was interrupted. `progress` is told first where it begins, then after each document, from several threads.
pub fn prepare(
    source: &dyn Source,
    tokenizer: &Tokenizer,
    directory: &Path,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Meta> {
    let facts = source.facts();
    let encoder = Encoder::new(tokenizer, facts.conversations)?;
    let fingerprint = fingerprint(tokenizer)?;
    let template = encoder.template().unwrap_or_default();
    let key = format!("{:016x} {fingerprint} {:016x}", facts.fingerprint, fnv1a(template.as_bytes()));
    let same = |meta: &Meta| {
        (&meta.text, &meta.tokenizer) == (&key, &fingerprint) && meta.valid_fraction == facts.valid_fraction
    };
    if let Some(meta) = read_meta(directory)?.filter(same) {
        return Ok(meta); // `Dataset::open` looks into the shards
    }
    let _alone = claim(directory, &fingerprint)?;
    // A share of the text: what an interrupted preparation wrote fits no other one.
    let division = facts.valid_fraction.map_or_else(String::new, |share| format!(" {share}"));
    let mut writer = Writer::open(directory, &encoder, &(key.clone() + &division))?;
    let kept = writer.note.done;
    let done = AtomicU64::new(kept);
    let tell = |bytes: usize| {
        let done = done.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        progress(Progress { done, kept, total: facts.bytes });
    };
    tell(0);
    writer.run(source, &tell)?;
    let (dtype, eos, vocab) = (encoder.dtype, encoder.eos, tokenizer.vocab_size());
    let (train, valid) = writer.finish()?;
    let (valid_fraction, seed, dropped, text) = (facts.valid_fraction, facts.seed, facts.dropped, key);
    let meta =
        Meta { dtype, vocab, eos, tokenizer: fingerprint, train, valid, valid_fraction, seed, dropped, text };
    tokenizer.save(directory)?;
    files::write(directory, META, &serde_json::to_string_pretty(&meta).expect("numbers and texts"))?;
    let note = directory.join(PROGRESS);
    fs::remove_file(&note).map_err(RuntimeError::io(&note))?;
    Ok(meta)
}

/// Makes `directory`, or takes over one whose preparation did not end; it counts as incomplete from here on. Nobody else
/// prepares there while the file that is returned is open.
fn claim(directory: &Path, fingerprint: &str) -> Result<File> {
    let refuse = |message: &str| Error::Data { path: directory.to_path_buf(), message: message.into() };
    if let Some(meta) = read_meta(directory)? {
        let what = match meta.tokenizer == fingerprint {
            true => "other text, or of this text divided otherwise",
            false => "another tokenizer",
        };
        let message = format!("holds data of {what}: choose another --out, or delete the directory first");
        return Err(refuse(&message));
    }
    fs::create_dir_all(directory).map_err(RuntimeError::io(directory))?;
    let path = directory.join(LOCK);
    let lock = File::options().create(true).append(true).open(&path).map_err(RuntimeError::io(&path))?;
    if let Err(fs::TryLockError::WouldBlock) = lock.try_lock() {
        return Err(refuse("another program is preparing data here: wait for it, or choose another --out"));
    }
    let mark = directory.join(META);
    if mark.exists() {
        fs::remove_file(&mark).map_err(RuntimeError::io(&mark))?;
    }
    Ok(lock)
}

/// Both shards and the note about them.
struct Writer<'a> {
    directory: &'a Path,
    encoder: &'a Encoder<'a>,
    train: Shard,
    valid: Shard,
    note: Note,
    noted: Instant,
}

impl<'a> Writer<'a> {
    /// Goes on with the shards of an interrupted preparation of the same text, or begins.
    fn open(directory: &'a Path, encoder: &'a Encoder<'a>, key: &str) -> Result<Self> {
        let known = fs::read(directory.join(PROGRESS)).ok();
        let known = known.and_then(|json| serde_json::from_slice::<Note>(&json).ok());
        let new = Note { key: key.into(), done: 0, train: Kept::default(), valid: Kept::default() };
        let shards = |note: &Note| {
            let shard = |name, kept| Shard::open(&directory.join(name), encoder.dtype, kept);
            let (train, valid) = (shard("train.bin", note.train)?, shard("valid.bin", note.valid)?);
            Ok::<_, Error>(train.zip(valid))
        };
        let kept = known.filter(|note| note.key == key).map(|note| Ok::<_, Error>((shards(&note)?, note)));
        let (note, (train, valid)) = match kept.transpose()? {
            Some((Some(shards), note)) => (note, shards),
            // Nothing is there, or not what was written: all of it is made again.
            _ => (new.clone(), shards(&new)?.expect("nothing is kept of these")),
        };
        let mut writer = Self { directory, encoder, train, valid, note, noted: Instant::now() };
        writer.write_note()?;
        Ok(writer)
    }

    /// Reads, encodes and writes everything that is not on disk yet.
    fn run(&mut self, source: &dyn Source, tell: &(impl Fn(usize) + Sync)) -> Result<()> {
        let skip = self.note.train.count.documents + self.note.valid.count.documents;
        std::thread::scope(|scope| {
            let (send, receive) = sync_channel(1);
            let reader = scope.spawn(move || read(source, skip, send));
            self.write(receive, tell)?; // an error hangs up, which ends the reader
            let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            self.write_note()?; // also of what came before an error
            read
        })
    }

    fn write(&mut self, rounds: Receiver<Round>, tell: &(impl Fn(usize) + Sync)) -> Result<()> {
        for round in rounds {
            let encode = |(_, document): &(Side, Document)| {
                let encoded = self.encoder.encode(document);
                tell(document.text.len());
                encoded
            };
            let encoded: Result<Vec<(Vec<Piece>, usize)>> = round.par_iter().map(encode).collect();
            for ((side, document), (pieces, text)) in round.iter().zip(encoded?) {
                let shard = if *side == Side::Train { &mut self.train } else { &mut self.valid };
                shard.push(&pieces, text, self.encoder.dtype)?;
                self.note.done += document.text.len() as u64;
            }
            if self.noted.elapsed() >= NOTE_EVERY {
                self.write_note()?;
            }
        }
        Ok(())
    }

    /// Syncs both shards, then notes what they have.
    fn write_note(&mut self) -> Result<()> {
        (self.note.train, self.note.valid) = (self.train.sync()?, self.valid.sync()?);
        let json = serde_json::to_string(&self.note).expect("numbers and texts");
        files::write(self.directory, PROGRESS, &json)?;
        self.noted = Instant::now();
        Ok(())
    }

    /// Gives both shards their names.
    fn finish(self) -> Result<(super::Count, super::Count)> {
        let path = |name| self.directory.join(name);
        Ok((self.train.finish(&path("train.bin"))?, self.valid.finish(&path("valid.bin"))?))
    }
}

/// Sends all documents behind the first `skip` in rounds of about [`ROUND`] bytes.
fn read(source: &dyn Source, skip: usize, send: SyncSender<Round>) -> Result<()> {
    let (mut seen, mut bytes, mut round) = (0, 0, Round::new());
    // Whoever hung up has an error of its own to tell.
    let gone = |_| Error::from(RuntimeError::Cancelled);
    source.each(&mut |side, document| {
        seen += 1;
        if seen <= skip {
            return Ok(());
        }
        bytes += document.text.len();
        round.push((side, document));
        if bytes < ROUND {
            return Ok(());
        }
        bytes = 0;
        send.send(std::mem::take(&mut round)).map_err(gone)
    })?;
    send.send(round).map_err(gone)
}
