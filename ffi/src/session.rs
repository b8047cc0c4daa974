//! Sessions: prompt in, tokens out.

use std::ffi::{c_char, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use bonsai_runtime::{Conversation, SamplerOptions};

use crate::log;
use crate::model::Model;
use crate::options::{self, SamplingOptions, SessionOptions};
use crate::pointers::{self, Buffer};
use crate::registry::{self, Object};
use crate::status::{
    BONSAI_END, BONSAI_ERROR_BUSY, BONSAI_ERROR_CANCELLED, BONSAI_ERROR_PANIC, Failure, Result, guard,
};

/// As an id: text without a token, U+FFFD at the end of an answer that broke off within a character.
pub const BONSAI_NO_TOKEN: u32 = 0xffff_ffff;

/// Gets each token of an answer: its id (or `BONSAI_NO_TOKEN`), and the text that is certain with it, UTF-8 without a zero
/// byte, good until it returns. Anything but 0 ends the generation, which is no error.
pub type TokenCallback =
    Option<unsafe extern "C" fn(user: *mut c_void, id: u32, text: *const c_char, length: u64) -> i32>;

/// A conversation, and the flag that stops it.
pub(crate) struct Session {
    conversation: Mutex<Conversation>,
    cancel: Arc<AtomicBool>,
}

impl Object for Session {
    const KIND: u8 = 2;
    const NAME: &'static str = "session";
}

/// The content of a lock, if nobody else holds it.
pub(crate) fn try_lock<T>(lock: &Mutex<T>) -> Result<MutexGuard<'_, T>> {
    lock.try_lock().map_err(|e| match e {
        TryLockError::WouldBlock => Failure::new(BONSAI_ERROR_BUSY, "another call is using this handle"),
        TryLockError::Poisoned(_) => {
            Failure::new(BONSAI_ERROR_PANIC, "an earlier call met a fault in the library: free this handle")
        }
    })
}

/// Runs a call on the conversation of a handle. A cancellation that it met is done with.
fn with(session: u64, f: impl FnOnce(&mut Conversation) -> Result<()>) -> i32 {
    guard(|| {
        let session = registry::get::<Session>(session)?;
        let result = f(&mut *try_lock(&session.conversation)?);
        if result.as_ref().is_err_and(|failure| failure.status == BONSAI_ERROR_CANCELLED) {
            session.cancel.store(false, Ordering::Relaxed);
        }
        result
    })
}

/// Starts a conversation. The options are not kept. You own the session: free it with `bonsai_session_free`.
///
/// # Safety
/// As the head of the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_session_new(
    model: u64,
    options: *const SessionOptions,
    session: *mut u64,
) -> i32 {
    guard(|| {
        pointers::check(session, "the pointer to the session")?;
        let model = registry::get::<Model>(model)?;
        let cancel = Arc::new(AtomicBool::new(false));
        // SAFETY: the caller's promise.
        let options = unsafe { options::read(options)? }.to_runtime(model.device, cancel.clone())?;
        let conversation = Conversation::new(model.inner.session(options)?, SamplerOptions::default());
        let made = registry::insert(Session { conversation: Mutex::new(conversation), cancel })?;
        // SAFETY: the caller's promise.
        unsafe { pointers::write(session, made, "the pointer to the session") }
    })
}

/// Frees a session. Nothing happens for 0, a freed handle, or one of another kind.
#[unsafe(no_mangle)]
pub extern "C" fn bonsai_session_free(session: u64) {
    guard(|| {
        registry::remove::<Session>(session);
        Ok(())
    });
}

/// Says how tokens are chosen from now on, and begins the random numbers again. Null: the defaults. The options are not
/// kept.
///
/// # Safety
/// As the head of the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_session_set_sampling(session: u64, options: *const SamplingOptions) -> i32 {
    with(session, |conversation| {
        // SAFETY: the caller's promise.
        let options = unsafe { options::read(options)? };
        options::check_reserved(options.reserved)?;
        conversation.set_sampling(options.to_runtime()?);
        log::info(&format!("sampler: {}", conversation.sampler().chain()));
        Ok(())
    })
}

/// Feeds tokens, behind those that are there; what `bonsai_session_next` gave last is fed before them by itself.
/// Long prompts are fed in chunks of 128, and cancellation is noticed between them: the chunks that were fed stay. The
/// ids are not kept.
///
/// # Safety
/// As the head of the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_session_prompt(session: u64, ids: *const u32, count: u64) -> i32 {
    with(session, |conversation| {
        // SAFETY: the caller's promise.
        Ok(conversation.prompt(unsafe { pointers::slice(ids, count, "the ids")? })?)
    })
}

/// Makes these tokens the whole conversation, and feeds only those after the first that differs from what is there: for
/// chats, where each turn begins with all turns before. `fed` gets the number of tokens that were fed; it may be null. The
/// ids are not kept.
///
/// # Safety
/// As the head of the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_session_set_tokens(
    session: u64,
    ids: *const u32,
    count: u64,
    fed: *mut u64,
) -> i32 {
    with(session, |conversation| {
        // SAFETY: the caller's promise.
        let number = conversation.set_tokens(unsafe { pointers::slice(ids, count, "the ids")? })?;
        match fed.is_null() {
            true => Ok(()),
            // SAFETY: the caller's promise.
            false => unsafe { pointers::write(fed, number as u64, "the pointer to the number") },
        }
    })
}

/// Chooses the next token. Returns `BONSAI_END` where the model ends its answer.
///
/// # Safety
/// As the head of the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_session_next(session: u64, id: *mut u32) -> i32 {
    with(session, |conversation| {
        pointers::check(id, "the pointer to the id")?;
        let next = conversation.next_token()?.ok_or_else(ended)?;
        // SAFETY: the caller's promise.
        unsafe { pointers::write(id, next, "the pointer to the id") }
    })
}

/// Generates up to `most` tokens, and calls `callback` with each. `generated` gets their number, also after an error; it
/// may be null. Returns `BONSAI_OK` when there are `most` or the callback wants no more, `BONSAI_END` when the model has
/// ended its answer.
///
/// # Safety
/// As the head of the header says; `callback` may be called with `user` until this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_session_generate(
    session: u64,
    most: u64,
    callback: TokenCallback,
    user: *mut c_void,
    generated: *mut u64,
) -> i32 {
    with(session, |conversation| {
        let mut count = 0u64;
        let mut tell = |id: u32, text: &str| match callback {
            // SAFETY: the caller's promise.
            Some(callback) => unsafe { callback(user, id, text.as_ptr().cast(), text.len() as u64) != 0 },
            None => false,
        };
        let result = generate(conversation, most, &mut count, &mut tell);
        if !generated.is_null() {
            // SAFETY: the caller's promise.
            unsafe { pointers::write(generated, count, "the pointer to the number")? };
        }
        result
    })
}

/// `tell` gets each token with its text, and says whether it wants no more.
fn generate(
    conversation: &mut Conversation,
    most: u64,
    count: &mut u64,
    tell: &mut dyn FnMut(u32, &str) -> bool,
) -> Result<()> {
    let model = conversation.session().model().clone();
    let mut decoder = model.tokenizer()?.map(|tokenizer| tokenizer.stream());
    let result = loop {
        if *count == most {
            break Ok(());
        }
        let id = match conversation.next_token() {
            Ok(Some(id)) => id,
            Ok(None) => break Err(ended()),
            Err(error) => break Err(error.into()),
        };
        let text = decoder.as_mut().map_or(Ok(String::new()), |decoder| decoder.push(id))?;
        *count += 1;
        if tell(id, &text) {
            return Ok(());
        }
    };
    let rest = decoder.map_or_else(String::new, |decoder| decoder.finish());
    if !rest.is_empty() {
        tell(BONSAI_NO_TOKEN, &rest);
    }
    result
}

fn ended() -> Failure {
    Failure::new(BONSAI_END, "the model has ended its answer")
}

/// Stops the call that is using this session with `BONSAI_ERROR_CANCELLED`: before its next token, or its next 128 tokens
/// of prompt. If there is none, stops the next one. The session can be used as before. May be called from any thread, and
/// from callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn bonsai_session_cancel(session: u64) -> i32 {
    guard(|| {
        registry::get::<Session>(session)?.cancel.store(true, Ordering::Relaxed);
        Ok(())
    })
}

/// Forgets the conversation, and a cancellation that nobody noticed, and begins the random numbers again.
#[unsafe(no_mangle)]
pub extern "C" fn bonsai_session_reset(session: u64) -> i32 {
    guard(|| {
        let session = registry::get::<Session>(session)?;
        try_lock(&session.conversation)?.reset();
        session.cancel.store(false, Ordering::Relaxed);
        Ok(())
    })
}

/// Tokens fed so far, and how many fit; either may be null.
///
/// # Safety
/// As the head of the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_session_position(session: u64, position: *mut u64, context: *mut u64) -> i32 {
    with(session, |conversation| {
        let session = conversation.session();
        for (out, value) in [(position, session.position()), (context, session.context())] {
            if !out.is_null() {
                // SAFETY: the caller's promise.
                unsafe { pointers::write(out, value as u64, "the pointer to the number")? };
            }
        }
        Ok(())
    })
}

/// Logits of the token behind the last one that was fed, copied into your buffer: as many as the vocabulary has ids, none
/// before a prompt.
///
/// # Safety
/// As the head of the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_session_logits(
    session: u64,
    buffer: *mut f32,
    capacity: u64,
    length: *mut u64,
) -> i32 {
    with(session, |conversation| {
        let buffer = Buffer::new(buffer, capacity, length)?;
        // SAFETY: the caller's promise.
        unsafe { buffer.fill(conversation.logits()?) }
    })
}

/// The conversation as bytes, copied into your buffer, to go on with it later without feeding it again. They hold what was
/// said and the model's state, not how tokens are chosen. A token that was chosen but not fed is not in it. Sessions on a
/// GPU cannot be saved.
///
/// # Safety
/// As the head of the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_session_save(
    session: u64,
    buffer: *mut u8,
    capacity: u64,
    length: *mut u64,
) -> i32 {
    with(session, |conversation| {
        let buffer = Buffer::new(buffer, capacity, length)?;
        // SAFETY: the caller's promise.
        unsafe { buffer.fill(&conversation.session().save()?) }
    })
}

/// Goes on with a saved conversation, in place of the present one. Bytes that are damaged, of another model or of a
/// session with another KV format or mode are refused and change nothing. Feeds one token. Begins the random numbers
/// again. The bytes are not kept.
///
/// # Safety
/// As the head of the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_session_restore(session: u64, bytes: *const u8, length: u64) -> i32 {
    with(session, |conversation| {
        // SAFETY: the caller's promise.
        Ok(conversation.restore(unsafe { pointers::slice(bytes, length, "the bytes")? })?)
    })
}
