//! Ids and texts must be those of Hugging Face's tokenizers, on two sets of cases: a small one that lies here
//! (tokenizer/generate.py made it), and the large one of the real Qwen3 tokenizer where it is at hand.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use bonsai_runtime::tokenizer::{Tokenizer, Vocabulary, token_type};
use bonsai_runtime::{Error, ErrorCode};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    decoded: String,
    decoded_skip_special: String,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokenizer").join(name)
}

fn small() -> Tokenizer {
    Tokenizer::from_file(&fixture("tokenizer.json")).unwrap()
}

fn cases(path: &Path) -> Vec<Case> {
    serde_json::from_slice::<Cases>(&fs::read(path).unwrap()).unwrap().cases
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.stream();
    let pieces: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
    pieces + &stream.finish()
}

fn check_all(tokenizer: &Tokenizer, cases: &[Case]) {
    for case in cases {
        let text = &case.text;
        assert_eq!(tokenizer.encode(text).unwrap(), case.ids, "ids of {text:?}");
        assert_eq!(tokenizer.decode(&case.ids).unwrap(), case.decoded, "text of {text:?}");
        let skipped = tokenizer.decode_skipping_specials(&case.ids).unwrap();
        assert_eq!(skipped, case.decoded_skip_special, "text without specials of {text:?}");
        assert_eq!(streamed(tokenizer, &case.ids), case.decoded, "stream of {text:?}");
    }
}

/// The tokenizer itself, through GGUF metadata, and through its own tokenizer.json.
fn check_every_way(tokenizer: &Tokenizer, cases: &[Case]) {
    check_all(tokenizer, cases);
    let vocabulary = tokenizer.vocabulary().unwrap();
    let rebuilt = Tokenizer::from_vocabulary(vocabulary.clone()).unwrap();
    check_all(&rebuilt, cases);
    assert!(rebuilt.vocabulary().unwrap() == vocabulary, "the vocabulary changed on its way");
    assert_eq!(rebuilt.vocab_size(), tokenizer.vocab_size());
    let written = Tokenizer::from_json(rebuilt.to_json().unwrap().as_bytes()).unwrap();
    check_all(&written, cases);
}

#[test]
fn small_tokenizer_agrees_with_hugging_face() {
    let cases = cases(&fixture("cases.json"));
    assert!(cases.len() >= 60);
    check_every_way(&small(), &cases);
}

/// Digits by threes, a bos token in front, and words that are tokens without any merge.
#[test]
fn llama_3s_kind_agrees_with_hugging_face() {
    let (path, cases) = (fixture("llama3.json"), cases(&fixture("llama3_cases.json")));
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    assert_eq!((tokenizer.add_bos(), tokenizer.bos()), (true, tokenizer.token_id("<|im_start|>")));
    for case in &cases {
        let with_bos = [&[tokenizer.bos().unwrap()], &case.ids[..]].concat();
        let begins = case.text.starts_with("<|im_start|>");
        assert_eq!(tokenizer.encode(&case.text).unwrap(), if begins { case.ids.clone() } else { with_bos });
    }
    let without_bos = Vocabulary { add_bos: false, ..tokenizer.vocabulary().unwrap() };
    assert_eq!(without_bos.pre, "llama-bpe");
    check_every_way(&Tokenizer::from_vocabulary(without_bos).unwrap(), &cases);
    // The same without that rule: other ids, and no name in GGUF.
    let json = fs::read_to_string(&path).unwrap();
    let merging = json.replace("\"ignore_merges\":true", "\"ignore_merges\":false");
    let merging = Tokenizer::from_json(merging.as_bytes()).unwrap();
    assert!(
        cases
            .iter()
            .any(|case| merging.encode_plain(&case.text).unwrap()
                != tokenizer.encode_plain(&case.text).unwrap())
    );
    assert!(matches!(merging.vocabulary(), Err(Error::Unsupported(_))));
}

#[test]
fn qwen3_tokenizer_agrees_with_hugging_face() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let path = shared.join("tokenizer/tokenizer.json");
    if !path.exists() {
        return eprintln!("skipped: the Qwen3 tokenizer is not at hand");
    }
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    let cases = cases(&shared.join("cases/tokenizer_cases.json"));
    assert_eq!((cases.len(), tokenizer.vocab_size()), (280, 151_669));
    check_every_way(&tokenizer, &cases);
    assert_eq!((tokenizer.eos(), tokenizer.bos(), tokenizer.add_bos()), (Some(151_645), None, false));
    assert!(tokenizer.chat_template().unwrap().contains("<|im_start|>"));
    let vocabulary = tokenizer.vocabulary().unwrap();
    assert_eq!((vocabulary.merges.len(), vocabulary.padding), (151_387, Some(151_643)));
    assert_eq!(vocabulary.token_types[151_643], token_type::CONTROL);
    assert_eq!(vocabulary.token_types[151_668], token_type::USER_DEFINED);
}

#[test]
fn a_character_comes_out_with_its_last_token() {
    let tokenizer = small();
    let mut stream = tokenizer.stream();
    let pieces: Vec<String> = "é".bytes().map(|b| stream.push(byte_id(&tokenizer, b)).unwrap()).collect();
    assert_eq!(pieces, ["", "é"]);
    assert_eq!(stream.push(byte_id(&tokenizer, 0xf0)).unwrap(), "");
    assert_eq!(stream.push(byte_id(&tokenizer, b'a')).unwrap(), "\u{fffd}a");
    assert_eq!(stream.push(byte_id(&tokenizer, 0xe6)).unwrap(), "");
    assert_eq!(stream.finish(), "\u{fffd}");
}

fn byte_id(tokenizer: &Tokenizer, byte: u8) -> u32 {
    (0..256).find(|id| tokenizer.token_bytes(*id) == Some(&[byte])).unwrap()
}

#[test]
fn special_tokens_in_plain_text_stay_text() {
    let tokenizer = small();
    let text = "a<|im_end|><think>b";
    let (end, think) = (tokenizer.token_id("<|im_end|>").unwrap(), tokenizer.token_id("<think>").unwrap());
    let (parsed, plain) = (tokenizer.encode(text).unwrap(), tokenizer.encode_plain(text).unwrap());
    assert!(parsed.contains(&end) && !plain.contains(&end));
    assert!(parsed.contains(&think) && plain.contains(&think), "<think> is no special token");
    assert_eq!(tokenizer.decode(&plain).unwrap(), text);
    assert!(tokenizer.is_special(end) && !tokenizer.is_special(think));
}

#[test]
fn ids_outside_of_the_vocabulary_are_errors_until_it_is_padded() {
    let mut tokenizer = small();
    let outside = tokenizer.vocab_size() as u32;
    assert!(matches!(tokenizer.decode(&[0, outside]), Err(Error::Token { id, .. }) if id == outside));
    assert!(tokenizer.stream().push(outside).is_err() && tokenizer.token_bytes(outside).is_none());
    tokenizer.pad_to(768);
    assert_eq!(tokenizer.decode(&[outside, 767]).unwrap(), "");
    assert_eq!(tokenizer.stream().push(outside).unwrap(), "");
    let vocabulary = tokenizer.vocabulary().unwrap();
    assert_eq!(vocabulary.tokens[767], "[PAD767]");
    assert_eq!(vocabulary.token_types[767], token_type::UNUSED);
    let rebuilt = Tokenizer::from_vocabulary(vocabulary).unwrap();
    assert_eq!((rebuilt.vocab_size(), rebuilt.token_id("[PAD767]")), (768, None));
}

#[test]
fn roles_and_template_travel_with_every_form() {
    let vocabulary = Vocabulary {
        bos: Some(700),
        eos: Some(702),
        padding: Some(701),
        add_bos: true,
        chat_template: Some("{{ messages }}".into()),
        ..small().vocabulary().unwrap()
    };
    let tokenizer = Tokenizer::from_vocabulary(vocabulary.clone()).unwrap();
    assert_eq!(tokenizer.encode("").unwrap(), [700]);
    assert_eq!(tokenizer.encode("<|endoftext|>a").unwrap(), tokenizer.encode("a").unwrap(), "bos only once");
    assert_eq!(tokenizer.encode_plain("a").unwrap().len(), 1);
    let directory = tempfile::tempdir().unwrap();
    tokenizer.save(directory.path()).unwrap();
    let path = directory.path().join("tokenizer.json");
    assert_eq!(Tokenizer::from_file(&path).unwrap().vocabulary().unwrap(), vocabulary);
    let only_json = Tokenizer::from_json(&fs::read(&path).unwrap()).unwrap();
    assert_eq!((only_json.bos(), only_json.add_bos(), only_json.eos()), (Some(700), true, None));
    fs::write(directory.path().join("chat_template.jinja"), "other").unwrap();
    assert_eq!(Tokenizer::from_file(&path).unwrap().chat_template(), Some("other"));
}

#[test]
fn added_tokens_keep_their_ids_wherever_they_are() {
    let mut vocabulary = Vocabulary::of_bytes();
    for (id, text, kind) in [(0, "<start>", token_type::CONTROL), (5, "[é]", token_type::USER_DEFINED)] {
        vocabulary.tokens.insert(id, text.into());
        vocabulary.token_types.insert(id, kind);
    }
    let tokenizer = Tokenizer::from_vocabulary(vocabulary.clone()).unwrap();
    assert_eq!(tokenizer.encode("[é]<start>").unwrap(), [5, 0]);
    assert_eq!(tokenizer.decode(&[5, 0]).unwrap(), "[é]<start>");
    assert_eq!(tokenizer.vocabulary().unwrap(), vocabulary);
}

#[test]
fn gpt2_cuts_numbers_whole_and_does_not_normalise() {
    let mut vocabulary = Vocabulary { pre: "gpt-2".into(), ..Vocabulary::of_bytes() };
    vocabulary.tokens.push("12".into());
    vocabulary.token_types.push(token_type::NORMAL);
    vocabulary.merges.push("1 2".into());
    let gpt2 = Tokenizer::from_vocabulary(vocabulary.clone()).unwrap();
    assert_eq!((gpt2.encode("12").unwrap(), gpt2.encode("e\u{301}").unwrap().len()), (vec![256], 3));
    assert_eq!(gpt2.vocabulary().unwrap(), vocabulary);
    let qwen2 = Tokenizer::from_vocabulary(Vocabulary { pre: "qwen2".into(), ..vocabulary }).unwrap();
    assert_eq!((qwen2.encode("12").unwrap().len(), qwen2.encode("e\u{301}").unwrap().len()), (2, 2));
}

/// The error of `Vocabulary::of_bytes()` after `damage`.
fn refusal(damage: impl FnOnce(&mut Vocabulary)) -> Error {
    let mut vocabulary = Vocabulary::of_bytes();
    damage(&mut vocabulary);
    Tokenizer::from_vocabulary(vocabulary).unwrap_err()
}

/// The joined token is there, but as an added one that the model does not know.
fn longer_than_the_model_knows(vocabulary: &mut Vocabulary) {
    vocabulary.tokens.push("ĠĠ".into());
    vocabulary.token_types.push(token_type::CONTROL);
    vocabulary.merges.push("Ġ Ġ".into());
}

#[test]
fn damaged_vocabularies_are_refused_by_what_is_wrong() {
    let cases: [(&str, Error); 15] = [
        ("one type for each", refusal(|v| v.token_types.truncate(9))),
        ("at least one", refusal(|v| (v.tokens, v.token_types) = (vec![], vec![]))),
        ("tokens 7 and 8 are both", refusal(|v| v.tokens[8] = v.tokens[7].clone())),
        ("are both", refusal(|v| (v.tokens[9], v.token_types[9]) = (v.tokens[8].clone(), 3))),
        ("token 4 is empty", refusal(|v| v.tokens[4].clear())),
        ("token 3 has type 6", refusal(|v| v.token_types[3] = token_type::BYTE)),
        ("token 3 has type -1", refusal(|v| v.token_types[3] = -1)),
        ("does not join", refusal(|v| v.merges.push("a".into()))),
        ("does not join", refusal(|v| v.merges.push("a b c".into()))),
        ("does not join", refusal(|v| v.merges.push("Ġ Ġ".into()))), // longer than every token
        ("does not join", refusal(longer_than_the_model_knows)),
        ("missing", refusal(|v| (v.tokens[9], v.merges) = ("abc".into(), vec!["a b".into()]))),
        ("token id 256", refusal(|v| v.eos = Some(256))),
        ("bos", refusal(|v| v.add_bos = true)),
        ("\"tekken\"", refusal(|v| v.pre = "tekken".into())),
    ];
    for (expected, error) in cases {
        assert!(error.to_string().contains(expected), "{error} should say {expected:?}");
    }
    assert_eq!(refusal(|v| v.pre = String::new()).code(), ErrorCode::Unsupported);
}

#[test]
fn damaged_files_are_refused() {
    let good = fs::read_to_string(fixture("tokenizer.json")).unwrap();
    let long_merge =
        good.replace(r#""merges":["#, &format!(r#""merges":[["{0}","{0}"],"#, "longer".repeat(50)));
    let far = good.replace(r#""!":0,"#, r#""!":4294967295,"#);
    for bad in ["", "{}", "[1", &good[..2000], &long_merge, &far] {
        let error = Tokenizer::from_json(bad.as_bytes()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Tokenizer, "{error}");
    }
    assert_eq!(Tokenizer::from_file(&fixture("missing.json")).unwrap_err().code(), ErrorCode::Io);
    assert_eq!(Tokenizer::from_file(&fixture("generate.py")).unwrap_err().code(), ErrorCode::Format);
}

#[test]
fn other_kinds_of_tokenizers_work_but_cannot_be_exported() {
    let json = r#"{"version":"1.0","added_tokens":[],
        "pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":false},
        "decoder":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":false},
        "model":{"type":"BPE","vocab":{"▁":0,"a":1,"b":2,"▁a":3},"merges":[["▁","a"]]}}"#;
    let tokenizer = Tokenizer::from_json(json.as_bytes()).unwrap();
    let ids = tokenizer.encode("ab a").unwrap();
    assert_eq!(ids, [3, 2, 3]);
    assert_eq!((tokenizer.decode(&ids).unwrap(), streamed(&tokenizer, &ids)), ("ab a".into(), "ab a".into()));
    assert!(tokenizer.stream().push(4).is_err() && tokenizer.token_bytes(1).is_none());
    assert_eq!(tokenizer.vocabulary().unwrap_err().code(), ErrorCode::Unsupported);
}

/// What a post-processor puts behind a text is no beginning of one.
#[test]
fn an_end_token_that_is_put_behind_texts_is_no_bos() {
    let json = |template: &str| {
        format!(
            r#"{{"version":"1.0","added_tokens":[{{"id":2,"content":"<e>","special":true,"single_word":false,
            "lstrip":false,"rstrip":false,"normalized":false}}],"post_processor":{{"type":"TemplateProcessing",
            "single":[{template}],"pair":[],"special_tokens":{{"<e>":{{"id":"<e>","ids":[2],"tokens":["<e>"]}}}}}},
            "model":{{"type":"BPE","vocab":{{"a":0,"b":1}},"merges":[]}}}}"#
        )
    };
    let (text, end) =
        (r#"{"Sequence":{"id":"A","type_id":0}}"#, r#"{"SpecialToken":{"id":"<e>","type_id":0}}"#);
    let ids = |template: &str| {
        let tokenizer = Tokenizer::from_json(json(template).as_bytes()).unwrap();
        (tokenizer.bos(), tokenizer.encode("ab").unwrap())
    };
    assert_eq!(ids(&format!("{text},{end}")), (None, vec![0, 1]));
    assert_eq!(ids(&format!("{end},{text}")), (Some(2), vec![2, 0, 1]));
    assert_eq!(ids(&format!("{end},{text},{end}")).0, Some(2));
}

#[test]
fn limits_for_training_batches_do_not_cut_a_text() {
    let json = fs::read_to_string(fixture("tokenizer.json")).unwrap().replace(
        r#""truncation":null"#,
        r#""truncation":{"direction":"Right","max_length":2,"strategy":"LongestFirst","stride":0}"#,
    );
    let tokenizer = Tokenizer::from_json(json.as_bytes()).unwrap();
    assert!(json.contains("LongestFirst") && tokenizer.encode("1234567").unwrap().len() == 7);
}

/// Strings with many of the characters on which tokenizers differ.
fn text() -> impl Strategy<Value = String> {
    let odd = prop::sample::select(vec![
        "\r\n",
        " ",
        "  ",
        "\t",
        "'S",
        "é",
        "e\u{301}",
        "\u{1100}\u{1161}",
        "12",
        "🌳",
        "<|im_end|>",
        "<think>",
        "日本",
        "\u{fffd}",
        "\u{0}",
        "\u{a0}",
        "!?",
    ]);
    prop::collection::vec(
        prop_oneof![odd.prop_map(String::from), any::<char>().prop_map(String::from)],
        0..40,
    )
    .prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn decoding_gives_the_normalised_text(text in text()) {
        let tokenizer = shared_small();
        let expected = nfc(&text);
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids).unwrap(), &expected[..]);
        let plain = tokenizer.encode_plain(&text).unwrap();
        prop_assert_eq!(tokenizer.decode(&plain).unwrap(), &expected[..]);
        let bytes: usize = ids.iter().map(|id| tokenizer.token_bytes(*id).unwrap().len()).sum();
        prop_assert_eq!(bytes, expected.len());
    }

    #[test]
    fn the_stream_gives_the_whole_text(ids in prop::collection::vec(0..707_u32, 0..60)) {
        let tokenizer = shared_small();
        let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.token_bytes(*id).unwrap()).copied().collect();
        let whole = String::from_utf8_lossy(&bytes).into_owned();
        prop_assert_eq!(tokenizer.decode(&ids).unwrap(), &whole[..]);
        prop_assert_eq!(streamed(tokenizer, &ids), whole);
    }

    #[test]
    fn bytes_alone_stream_as_lossy_text(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        static BYTES: LazyLock<Tokenizer> =
            LazyLock::new(|| Tokenizer::from_vocabulary(Vocabulary::of_bytes()).unwrap());
        let ids: Vec<u32> = bytes.iter().map(|byte| u32::from(*byte)).collect();
        prop_assert_eq!(streamed(&BYTES, &ids), String::from_utf8_lossy(&bytes).into_owned());
    }
}

fn shared_small() -> &'static Tokenizer {
    static SMALL: LazyLock<Tokenizer> = LazyLock::new(small);
    &SMALL
}

/// NFC by the same tables as the crate's, cut at added tokens as the crate cuts: they are no part of a word.
fn nfc(text: &str) -> String {
    use tokenizers::{NormalizedString, Normalizer, normalizers::NFC};
    let mut parts = vec![text];
    for mark in ["<|im_end|>", "<think>"] {
        parts = parts.into_iter().flat_map(|part| part.split_inclusive(mark)).collect();
    }
    let normal = |part: &str| {
        let mut part = NormalizedString::from(part);
        NFC.normalize(&mut part).unwrap();
        part.get().to_owned()
    };
    parts.into_iter().map(normal).collect()
}
