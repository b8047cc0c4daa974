//! Files of other programs as training text: parquet, compressed lines, conversations. Damaged ones are refused in
//! one line.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use bonsai_trainer::corpus::{Corpus, Document, Input, Source};
use bonsai_trainer::{Error, Result};
use tempfile::TempDir;

/// A file by pyarrow: see make.py beside it.
fn parquet(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parquet").join(name)
}

fn documents(path: &Path, column: &str) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    Input::new(&[path.to_path_buf()], column)?.each(|document| {
        documents.push(document);
        Ok(())
    })?;
    Ok(documents)
}

/// The one line that is said about a file that must be refused.
fn refused(path: &Path, column: &str) -> String {
    let error = documents(path, column).unwrap_err();
    let line = error.to_string();
    assert_eq!(error.exit_code(), 3, "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.starts_with(&format!("{}: ", path.display())), "{line}");
    line
}

const READABLE: [&str; 7] = ["none-v1", "snappy-v1", "snappy-v2", "gzip-v1", "lz4-v1", "zstd-v1", "zstd-v2"];

#[test]
fn parquet_of_every_compression_gives_its_rows() {
    for name in READABLE {
        let found = documents(&parquet(&format!("{name}.parquet")), "text").unwrap();
        assert_eq!(found.len(), 41, "{name}: no null, no blank");
        for (n, document) in found.iter().take(40).enumerate() {
            assert_eq!(
                document.text,
                format!("Document {n}: the cat sat on mat number {}, äöü.", n % 7),
                "{name}"
            );
        }
        assert_eq!(found[40], Document { text: "The end.".into(), conversation: None }, "{name}");
    }
}

#[test]
fn parquet_that_cannot_be_used_is_refused_by_name() {
    let line = refused(&parquet("brotli-v1.parquet"), "text");
    assert!(line.contains("brotli") && line.contains("zstd"), "{line}");
    let line = refused(&parquet("none-v1.parquet"), "content");
    assert!(line.contains("\"content\"") && line.contains("id, text, score"), "{line}");
    let line = refused(&parquet("numbers.parquet"), "text");
    assert!(line.contains("row group 0 of 1") && line.contains("--text-column"), "{line}");
    let directory = TempDir::new().unwrap();
    let fake = directory.path().join("fake.parquet");
    fs::write(&fake, "{\"text\": \"no parquet at all, but long enough\"}").unwrap();
    assert!(refused(&fake, "text").contains("no parquet"));
}

#[test]
fn a_damaged_row_group_is_named() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("damaged.parquet");
    let mut bytes = fs::read(parquet("zstd-v1.parquet")).unwrap();
    let begins = |at: &usize| bytes[*at..].starts_with(&[0x28, 0xB5, 0x2F, 0xFD]);
    let frames: Vec<usize> = (0..bytes.len()).filter(begins).collect();
    frames.iter().skip(frames.len() / 2).for_each(|&at| bytes[at] = 0); // those of the later row groups
    fs::write(&path, bytes).unwrap();
    let line = refused(&path, "text");
    assert!(line.contains("row group 1 of 3") || line.contains("row group 2 of 3"), "{line}");
    assert!(line.contains("fetch it again"), "{line}");
}

#[test]
fn no_damage_makes_the_reader_panic() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("damaged.parquet");
    let read = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        if let Err(error) = documents(&path, "text") {
            assert!(matches!(error, Error::Data { .. }) && error.to_string().lines().count() == 1, "{error}");
        }
    };
    for name in ["snappy-v1", "zstd-v2", "messages"] {
        let whole = fs::read(parquet(&format!("{name}.parquet"))).unwrap();
        for at in (0..whole.len()).step_by(3) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xFF;
            read(&bytes);
        }
        for length in (0..whole.len()).step_by(61) {
            fs::write(&path, &whole[..length]).unwrap();
            refused(&path, "text");
        }
    }
}

#[test]
fn lines_are_read_compressed() {
    let directory = TempDir::new().unwrap();
    let lines: String = (0..2000).map(|n| format!("{{\"text\": \"line {n}\"}}\n")).collect();
    let (head, tail) = lines.split_at(lines.len() / 2);
    let gzip = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |text: &str| {
        ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest)
    };
    for (name, bytes) in [
        ("a.jsonl.gz", [gzip(head), gzip(tail)].concat()),
        ("b.jsonl.zst", [zstd(head), zstd(tail)].concat()),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, &bytes).unwrap();
        let texts: Vec<String> =
            documents(&path, "text").unwrap().into_iter().map(|found| found.text).collect();
        assert_eq!(texts, (0..2000).map(|n| format!("line {n}")).collect::<Vec<_>>(), "{name}");
        fs::write(&path, &bytes[..bytes.len() * 2 / 3]).unwrap();
        refused(&path, "text");
    }
}

/// As text, their quotes and commas would be learnt, too.
#[test]
fn json_and_tables_are_no_plain_text() {
    let directory = TempDir::new().unwrap();
    for (name, advice) in [("a.json", ".jsonl"), ("b.CSV", ".parquet"), ("c.tsv.gz", ".parquet")] {
        let path = directory.path().join(name);
        fs::write(&path, "[{\"text\": \"one\"}]").unwrap();
        let line = refused(&path, "text");
        assert!(line.contains(advice) && line.contains(".txt"), "{line}");
    }
    fs::write(directory.path().join("d.txt"), "text").unwrap();
    assert_eq!(documents(directory.path(), "text").unwrap().len(), 1, "in a directory they are passed over");
}

#[test]
fn text_may_have_another_name() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a.jsonl");
    fs::write(
        &path,
        "{\"content\": \"one\", \"text\": 7}\n{\"content\": null}\n{\"c\\u006fntent\": \"two\"}\n",
    )
    .unwrap();
    let found = documents(&path, "content").unwrap();
    assert_eq!(found.iter().map(|document| document.text.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    assert!(refused(&path, "text").contains("neither a text nor a list"));
    fs::write(&path, "\u{feff}{\"text\": \"behind a byte order mark\"}\n").unwrap();
    assert_eq!(documents(&path, "text").unwrap()[0].text, "behind a byte order mark");
    fs::write(&path, "{\"text\": \"one\"}\n{\"text\": \n").unwrap();
    assert!(
        refused(&path, "text").contains("line 2: EOF while parsing a value; "),
        "a place within the line"
    );
    fs::write(&path, "{\"prompt\": \"one\", \"completion\": \"two\"}\n").unwrap();
    let line = refused(&path, "text");
    assert!(line.contains("line 1: ") && line.contains("only completion, prompt"), "{line}");
    assert!(line.contains("--text-column"), "{line}");
}

#[test]
fn conversations_come_from_lines_and_columns() {
    let expected = [
        "[{\"content\":\"Be brief.\",\"role\":\"system\"},{\"content\":\"Hi?\",\"role\":\"user\"},\
         {\"content\":\"Hello.\",\"role\":\"assistant\"}]",
        "[{\"content\":\"One?\",\"role\":\"user\"},{\"content\":\"Two.\",\"role\":\"assistant\"},\
         {\"content\":\"Three?\",\"role\":\"user\"},{\"role\":\"assistant\"},\
         {\"content\":\"Four?\",\"role\":\"user\"},{\"content\":\"Five.\",\"role\":\"assistant\"}]",
    ];
    let same = |found: Vec<Document>, expected: &[&str]| {
        let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (document, expected) in found.iter().zip(expected) {
            assert_eq!(parsed(&document.text), parsed(expected));
            assert!(document.conversation.is_some());
        }
    };
    same(documents(&parquet("messages.parquet"), "text").unwrap(), &expected); // without an answer: left out
    let greeting =
        "[{\"content\":\"Hi?\",\"role\":\"user\"},{\"content\":\"Hello.\",\"role\":\"assistant\"}]";
    same(documents(&parquet("conversations.parquet"), "text").unwrap(), &[greeting]);
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a.jsonl");
    let sharegpt = "[{\"from\": \"human\", \"value\": \"Hi?\"}, {\"from\": \"gpt\", \"value\": \"Hello.\"}]";
    let lines = format!("{{\"messages\": {}}}\n{{\"conversations\": {sharegpt}}}\n", expected[0]);
    fs::write(&path, lines).unwrap();
    let found = documents(&path, "text").unwrap();
    assert!(found[1].conversation.as_ref().unwrap().ends_with("a.jsonl: line 2"));
    same(found, &[expected[0], greeting]);
    fs::write(&path, "{\"messages\": [{\"content\": \"nobody says this\"}]}").unwrap();
    assert!(refused(&path, "text").contains("message 0 has no \"role\""));
}

#[test]
fn a_hundred_files_are_one_text() {
    let directory = TempDir::new().unwrap();
    for n in 0..100 {
        let lines: String = (0..20).map(|at| format!("{{\"text\": \"file {n} line {at}\"}}\n")).collect();
        fs::write(directory.path().join(format!("{n:03}.jsonl")), lines).unwrap();
    }
    let scan = || {
        let files = [directory.path().to_path_buf()];
        Corpus::scan((&files, &[]), "text", (0.1, 1), &|_| Ok(())).unwrap()
    };
    let corpus = scan();
    let mut texts = Vec::new();
    corpus
        .each(&mut |_, document| {
            texts.push(document.text);
            Ok(())
        })
        .unwrap();
    let expected: Vec<String> =
        (0..100).flat_map(|n| (0..20).map(move |at| format!("file {n} line {at}"))).collect();
    assert_eq!(texts, expected, "in the order of the names");
    assert_eq!(corpus.facts().bytes, expected.iter().map(|text| text.len() as u64).sum::<u64>());
    fs::write(directory.path().join("042.jsonl"), "{\"text\": \"another\"}\n").unwrap();
    assert_ne!(scan().facts().fingerprint, corpus.facts().fingerprint);
    for bad in ["050.jsonl", "030.jsonl"] {
        fs::write(directory.path().join(bad), "{oops").unwrap();
    }
    let files = [directory.path().to_path_buf()];
    let error = Corpus::scan((&files, &[]), "text", (0.1, 1), &|_| Ok(())).err().unwrap().to_string();
    assert!(error.contains("030.jsonl: line 1"), "the first one is named: {error}");
}
