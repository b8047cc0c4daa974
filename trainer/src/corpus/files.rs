//! Files of text as a source: gone through once to divide them, and again to tokenize.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::input::Input;
use super::{Document, Facts, Side, Sink, Source, Split, check_fraction, cut, hash, last_of_valid};
use crate::error::{Error, Result};
use crate::random::mix;

/// Files that were divided into training and validation text.
pub struct Corpus {
    train: Input,
    /// The files of a validation text of its own.
    valid: Option<Input>,
    /// Where a document belongs, by its hash.
    rule: Rule,
    facts: Facts,
}

enum Rule {
    /// Up to this hash it is validated on.
    Largest(u64),
    /// These hashes are those of the validation text.
    Known(HashSet<u64>),
    /// There was one document only.
    Cut(Split),
}

/// The hash and the bytes of each document of a file, in order, and whether one is a conversation.
type Hashes = (Vec<(u64, usize)>, bool);

impl Corpus {
    /// Reads every file of `files` once, all at the same time, to see where documents belong: with `valid`, those that it
    /// has are dropped from `files`; else `valid_fraction` of the bytes is set aside. `progress` is told how many bytes
    /// of text were read, from several threads; when it returns an error, reading ends.
    pub fn scan(
        (files, valid): (&[PathBuf], &[PathBuf]),
        column: &str,
        (valid_fraction, seed): (f64, u64),
        progress: &(dyn Fn(u64) -> Result<()> + Sync),
    ) -> Result<Self> {
        let seed = if valid.is_empty() { seed } else { 0 }; // chooses nothing there
        if valid.is_empty() {
            check_fraction(valid_fraction)?;
        }
        let read = AtomicU64::new(0);
        let scan = |input: &Input| {
            hashes(input, seed, &|bytes| progress(read.fetch_add(bytes, Ordering::Relaxed) + bytes))
        };
        let train = Input::new(files, column)?;
        let (hashed, conversations) = scan(&train)?;
        let mut facts =
            Facts { conversations, valid_fraction: Some(valid_fraction), seed, ..Facts::default() };
        if valid.is_empty() {
            facts.note(&hashed);
            let rule = match last_of_valid(hashed.clone(), valid_fraction) {
                Some(last) => {
                    let side = hashed.iter().filter(|(hash, _)| *hash <= last);
                    facts.valid_bytes = side.map(|(_, length)| *length as u64).sum();
                    Rule::Largest(last)
                }
                None => Rule::Cut(cut(&documents(&train)?, valid_fraction, seed)?),
            };
            return Ok(Self { train, valid: None, rule, facts });
        }
        let valid = Input::new(valid, column)?;
        let (valid_hashes, conversations) = scan(&valid)?;
        facts.conversations |= conversations;
        let known: HashSet<u64> = valid_hashes.iter().map(|(hash, _)| *hash).collect();
        let kept: Vec<(u64, usize)> =
            hashed.iter().filter(|(hash, _)| !known.contains(hash)).copied().collect();
        if kept.is_empty() {
            return Err(Error::Text(
                "every training document is also in the validation text: choose another validation file"
                    .into(),
            ));
        }
        facts.note(&kept);
        facts.note(&valid_hashes);
        facts = Facts { valid_fraction: None, dropped: hashed.len() - kept.len(), ..facts };
        Ok(Self { train, valid: Some(valid), rule: Rule::Known(known), facts })
    }

    /// Bytes at the end of a single document that were set aside, where the text was one.
    pub fn cut(&self) -> Option<usize> {
        match &self.rule {
            Rule::Cut(split) => split.valid.first().map(String::len),
            _ => None,
        }
    }

    /// Where a training file's document belongs; `None` if it is dropped.
    fn side(&self, document: &Document) -> Option<Side> {
        match &self.rule {
            Rule::Largest(last) if hash(&document.text, self.facts.seed) <= *last => Some(Side::Valid),
            Rule::Known(known) if known.contains(&hash(&document.text, self.facts.seed)) => None,
            _ => Some(Side::Train),
        }
    }
}

impl Source for Corpus {
    fn facts(&self) -> Facts {
        match &self.rule {
            Rule::Cut(split) => split.facts(),
            _ => self.facts,
        }
    }

    fn each(&self, sink: Sink<'_>) -> Result<()> {
        if let Rule::Cut(split) = &self.rule {
            return split.each(sink);
        }
        self.train.each(|document| match self.side(&document) {
            Some(side) => sink(side, document),
            None => Ok(()),
        })?;
        self.valid.iter().try_for_each(|valid| valid.each(|document| sink(Side::Valid, document)))
    }
}

impl Facts {
    fn note(&mut self, hashed: &[(u64, usize)]) {
        self.bytes += hashed.iter().map(|(_, length)| *length as u64).sum::<u64>();
        self.fingerprint =
            hashed.iter().fold(self.fingerprint ^ hashed.len() as u64, |sum, (hash, _)| mix(sum) ^ hash);
    }
}

/// What all files hold, file by file in parallel.
fn hashes(input: &Input, seed: u64, progress: &(dyn Fn(u64) -> Result<()> + Sync)) -> Result<Hashes> {
    let files: Vec<Result<Hashes>> =
        input.files.par_iter().map(|file| hashes_of(input, file, seed, progress)).collect();
    let mut all: Hashes = (Vec::new(), false);
    for file in files {
        let (hashed, conversations) = file?; // the first file that is wrong is named, whoever found it first
        all.0.extend(hashed);
        all.1 |= conversations;
    }
    if all.0.is_empty() { Err(input.nothing()) } else { Ok(all) }
}

fn hashes_of(
    input: &Input,
    file: &Path,
    seed: u64,
    progress: &(dyn Fn(u64) -> Result<()> + Sync),
) -> Result<Hashes> {
    let mut hashed = Vec::new();
    let mut conversations = false;
    input.each_of(file, &mut |document| {
        conversations |= document.conversation.is_some();
        hashed.push((hash(&document.text, seed), document.text.len()));
        progress(document.text.len() as u64)
    })?;
    Ok((hashed, conversations))
}

/// All documents at once: for what is one document and its copies.
fn documents(input: &Input) -> Result<Vec<String>> {
    let mut all = Vec::new();
    input.each(|document| {
        if all.is_empty() && document.conversation.is_none() {
            all.push(document.text);
        }
        Ok(())
    })?;
    Ok(all)
}
