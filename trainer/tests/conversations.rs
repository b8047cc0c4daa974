//! Conversations: what is learnt of them, and that it is learnt.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use bonsai_runtime::Tokenizer;
use bonsai_trainer::config::{OptimizerKind, RunConfig};
use bonsai_trainer::corpus::{Corpus, Document};
use bonsai_trainer::data::{Batch, Dataset, Dtype, Encoder, IGNORE, Order, prepare};
use bonsai_trainer::dialogue::{Dialogue, Segment};
use bonsai_trainer::train::{State, target_tokens};
use bonsai_trainer::{bpe, stories};

mod tiny_run;

fn learnt() -> Tokenizer {
    let options = bpe::BpeOptions { vocab_size: tiny_run::VOCAB, ..bpe::BpeOptions::default() };
    bpe::learn(stories::corpus(1, 30_000).iter(), &options).unwrap()
}

fn with_template(template: &str) -> Tokenizer {
    let mut tokenizer = learnt();
    tokenizer.set_chat_template(template);
    tokenizer
}

fn segments(tokenizer: &Tokenizer, messages: &str) -> Result<Vec<Segment>, String> {
    Dialogue::of(tokenizer).unwrap().segments(messages)
}

/// What is context and what is `«learnt»`.
fn marked(tokenizer: &Tokenizer, messages: &str) -> String {
    let segments = segments(tokenizer, messages).unwrap();
    segments
        .iter()
        .map(|part| if part.target { format!("«{}»", part.text) } else { part.text.clone() })
        .collect()
}

const TWO_TURNS: &str = r#"[{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Hello."}, {"role": "assistant", "content": " Bye. "}]"#;

#[test]
fn only_answers_and_their_ends_are_learnt() {
    assert_eq!(
        marked(&learnt(), TWO_TURNS),
        "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n«Hello.<|im_end|>»\n\
         <|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\n« Bye. <|im_end|>»\n",
        "a tokenizer with the marks of ChatML gets ChatML"
    );
    let plain = "{% for m in messages %}{{ m.role + ': ' + m.content|trim + '\\n' }}{% endfor %}\
                 {% if add_generation_prompt %}assistant:{% endif %}";
    assert_eq!(
        marked(&with_template(plain), TWO_TURNS),
        "user: Hi?\nassistant:« Hello.»\nuser: Hello.\nassistant:« Bye.»\n",
        "no mark ends an answer"
    );
}

#[test]
fn thinking_templates_are_followed() {
    // As Qwen3's: an empty thought in the last answer only, none in earlier ones.
    let template = "{% for m in messages %}{% set said = m.content.split('</think>')[-1].strip() %}\
        {{ '<|im_start|>' + m.role + '\\n' }}\
        {% if m.role == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}\
        {{ said + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    let messages = r#"[{"role": "user", "content": "1"}, {"role": "assistant", "content": "<think>hm</think>t"},
        {"role": "user", "content": "2"}, {"role": "assistant", "content": "<think>hm</think>t"}]"#;
    assert_eq!(
        marked(&with_template(template), messages),
        "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n«t<|im_end|>»\n\
         <|im_start|>user\n2<|im_end|>\n<|im_start|>assistant\n«<think>\n\n</think>\n\nt<|im_end|>»\n"
    );
}

#[test]
fn a_template_that_hides_answers_is_refused_with_the_place() {
    let tokenizer = with_template("{% for m in messages %}{{ m.content|upper }}{% endfor %}");
    let error = segments(&tokenizer, TWO_TURNS).unwrap_err();
    assert!(error.contains("message 1"), "{error}");
    let place = Some("chats.jsonl: line 7".to_owned());
    let document = Document { text: TWO_TURNS.into(), conversation: place };
    let error = Encoder::new(&tokenizer, true).unwrap().encode(&document).unwrap_err();
    assert!(error.to_string().starts_with("chats.jsonl: line 7: message 1"), "{error}");
    assert_eq!(error.exit_code(), 3);
}

/// Shards of conversations whose answers follow from the questions, and of a text.
fn shards(dir: &Path) -> (Dataset, Tokenizer) {
    let lines: String = (0..400)
        .map(|n| {
            let (question, answer) = ([n * 7 % 10, n / 10], n * 7 % 10);
            format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"{question:?}\"}}, {{\"role\": \"assistant\", \"content\": \"{answer}{answer}\"}}]}}\n")
        })
        .collect();
    let path = dir.join("chats.jsonl");
    std::fs::write(&path, lines + "{\"text\": \"a text\"}\n").unwrap();
    let corpus = Corpus::scan((&[path], &[]), "text", (0.1, 0), &|_| Ok(())).unwrap();
    let tokenizer = learnt();
    prepare(&corpus, &tokenizer, dir, &|_| ()).unwrap();
    (Dataset::open(dir).unwrap(), tokenizer)
}

#[test]
fn the_mask_goes_through_shards_into_batches() {
    let dir = tempfile::tempdir().unwrap();
    let (data, tokenizer) = shards(dir.path());
    assert_eq!(data.meta.dtype, Dtype::MaskedU16);
    let (mut ids, mut targets) = (vec![0; data.train.len()], vec![0; data.train.len()]);
    data.train.read(0..ids.len(), &mut ids);
    data.train.read_targets(0..ids.len(), &mut targets);
    let text = tokenizer.decode(&ids).unwrap();
    assert!(text.starts_with("<|im_start|>user\n["), "{}", &text[..60]);
    let learnt: Vec<u32> = targets.iter().copied().filter(|&id| id != IGNORE).collect();
    let learnt = tokenizer.decode(&learnt).unwrap();
    let answers = learnt.split("<|im_end|>").filter(|answer| answer.len() == 2).count();
    assert!(answers + 2 > data.meta.train.documents, "{answers} answers: {}", &learnt[..60]);
    assert!(!learnt.contains("user") && !learnt.contains('['), "{learnt}");
    let order = Order::Shuffled { seed: 1 };
    let mut batch = Batch::default();
    order.batch(&data.train, 0, 4, 32, &mut batch);
    for row in 0..4 {
        let start = order.start(data.train.len(), row as u64, 32);
        assert_eq!(batch.targets[row * 32..][..32], targets[start + 1..][..32]);
        assert_eq!(batch.tokens[row * 32..][..32], ids[start..][..32]);
    }
    let share = target_tokens(&batch) as f64 / 128.0;
    assert!((0.05..0.5).contains(&share), "{share}");
}

#[test]
fn answers_are_learnt_and_questions_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let (data, _) = shards(dir.path());
    let optimizer = OptimizerKind::Muon;
    let config =
        RunConfig { steps: 60, batch_size: 8, lr: 6e-3, optimizer, ..tiny_run::settings(dir.path()) };
    let mut trainer = tiny_run::trainer(config);
    let loss = trainer.validate(&data).unwrap().cross_entropy;
    let guessing = (tiny_run::VOCAB as f64).ln();
    // Divided by all tokens, of which less than half are targets, it would be below half of this.
    assert!((0.8..1.2).contains(&(loss / guessing)), "{loss} beside {guessing} of guessing");
    let mut targets = 0;
    for step in 0..60 {
        let report = trainer.step(&data.train).unwrap();
        let mut batch = Batch::default();
        Order::Shuffled { seed: 7 }.batch(&data.train, step * 8, 8, 32, &mut batch);
        targets += target_tokens(&batch) as u64;
        assert_eq!((report.tokens, trainer.state.tokens), (target_tokens(&batch) as u64, targets));
    }
    let after = trainer.validate(&data).unwrap().cross_entropy;
    assert!(after < 2.0, "{loss:.2} before, {after:.2} after");
}

/// A batch inside of a long question has nothing to learn: it must move no weight, and no mean.
#[test]
fn a_step_without_targets_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let chat = |number: usize| {
        let question = format!("{number}? ").repeat(50);
        format!(
            r#"{{"messages": [{{"role": "user", "content": "{question}"}}, {{"role": "assistant", "content": "So."}}]}}"#
        )
    };
    let file = directory.path().join("chats.jsonl");
    std::fs::write(&file, (0..9).map(chat).collect::<Vec<_>>().join("\n")).unwrap();
    let corpus = Corpus::scan((&[file], &[]), "text", (0.1, 0), &|_| Ok(())).unwrap();
    let shards = directory.path().join("shards");
    prepare(&corpus, &learnt(), &shards, &|_| ()).unwrap();
    let data = Dataset::open(&shards).unwrap();
    for optimizer_in_backward in [false, true] {
        let config =
            RunConfig { batch_size: 1, optimizer_in_backward, ..tiny_run::settings(directory.path()) };
        let mut trainer = tiny_run::trainer(config);
        let order = Order::Shuffled { seed: 7 };
        let mut batch = Batch::default();
        let mut empty = 0;
        for row in 0..20 {
            order.batch(&data.train, row, 1, 32, &mut batch);
            let before = (tiny_run::weights(&trainer), trainer.state.clone());
            let step = trainer.step(&data.train).unwrap();
            if target_tokens(&batch) > 0 {
                continue;
            }
            empty += 1;
            let State { step: steps, rows, .. } = trainer.state;
            assert!(step.tokens == 0 && step.skipped.is_none() && step.loss.is_nan());
            assert!(tiny_run::weights(&trainer) == before.0);
            assert_eq!(trainer.state, State { step: steps, rows, ..before.1 });
        }
        assert!((1..20).contains(&empty), "{empty} of 20");
    }
}
