//! A session with its sampler: the same tokens however they are asked for, and a repeat penalty on what is there.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use bonsai_runtime::config::Config;
use bonsai_runtime::tensor::{Format, StoredTensor};
use bonsai_runtime::{Conversation, Error, Model, Sampler, SamplerOptions, SessionOptions};
use support::*;

fn conversation(model: &Model, sampling: &SamplerOptions) -> Conversation {
    Conversation::new(model.session(SessionOptions::default()).unwrap(), sampling.clone())
}

fn model() -> Model {
    support::model(&tiny(), Format::F32, 21)
}

/// Drawn, and away from what was said before.
fn penalised() -> SamplerOptions {
    SamplerOptions { repeat_penalty: 1.5, repeat_last_n: 200, seed: 3, ..Default::default() }
}

fn take(conversation: &mut Conversation, count: usize) -> Vec<u32> {
    (0..count).map_while(|_| conversation.next_token().unwrap()).collect()
}

/// What needs no waiting.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}

#[test]
fn token_by_token_is_what_generate_says_waiting_or_not() {
    let model = model();
    let prompt = Random(22).ids(30, 97);
    for options in [SamplerOptions::greedy(), SamplerOptions::default(), penalised()] {
        let mut session = model.session(SessionOptions::default()).unwrap();
        let mut sampler = Sampler::new(options.clone());
        let expected: Vec<u32> = session.generate(&prompt, &mut sampler, 40).map(|id| id.unwrap()).collect();
        let [mut waiting, mut other] = [&model; 2].map(|model| conversation(model, &options));
        waiting.prompt(&prompt).unwrap();
        assert_eq!(take(&mut waiting, 40), expected);
        now(other.read_async(&prompt[..11])).unwrap();
        assert!(now(other.logits_async()).unwrap().is_empty());
        now(other.prompt_async(&prompt[11..])).unwrap();
        let ids: Vec<u32> = (0..40).map_while(|_| now(other.next_token_async()).unwrap()).collect();
        assert_eq!(ids, expected);
        assert_eq!(bits(now(other.logits_async()).unwrap()), bits(waiting.logits().unwrap()));
    }
}

#[test]
fn a_token_that_waits_is_fed_before_what_comes_next() {
    let model = model();
    let mut spoken = conversation(&model, &SamplerOptions::greedy());
    assert!(matches!(spoken.next_token(), Err(Error::Argument(_))));
    assert!(spoken.logits().unwrap().is_empty());
    spoken.prompt(&[1, 2, 3]).unwrap();
    let said = take(&mut spoken, 2);
    assert_eq!(spoken.session().tokens(), [1, 2, 3, said[0]]);
    spoken.prompt(&[4, 5]).unwrap();
    assert_eq!(spoken.session().tokens(), [1, 2, 3, said[0], said[1], 4, 5]);
    let mut told = conversation(&model, &SamplerOptions::greedy());
    told.prompt(spoken.session().tokens()).unwrap();
    assert_eq!(bits(told.logits().unwrap()), bits(spoken.logits().unwrap()));
}

/// The penalty once knew tokens that had been forgotten.
#[test]
fn the_penalty_is_on_the_tokens_that_are_there() {
    let model = model();
    let [first, second] = [23, 24].map(|seed| Random(seed).ids(30, 97));
    let mut expected = conversation(&model, &penalised());
    expected.prompt(&second).unwrap();
    let expected = take(&mut expected, 30);
    let mut replaced = conversation(&model, &penalised());
    replaced.prompt(&first).unwrap();
    assert_eq!(replaced.set_tokens(&second).unwrap(), 30);
    assert_eq!(take(&mut replaced, 30), expected);

    let mut again = conversation(&model, &penalised());
    again.prompt(&first).unwrap();
    take(&mut again, 5);
    again.reset();
    again.prompt(&second).unwrap();
    assert_eq!(take(&mut again, 30), expected);

    let mut restored = conversation(&model, &penalised());
    restored.prompt(&first).unwrap();
    take(&mut restored, 5);
    let mut saved = conversation(&model, &penalised());
    saved.prompt(&second).unwrap();
    restored.restore(&saved.session().save().unwrap()).unwrap();
    assert_eq!(take(&mut restored, 30), expected);
}

#[test]
fn after_a_failure_what_was_fed_is_there_and_nothing_is_fed_twice() {
    let model = model();
    let mut stopped = conversation(&model, &SamplerOptions::greedy());
    stopped.prompt(&[1, 2, 3]).unwrap();
    let said = take(&mut stopped, 1);
    let cancel = stopped.session().cancel_flag();
    cancel.store(true, Ordering::Relaxed);
    assert!(matches!(stopped.next_token(), Err(Error::Cancelled)));
    assert!(matches!(stopped.prompt(&[7]), Err(Error::Cancelled)));
    cancel.store(false, Ordering::Relaxed);
    assert_eq!(stopped.session().tokens(), [1, 2, 3]);
    stopped.prompt(&[7]).unwrap();
    assert_eq!(stopped.session().tokens(), [1, 2, 3, said[0], 7]);
    assert!(matches!(stopped.keep_common(&[97]), Err(Error::Token { .. })));
    assert!(matches!(stopped.prompt(&[8, 97]), Err(Error::Token { .. })));
    assert_eq!(stopped.session().position(), 5);
    assert!(stopped.next_token().unwrap().is_some());
}

/// Chunks of a prompt that were fed before it was stopped are there, the token that waited among them. Where it stops is
/// chance; what is missing can follow anywhere.
#[test]
fn a_stopped_prompt_leaves_a_beginning() {
    let model = model();
    let ids = Random(25).ids(300, 97);
    let begun = || {
        let mut begun = conversation(&model, &penalised());
        begun.prompt(&[1, 2]).unwrap();
        let said = take(&mut begun, 1)[0];
        (begun, said)
    };
    let (mut whole, said) = begun();
    whole.prompt(&ids).unwrap();
    let tokens = [&[1, 2, said], &ids[..]].concat();
    assert_eq!(whole.session().tokens(), tokens);
    let expected = take(&mut whole, 30);
    for microseconds in [0, 200, 500, 1000, 2000, 4000, 8000] {
        let (mut stopped, _) = begun();
        let cancel = stopped.session().cancel_flag();
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_micros(microseconds));
                cancel.store(true, Ordering::Relaxed);
            });
            stopped.prompt(&ids)
        });
        cancel.store(false, Ordering::Relaxed);
        let fed = stopped.session().position();
        assert_eq!(stopped.session().tokens(), &tokens[..fed]);
        match result {
            Ok(()) => assert_eq!(fed, tokens.len()),
            Err(_) => stopped.prompt(&tokens[fed.max(3)..]).unwrap(), // the one that waits goes by itself
        }
        assert_eq!(stopped.session().tokens(), tokens);
        assert_eq!(take(&mut stopped, 30), expected, "{fed} tokens were fed");
    }
}

#[test]
fn where_nothing_can_be_chosen_nothing_is_fed_twice() {
    let mut embedding = Random(26).normals(97 * 192);
    let with = |embedding: &[f32]| {
        let mut file = model_file(&Config { tied: false, ..tiny() }, Format::F32, 21);
        file.tensors.insert("model.embed_tokens.weight".into(), StoredTensor::from_f32(97, 192, embedding));
        let mut conversation = conversation(&Model::from_file(file).unwrap(), &SamplerOptions::greedy());
        conversation.prompt(&[1, 2]).unwrap();
        conversation
    };
    let said = take(&mut with(&embedding), 1)[0];
    assert!(said > 2);
    embedding[192 * said as usize..][..192].fill(f32::NAN); // so that what follows the token is no number
    let mut damaged = with(&embedding);
    assert_eq!(damaged.next_token().unwrap(), Some(said));
    for _ in 0..2 {
        assert!(matches!(damaged.next_token(), Err(Error::Format { .. })));
        assert_eq!(damaged.session().tokens(), [1, 2, said]);
    }
}

#[test]
fn an_end_token_ends_the_answer_and_belongs_to_the_conversation() {
    let mut free = conversation(&model(), &SamplerOptions::greedy());
    free.prompt(&[1, 2]).unwrap();
    let end = take(&mut free, 1)[0];
    let config = Config { eos: vec![end], ..tiny() };
    let model = support::model(&config, Format::F32, 21);
    let mut ended = conversation(&model, &SamplerOptions::greedy());
    ended.prompt(&[1, 2]).unwrap();
    assert_eq!(ended.next_token().unwrap(), None);
    ended.prompt(&[3]).unwrap();
    assert_eq!(ended.session().tokens(), [1, 2, end, 3]);
}
