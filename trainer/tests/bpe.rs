//! A learned tokenizer is the same every time, encodes any text, and survives GGUF.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

use bonsai_runtime::Tokenizer;
use bonsai_trainer::bpe::{BpeOptions, learn};

/// Pseudo-random words: enough ties between pairs to show any dependence on the order of a hash map.
fn corpus() -> Vec<String> {
    let mut state = 7_u64;
    let mut next = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let syllables = [
        "ba", "ko", "nsa", "tree", "ü", "木", "ing", "'s", " the ", "er", "ab", "bc", "abc", "🌳", " ", " ",
        " ",
    ];
    let mut text = || {
        let length = 40 + next(400);
        (0..length).map(|_| syllables[next(17) as usize]).collect::<String>() + ".\n"
    };
    (0..200).map(|_| text()).collect()
}

fn options(vocab_size: usize) -> BpeOptions {
    BpeOptions { vocab_size, ..BpeOptions::default() }
}

fn learned() -> Tokenizer {
    learn(corpus().iter(), &options(1000)).unwrap()
}

#[test]
fn size_counts_specials_and_any_text_comes_back() {
    let tokenizer = learned();
    assert_eq!(tokenizer.vocab_size(), 1000);
    assert_eq!(tokenizer.eos(), Some(997));
    assert_eq!(tokenizer.token_id("<|im_end|>"), Some(999));
    assert_eq!(tokenizer.encode("<|im_start|><|endoftext|>").unwrap(), [998, 997]);
    let text = "the tree 木🌳 1234 \u{0}\u{10ffff} é\r\n\t<|endoftext|>никогда";
    assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), text);
    let (words, bytes) = (tokenizer.encode(&corpus()[0]).unwrap().len(), corpus()[0].len());
    assert!(words * 2 < bytes, "{words} tokens for {bytes} bytes is no compression");
}

#[test]
fn gguf_and_json_keep_the_ids() {
    let tokenizer = learned();
    let vocabulary = tokenizer.vocabulary().unwrap();
    let rebuilt = Tokenizer::from_vocabulary(vocabulary.clone()).unwrap();
    let read = Tokenizer::from_json(tokenizer.to_json().unwrap().as_bytes()).unwrap();
    assert_eq!(rebuilt.vocabulary().unwrap(), vocabulary);
    for text in corpus() {
        let ids = tokenizer.encode(&text).unwrap();
        assert_eq!(rebuilt.encode(&text).unwrap(), ids);
        assert_eq!(read.encode(&text).unwrap(), ids);
    }
}

#[test]
fn learning_twice_gives_the_same_file() {
    assert_eq!(learned().to_json().unwrap(), learned().to_json().unwrap());
}

/// Not a test by itself: prints what the test below compares between processes.
#[test]
fn print_the_json_for_another_process() {
    if std::env::var_os("BONSAI_TEST_PRINT").is_some() {
        println!("json:{}", learned().to_json().unwrap().replace('\n', " "));
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let run = |threads: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "print_the_json_for_another_process", "--nocapture"])
            .env("BONSAI_TEST_PRINT", "1")
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let start = text.find("json:").unwrap();
        text[start..].lines().next().unwrap().to_owned()
    };
    let one = run("1");
    assert!(one.len() > 10_000);
    assert_eq!(one, run("2"));
    assert_eq!(one, run("7"));
}

#[test]
fn impossible_wishes_are_refused() {
    let refusal = |texts: &[&str], options: BpeOptions| learn(texts.iter(), &options).unwrap_err();
    let cases = [
        (3, "more text", refusal(&[], options(300))),
        (3, "more text", refusal(&["", "<|endoftext|>"], options(300))),
        (3, "more text", refusal(&["ab"], options(300))), // one pair, and it occurs once
        (2, "choose 259", refusal(&["abab abab"], options(258))),
        (
            2,
            "add it to the special tokens",
            refusal(&["abab"], BpeOptions { specials: vec![], ..options(300) }),
        ),
    ];
    for (code, expected, error) in cases {
        assert!(error.exit_code() == code && error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_small_corpus_gives_fewer_tokens() {
    let tokenizer = learn(["abab abab"].iter(), &options(1000)).unwrap();
    assert!(tokenizer.vocab_size() < 270);
    assert_eq!(tokenizer.eos(), Some(tokenizer.vocab_size() as u32 - 3));
}
