//! From files to batches: nothing leaks, nothing is lost, nothing depends on history.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bonsai_runtime::Tokenizer;
use bonsai_trainer::Result;
use bonsai_trainer::corpus::{Corpus, Input, Side, Source, Split, split};
use bonsai_trainer::data::{Batch, Dataset, Dtype, Order, Tokens, prepare, valid_windows, windows_per_epoch};
use bonsai_trainer::stories::corpus;
use tempfile::TempDir;

fn file(directory: &TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_file(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/tests/tokenizer/tokenizer.json"),
    )
    .unwrap()
}

fn shard(directory: &TempDir, ids: impl Iterator<Item = u16>) -> Tokens {
    let path = file(directory, "shard.bin", ids.flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
    Tokens::open(&path, Dtype::U16).unwrap()
}

fn read_documents(paths: &[PathBuf]) -> Result<Vec<String>> {
    let mut documents = Vec::new();
    Input::new(paths, "text")?.each(|document| {
        documents.push(document.text);
        Ok(())
    })?;
    Ok(documents)
}

/// What is on each side of files.
fn sides(files: &[PathBuf], valid: &[PathBuf], fraction: f64, seed: u64) -> Result<[Vec<String>; 2]> {
    let corpus = Corpus::scan((files, valid), "text", (fraction, seed), &|_| Ok(()))?;
    let mut sides = [Vec::new(), Vec::new()];
    corpus.each(&mut |side, document| {
        sides[usize::from(side == Side::Valid)].push(document.text);
        Ok(())
    })?;
    Ok(sides)
}

fn set(texts: &[String]) -> HashSet<&str> {
    texts.iter().map(String::as_str).collect()
}

#[test]
fn jsonl_gives_its_texts_and_names_bad_lines() {
    let directory = TempDir::new().unwrap();
    let good = file(
        &directory,
        "a.jsonl",
        "{\"text\": \"one\", \"id\": 1}\n\n{\"text\": \"t\\nwo\"}\n{\"text\": \" \"}",
    );
    assert_eq!(read_documents(&[good]).unwrap(), ["one", "t\nwo"]);
    for (name, content) in
        [("b.jsonl", "{\"text\": \"one\"}\n{\"content\": \"x\"}\n"), ("c.jsonl", "{\"text\": \"\"}\n{oops")]
    {
        let error = read_documents(&[file(&directory, name, content)]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("line 2"), "{error}");
    }
}

#[test]
fn marks_separate_documents() {
    let directory = TempDir::new().unwrap();
    let path = file(&directory, "a.txt", "one\n\nmore\n<|endoftext|>\ntwo\n<|endoftext|>\n");
    assert_eq!(read_documents(&[path]).unwrap(), ["one\n\nmore", "two"]);
}

/// A file without any end of line is never whole in memory: what stands where it is cut must stay whole.
#[test]
fn a_line_without_end_is_read_in_pieces_that_lose_nothing() {
    let directory = TempDir::new().unwrap();
    let border = 1 << 20;
    for shift in 0..16 {
        let (one, two) = ("ab ".repeat(border / 3 + 1)[..border - shift].to_owned(), "cü ".repeat(1000));
        let path = file(&directory, "a.txt", format!("{one}<|endoftext|>{two}"));
        assert_eq!(read_documents(&[path]).unwrap(), [one, two], "{shift} bytes before the border");
    }
    let text = "ü".repeat(border); // two bytes each, so that every other border would cut one
    let path = file(&directory, "b.txt", format!("x{text}<|endoftext|>y"));
    assert_eq!(read_documents(&[path]).unwrap(), [format!("x{text}"), "y".into()]);
}

#[test]
fn long_text_becomes_passages_that_lose_nothing() {
    let directory = TempDir::new().unwrap();
    let paragraphs: Vec<String> = corpus(1, 40_000);
    let mut text = paragraphs.join("\n\n");
    text.push_str("\n\n");
    text.push_str(&"endless ünbroken ".repeat(2000)); // no line ends at all
    text.push_str(&"ü".repeat(20_000)); // not even a space
    let documents = read_documents(&[file(&directory, "a.txt", &text)]).unwrap();
    let squeeze = |text: &str| text.split_whitespace().collect::<String>();
    assert_eq!(squeeze(&documents.concat()), squeeze(&text));
    assert!(documents.len() > 20 && documents.iter().all(|passage| passage.len() < 8300));
    assert!(
        documents[..10].iter().all(|passage| passage.starts_with(char::is_uppercase)),
        "cut at blank lines"
    );
}

#[test]
fn a_directory_is_its_text_files_in_order() {
    let directory = TempDir::new().unwrap();
    file(&directory, "b.txt", "second");
    file(&directory, "a.jsonl", "{\"text\": \"first\"}");
    file(&directory, "c.bin", [0xFF, 0xFE]);
    assert_eq!(read_documents(&[directory.path().to_path_buf()]).unwrap(), ["first", "second"]);
}

#[test]
fn bad_text_is_refused_with_its_place() {
    let directory = TempDir::new().unwrap();
    let error = read_documents(&[file(&directory, "a.txt", b"abc\xFFdef")]).unwrap_err().to_string();
    assert!(error.contains("a.txt") && error.contains("byte 3"), "{error}");
    let error = sides(&[file(&directory, "b.txt", " \n\n ")], &[], 0.1, 0).unwrap_err().to_string();
    assert!(error.contains("no text") && error.contains("b.txt"), "{error}");
    assert!(
        read_documents(&[directory.path().join("missing.txt")])
            .unwrap_err()
            .to_string()
            .contains("missing.txt")
    );
}

#[test]
fn split_is_disjoint_and_independent_of_order_and_repetition() {
    let mut documents = corpus(2, 200_000);
    let copies: Vec<String> = documents.iter().step_by(3).cloned().collect();
    documents.extend(copies);
    let one = split(documents.clone(), 0.1, 5).unwrap();
    assert!(set(&one.train).is_disjoint(&set(&one.valid)));
    assert_eq!(one.train.len() + one.valid.len(), documents.len());
    let share = one.valid.iter().map(String::len).sum::<usize>() as f64
        / documents.iter().map(String::len).sum::<usize>() as f64;
    assert!((0.1..0.13).contains(&share), "{share}");
    documents.reverse();
    let other = split(documents.clone(), 0.1, 5).unwrap();
    assert_eq!(set(&one.valid), set(&other.valid));
    assert_ne!(set(&one.valid), set(&split(documents, 0.1, 6).unwrap().valid));
}

#[test]
fn split_leaves_a_text_on_each_side_or_says_why_not() {
    for seed in 0..20 {
        let copies = ["a", "b", "a", "b", "c"].map(String::from).to_vec();
        let Split { train, valid, .. } = split(copies, 0.01, seed).unwrap();
        assert!(set(&train).len() == 2 && set(&valid).len() == 1, "{train:?} {valid:?}");
    }
    let two = vec!["a".to_string(), "b".to_string()];
    for fraction in [0.001, 0.5, 0.999] {
        let Split { train, valid, .. } = split(two.clone(), fraction, 1).unwrap();
        assert_eq!((train.len(), valid.len()), (1, 1));
    }
    let error = split(vec!["a".into(), "a".into(), " a\n".into()], 0.1, 1).unwrap_err().to_string();
    assert!(error.contains("single document"), "{error}");
    assert!(split(two, 0.0, 1).is_err());
}

#[test]
fn a_single_document_is_cut_near_the_fraction() {
    let cut = |text: &str, fraction| {
        let Split { train, valid, cut, .. } = split(vec![text.into()], fraction, 1).unwrap();
        assert!(cut && train.len() == 1 && valid.len() == 1);
        assert_eq!(format!("{}{}", train[0], valid[0]), text.trim(), "nothing is lost");
        (train[0].clone(), valid[0].clone())
    };
    let line = "Seven words that make up a line.\n";
    let lines = line.repeat(100);
    let paragraphs = format!("{}\n{}", line.repeat(88), line.repeat(12));
    assert_eq!(cut(&paragraphs, 0.1).1.lines().count(), 12, "where a paragraph ends");
    assert_eq!(cut(&lines, 0.1).1.lines().count(), 10, "where a line ends");
    let far = format!("Title\n\n{lines}");
    assert_eq!(cut(&far, 0.1).1.lines().count(), 10, "a paragraph that ends far off is no place to cut");
    let (train, valid) = cut(&"one line with no end ".repeat(50), 0.1);
    assert!(train.ends_with(' ') && (80..130).contains(&valid.len()), "after a word: {valid:?}");
    assert_eq!(cut("ä ö", 0.5), ("ä ".into(), "ö".into()));
    let copies = split(vec!["a\n\nb".into(), "a\n\nb".into()], 0.5, 1).unwrap();
    assert_eq!((copies.train, copies.valid), (vec!["a\n\n".to_string()], vec!["b".to_string()]));
    assert!(split(vec!["same same".into()], 0.5, 1).is_err(), "not the same text on both sides");
}

#[test]
fn files_are_divided_as_documents_in_memory_are() {
    let directory = TempDir::new().unwrap();
    let documents = corpus(2, 100_000);
    let mark = "\n<|endoftext|>\n";
    let (one, two) = documents.split_at(documents.len() / 3);
    let files = [file(&directory, "a.txt", one.join(mark)), file(&directory, "b.txt", two.join(mark))];
    let Split { train, valid, .. } = split(documents.clone(), 0.1, 5).unwrap();
    let aside: usize = valid.iter().map(String::len).sum();
    assert_eq!(
        Corpus::scan((&files, &[]), "text", (0.1, 5), &|_| Ok(())).unwrap().facts().valid_bytes,
        aside as u64
    );
    assert_eq!(sides(&files, &[], 0.1, 5).unwrap(), [train, valid]);
    let single = file(&directory, "c.txt", "a\n\nb");
    assert_eq!(sides(&[single], &[], 0.5, 1).unwrap().concat(), ["a\n\n", "b"], "one document is cut");
}

#[test]
fn a_validation_file_drops_its_texts_from_training() {
    let directory = TempDir::new().unwrap();
    let lines = |name: &str, texts: &[&str]| {
        let lines = texts.iter().map(|text| serde_json::json!({ "text": text }).to_string() + "\n");
        file(&directory, name, lines.collect::<String>())
    };
    let (files, valid) = ([lines("t.jsonl", &["a", "b", "b\n", "c"])], [lines("v.jsonl", &["b", "d"])]);
    assert_eq!(sides(&files, &valid, 0.1, 3).unwrap(), [vec!["a", "c"], vec!["b", "d"]]);
    let corpus = Corpus::scan((&files, &valid), "text", (0.1, 3), &|_| Ok(())).unwrap();
    assert_eq!(corpus.facts().dropped, 2);
    assert!(sides(&valid, &valid, 0.1, 3).is_err());
}

#[test]
fn shards_hold_what_was_encoded() {
    let directory = TempDir::new().unwrap();
    let tokenizer = tokenizer();
    let mut documents = corpus(3, 60_000);
    documents.push("a mark <|endoftext|> written in a text is text".into());
    let division = split(documents, 0.1, 1).unwrap();
    let calls = Mutex::new(Vec::new());
    let meta =
        prepare(&division, &tokenizer, directory.path(), &|state| calls.lock().unwrap().push(state)).unwrap();
    let data = Dataset::open(directory.path()).unwrap();
    assert_eq!(data.meta, meta);
    data.check_tokenizer(&tokenizer).unwrap();
    let mut ids = vec![0; data.train.len()];
    data.train.read(0..ids.len(), &mut ids);
    let texts: Vec<String> =
        ids.split(|&id| id == meta.eos).map(|document| tokenizer.decode(document).unwrap()).collect();
    assert_eq!(texts[..texts.len() - 1], division.train[..]);
    assert_eq!(texts.last().unwrap(), "", "the last document is closed, too");
    assert_eq!(meta.train.documents, division.train.len());
    assert_eq!(meta.valid.bytes, division.valid.iter().map(String::len).sum::<usize>());
    let total = division.facts().bytes;
    assert_eq!(total, (meta.train.bytes + meta.valid.bytes) as u64);
    let calls = calls.into_inner().unwrap();
    assert!(calls.iter().all(|state| state.total == total && state.kept == 0));
    assert_eq!(calls[0].done, 0);
    let mut done: Vec<u64> = calls.iter().map(|state| state.done).collect();
    done.sort_unstable();
    done.dedup();
    assert_eq!((done.len(), done.last()), (1 + division.train.len() + division.valid.len(), Some(&total)));
}

#[test]
fn prepared_directories_are_guarded() {
    let directory = TempDir::new().unwrap();
    let division = split(corpus(3, 9000), 0.1, 1).unwrap();
    let mut other = tokenizer();
    prepare(&division, &other, directory.path(), &|_| ()).unwrap();
    prepare(&division, &other, directory.path(), &|_| ()).unwrap(); // the same again is fine
    for other_text in [split(corpus(4, 9000), 0.1, 1), split(corpus(3, 9000), 0.4, 1)] {
        let refused =
            prepare(&other_text.unwrap(), &other, directory.path(), &|_| ()).unwrap_err().to_string();
        assert!(refused.contains("other text") && refused.contains("--out"), "{refused}");
    }
    Dataset::open(directory.path()).unwrap(); // it is still what it was
    let meta = fs::read_to_string(directory.path().join("meta.json")).unwrap();
    let key = meta.split("\"tokenizer\": \"").nth(1).unwrap()[..16].to_string();
    file(&directory, "meta.json", meta.replace(&key, "0123456789abcdef"));
    let error = prepare(&division, &other, directory.path(), &|_| ()).unwrap_err().to_string();
    assert!(error.contains("another tokenizer"), "{error}");
    assert!(Dataset::open(directory.path()).unwrap().check_tokenizer(&other).is_err());
    file(&directory, "valid.bin", [1, 0]);
    assert!(Dataset::open(directory.path()).unwrap_err().to_string().contains("valid.bin"));
    fs::remove_file(directory.path().join("meta.json")).unwrap();
    assert!(Dataset::open(directory.path()).unwrap_err().to_string().contains("meta.json"));
    other.pad_to(1 << 17);
    let wide = TempDir::new().unwrap();
    assert_eq!(prepare(&division, &other, wide.path(), &|_| ()).unwrap().dtype, Dtype::U32);
    assert!(Dataset::open(wide.path()).is_ok());
}

#[test]
fn a_foreign_id_is_found_with_its_position() {
    let directory = TempDir::new().unwrap();
    let tokens = shard(&directory, (0..200_000).map(|at| if at == 150_001 { 500 } else { 499 }));
    tokens.check(501).unwrap();
    let error = tokens.check(500).unwrap_err().to_string();
    assert!(error.contains("token 150001 is 500"), "{error}");
}

#[test]
fn every_epoch_visits_every_window_once_behind_its_own_phase() {
    let order = Order::Shuffled { seed: 11 };
    let mut phases = HashSet::new();
    for (len, seq) in [(1000usize, 8usize), (9, 8), (17, 8), (24, 8), (4099, 64), (65, 64)] {
        let windows = windows_per_epoch(len, seq);
        for epoch in 0..5 {
            let mut starts: Vec<usize> =
                (0..windows).map(|at| order.start(len, (epoch * windows + at) as u64, seq)).collect();
            if windows > 100 {
                assert!(!starts.is_sorted(), "shuffled");
            }
            starts.sort_unstable();
            assert!(starts.windows(2).all(|pair| pair[1] == pair[0] + seq), "{len} {seq}: {starts:?}");
            assert!(starts[0] < seq && starts[windows - 1] + seq < len, "{len} {seq}: {starts:?}");
            phases.insert((len, starts[0]));
        }
    }
    assert!(phases.len() > 10, "phases differ: {phases:?}");
}

#[test]
fn batches_depend_on_nothing_but_their_number() {
    let directory = TempDir::new().unwrap();
    let tokens = shard(&directory, (0..1000).map(|at| at as u16));
    let order = Order::Shuffled { seed: 3 };
    order.check(&tokens, u64::MAX, 16).unwrap();
    let (mut all, mut one) = (Batch::default(), Batch::default());
    order.batch(&tokens, 0, 200, 16, &mut all); // more than three epochs
    for row in (0..200).rev() {
        order.batch(&tokens, row, 1, 16, &mut one);
        let range = row as usize * 16..(row as usize + 1) * 16;
        assert_eq!((&one.tokens[..], &one.targets[..]), (&all.tokens[range.clone()], &all.targets[range]));
        assert!(one.tokens.iter().zip(&one.targets).all(|(token, target)| token + 1 == *target));
    }
    let mut other = Batch::default();
    Order::Shuffled { seed: 4 }.batch(&tokens, 0, 200, 16, &mut other);
    assert_ne!(all.tokens, other.tokens);
}

#[test]
fn offsets_replay_another_trainer() {
    let directory = TempDir::new().unwrap();
    let tokens = shard(&directory, (0..300).map(|at| at as u16 * 3));
    let offsets: Vec<u32> = vec![5, 100, 0, 290, 17, 42, 283, 8];
    let path =
        file(&directory, "offsets.u32", offsets.iter().flat_map(|at| at.to_le_bytes()).collect::<Vec<_>>());
    let order = Order::from_file(&path).unwrap();
    order.check(&tokens, 8, 9).unwrap();
    let mut batch = Batch::default();
    for step in 0..2 {
        order.batch(&tokens, step * 4, 4, 9, &mut batch);
        for row in 0..4 {
            let start = offsets[step as usize * 4 + row];
            let expected: Vec<u32> = (start..start + 10).map(|at| at * 3).collect();
            assert_eq!(batch.tokens[row * 9..(row + 1) * 9], expected[..9]);
            assert_eq!(batch.targets[row * 9..(row + 1) * 9], expected[1..]);
        }
    }
    assert!(order.check(&tokens, 9, 9).unwrap_err().to_string().contains("needs 9"));
    assert!(order.check(&tokens, 8, 10).unwrap_err().to_string().contains("offset 3"));
}

#[test]
fn too_little_data_is_refused() {
    let directory = TempDir::new().unwrap();
    let tokens = shard(&directory, 0..16);
    let order = Order::Shuffled { seed: 3 };
    assert!(order.check(&tokens, 1, 15).is_ok());
    assert!(order.check(&tokens, 1, 16).unwrap_err().to_string().contains("too few"));
    assert!(Tokens::open(&file(&directory, "odd.bin", [1, 2, 3]), Dtype::U16).is_err());
    assert!(Tokens::open(&file(&directory, "empty.bin", []), Dtype::U16).is_err());
}

#[test]
fn validation_windows_are_spread_and_share_no_target() {
    let directory = TempDir::new().unwrap();
    let tokens = shard(&directory, (0..1000).map(|at| at as u16));
    assert_eq!(valid_windows(&tokens, 100, 1000), (0..9).map(|at| at * 100).collect::<Vec<_>>());
    assert_eq!(valid_windows(&tokens, 100, 3), [0, 300, 600]);
    assert_eq!(valid_windows(&tokens, 999, 3), [0]);
    assert_eq!(valid_windows(&tokens, 1000, 3), [0], "one short window");
}

#[test]
fn repeated_windows_begin_at_the_same_places_in_every_epoch() {
    let (len, seq) = (10_007, 16);
    let windows = windows_per_epoch(len, seq) as u64;
    let epoch = |seed, n: u64| -> Vec<usize> {
        (n * windows..(n + 1) * windows).map(|row| Order::Repeated { seed }.start(len, row, seq)).collect()
    };
    let sorted = |mut starts: Vec<usize>| {
        starts.sort_unstable();
        starts
    };
    let all: Vec<usize> = (0..windows as usize).map(|window| window * seq).collect();
    for (seed, n) in [(3, 0), (3, 1), (4, 0)] {
        assert_eq!(sorted(epoch(seed, n)), all);
    }
    assert!(epoch(3, 0) != epoch(3, 1) && epoch(3, 0) != epoch(4, 0), "another order each time");
}
