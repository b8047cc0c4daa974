//! Sessions as bytes: what comes back goes on with the same bits, and nothing that is wrong comes back.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use bonsai_runtime::tensor::Format;
use bonsai_runtime::{ErrorCode, KvFormat, Model, Session, SessionOptions};
use support::*;

fn model(seed: u64) -> Model {
    Model::from_file(model_file(&tiny(), Format::F32, seed)).unwrap()
}

fn session(kv: KvFormat) -> Session {
    model(1).session(SessionOptions { kv: Some(kv), ..SessionOptions::default() }).unwrap()
}

#[test]
fn a_restored_session_goes_on_with_the_same_bits() {
    let tokens = Random(3).ids(300, 97);
    for kv in KvFormat::ALL {
        for fed in [1, 2, 31, 32, 33, 65, 200] {
            let mut original = session(kv);
            let logits = original.prompt(&tokens[..fed]).unwrap().to_vec();
            let saved = original.save().unwrap();
            let mut copy = session(kv);
            copy.prompt(&tokens[100..250]).unwrap(); // is forgotten
            assert_eq!(copy.restore(&saved).unwrap(), logits, "{kv:?}, {fed} tokens");
            assert_eq!(copy.tokens(), &tokens[..fed]);
            assert_eq!(copy.save().unwrap(), saved, "{kv:?}, {fed} tokens");
            let more = &tokens[fed..fed + 40];
            assert_eq!(copy.prompt(more).unwrap(), original.prompt(more).unwrap());
        }
    }
}

#[test]
fn what_was_forgotten_is_not_saved() {
    let tokens = Random(3).ids(100, 97);
    for kv in KvFormat::ALL {
        let (mut clean, mut used) = (session(kv), session(kv));
        used.prompt(&tokens).unwrap();
        used.rewind(10);
        clean.prompt(&tokens[..10]).unwrap();
        assert_eq!(used.save().unwrap(), clean.save().unwrap());
    }
    let empty = session(KvFormat::F16).save().unwrap();
    let mut used = session(KvFormat::F16);
    used.prompt(&tokens).unwrap();
    assert!(used.restore(&empty).unwrap().is_empty());
    assert_eq!((used.position(), used.tokens().len()), (0, 0));
}

#[test]
fn wrong_bytes_are_refused_and_change_nothing() {
    let tokens = Random(3).ids(50, 97);
    let mut original = session(KvFormat::default());
    original.prompt(&tokens).unwrap();
    let saved = original.save().unwrap();
    let code = |session: &mut Session, bytes: &[u8]| {
        let before = session.tokens().to_vec();
        let code = session.restore(bytes).map(|_| ()).map_err(|e| e.code());
        assert_eq!(session.tokens(), before);
        code
    };
    for length in (0..saved.len()).step_by(97).chain([saved.len() - 1]) {
        assert_eq!(code(&mut original, &saved[..length]), Err(ErrorCode::Format), "{length} bytes");
    }
    for at in (0..saved.len()).step_by(61).chain(0..40) {
        let mut damaged = saved.clone();
        damaged[at] ^= 1;
        assert_eq!(code(&mut original, &damaged), Err(ErrorCode::Format), "byte {at}");
    }
    let longer = [&saved[..], &[0]].concat();
    assert_eq!(code(&mut original, &longer), Err(ErrorCode::Format));
    assert_eq!(code(&mut session(KvFormat::Int8), &saved), Err(ErrorCode::Format));
    let exact = SessionOptions { exact: true, kv: Some(KvFormat::default()), ..SessionOptions::default() };
    assert_eq!(code(&mut model(1).session(exact).unwrap(), &saved), Err(ErrorCode::Format));
    assert_eq!(
        code(&mut model(2).session(SessionOptions::default()).unwrap(), &saved),
        Err(ErrorCode::Format)
    );
    let short = SessionOptions { context: Some(49), ..SessionOptions::default() };
    assert_eq!(code(&mut model(1).session(short).unwrap(), &saved), Err(ErrorCode::ContextFull));
    assert_eq!(code(&mut original, &saved), Ok(()));
}

#[test]
fn what_conversations_have_in_common_is_not_fed_again() {
    let mut session = session(KvFormat::F16);
    session.prompt(&[1, 2, 3, 4]).unwrap();
    assert_eq!(session.keep_common(&[1, 2, 5, 6]).unwrap(), [5, 6]);
    assert_eq!(session.tokens(), [1, 2]);
    for wrong in [&[][..], &[1, 97], &[1; 401]] {
        assert!(session.keep_common(wrong).is_err());
        assert_eq!(session.tokens(), [1, 2]);
    }
    assert_eq!(session.keep_common(&[1, 2]).unwrap(), [2]); // its logits will be wanted
    assert_eq!(session.position(), 1);
}
