//! `preview` as people and programs use it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::PathBuf;
use std::process::Command;

use bonsai_trainer::{bpe, stories};
use serde_json::Value;
use tempfile::TempDir;

struct Place(TempDir);

impl Place {
    /// A folder with a tokenizer and a file of one conversation and one text.
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let options = bpe::BpeOptions { vocab_size: 300, ..bpe::BpeOptions::default() };
        let tokenizer = bpe::learn(stories::corpus(1, 30_000).iter(), &options).unwrap();
        tokenizer.save(place.0.path()).unwrap();
        let lines = "{\"messages\": [{\"role\": \"user\", \"content\": \"é\"}, {\"role\": \"assistant\", \"content\": \"XY\"}]}\n\
                     {\"text\": \"Z\\nQ\"}\n{\"text\": \"not shown\"}\n";
        std::fs::write(place.at("chats.jsonl"), lines).unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What the program prints; `@name` is a file of this place.
    fn trainer(&self, words: &[&str]) -> String {
        let words = words.iter().map(|word| match word.strip_prefix('@') {
            Some(name) => self.at(name).to_str().unwrap().to_owned(),
            None => (*word).to_owned(),
        });
        let output =
            Command::new(env!("CARGO_BIN_EXE_bonsai-trainer")).arg("--quiet").args(words).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn documents_are_shown_with_their_mask() {
    let place = Place::new();
    let text = ["preview", "--data", "@chats.jsonl", "--tokenizer", "@tokenizer.json", "-n", "2"];
    let shown = place.trainer(&text);
    let (chat, rest) = shown.split_once("--- the document ends\n").unwrap();
    let chat: String = chat.chars().filter(|&c| c != '│').collect(); // how words are cut is the tokenizer's affair
    assert_eq!(
        chat,
        "=== document 0\n[<|im_start|>user⏎\n<C3><A9><|im_end|>⏎\n<|im_start|>assistant⏎\n]XY<|im_end|>[⏎\n<|endoftext|>]\n"
    );
    assert!(rest.starts_with("=== document 1\nZ│⏎\n│Q│<|endoftext|>\n--- the document ends\n=== "), "{rest}");
    assert!(shown.contains("<C3>│<A9>│<|im_end|>│⏎\n│<|im_start|>"), "{shown}");
    assert!(shown.contains("]X│Y│<|im_end|>["), "{shown}");
    let json: Value = serde_json::from_str(&place.trainer(&[&text[..], &["--json"]].concat())).unwrap();
    let learnt: Vec<&str> = json[0]["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|token| token["target"] == true)
        .map(|token| token["text"].as_str().unwrap())
        .collect();
    assert_eq!(learnt, ["X", "Y", "<|im_end|>"]);
    let (z, line) = (&json[1]["tokens"][0]["id"], &json[1]["tokens"][1]["id"]);
    assert!(
        place
            .trainer(&[&text[..], &["--ids", "--skip", "1"]].concat())
            .contains(&format!("Z({z})│⏎({line})\n│Q("))
    );
}

#[test]
fn windows_are_those_that_training_reads() {
    let place = Place::new();
    let lines: String = (0..80).map(|n| format!("{{\"text\": \"text {n} {}\"}}\n", n * n)).collect();
    std::fs::write(place.at("lines.jsonl"), lines).unwrap();
    place.trainer(&[
        "prepare",
        "--data",
        "@lines.jsonl",
        "--tokenizer",
        "@tokenizer.json",
        "--out",
        "@shards",
    ]);
    let shown = place.trainer(&[
        "preview",
        "--data",
        "@shards",
        "--seq-len",
        "8",
        "--seed",
        "3",
        "-n",
        "2",
        "--skip",
        "4",
        "--json",
    ]);
    let json: Value = serde_json::from_str(&shown).unwrap();
    let data = bonsai_trainer::data::Dataset::open(&place.at("shards")).unwrap();
    for (window, row) in json.as_array().unwrap().iter().zip(4..) {
        let start = bonsai_trainer::data::Order::Shuffled { seed: 3 }.start(data.train.len(), row, 8);
        let mut ids = [0; 9];
        data.train.read(start..start + 9, &mut ids);
        let tokens = window["tokens"].as_array().unwrap();
        let shown: Vec<u32> = tokens.iter().map(|token| token["id"].as_u64().unwrap() as u32).collect();
        assert_eq!(shown, ids);
        assert!(
            tokens.iter().enumerate().all(|(at, token)| token["target"] == (at > 0)),
            "the first has nothing before it"
        );
        assert!(tokens.iter().all(|token| token["ends_document"] == (token["id"] == data.meta.eos)));
    }
}
