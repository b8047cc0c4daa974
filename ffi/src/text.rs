//! Token ids in, whole characters out.

use std::ffi::c_char;
use std::sync::Mutex;

use bonsai_runtime::tokenizer::Characters;
use bonsai_runtime::{Error, Model};

use crate::model::{self, tokenizer};
use crate::pointers::{self, Buffer};
use crate::registry::{self, Object};
use crate::session::try_lock;
use crate::status::{BONSAI_ERROR_UNSUPPORTED, Failure, Result, guard};

/// A text that grows token by token.
pub(crate) struct Text {
    model: Model,
    characters: Mutex<Characters>,
}

impl Object for Text {
    const KIND: u8 = 3;
    const NAME: &'static str = "text";
}

fn token_bytes(model: &Model, id: u32) -> Result<&[u8]> {
    let vocab = model.config().vocab;
    Ok(tokenizer(model)?.token_bytes(id).ok_or(Error::Token { id, vocab })?)
}

/// Begins a text. A character whose bytes are spread over several tokens comes out with the last of them. You own it: free
/// it with `bonsai_text_free`. `BONSAI_ERROR_UNSUPPORTED` for a tokenizer whose tokens are not bytes: its text comes from
/// `bonsai_session_generate`, or whole from `bonsai_model_decode`.
///
/// # Safety
/// As the head of the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_text_new(model: u64, text: *mut u64) -> i32 {
    guard(|| {
        pointers::check(text, "the pointer to the text")?;
        let model = registry::get::<model::Model>(model)?.inner.clone();
        if tokenizer(&model)?.token_bytes(0).is_none() {
            let why =
                "the tokens of this model are not bytes: use bonsai_session_generate or bonsai_model_decode";
            return Err(Failure::new(BONSAI_ERROR_UNSUPPORTED, why));
        }
        let made = registry::insert(Text { model, characters: Mutex::default() })?;
        // SAFETY: the caller's promise.
        unsafe { pointers::write(text, made, "the pointer to the text") }
    })
}

/// Adds a token; gives the text that is now certain, copied into your buffer: often a word, sometimes nothing.
///
/// # Safety
/// As the head of the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_text_push(
    text: u64,
    id: u32,
    buffer: *mut c_char,
    capacity: u64,
    length: *mut u64,
) -> i32 {
    guard(|| {
        let text = registry::get::<Text>(text)?;
        let buffer = Buffer::new(buffer, capacity, length)?;
        let mut characters = try_lock(&text.characters)?;
        let mut after = characters.clone(); // at most three bytes: so that a small buffer changes nothing
        let certain = after.push(token_bytes(&text.model, id)?);
        // SAFETY: the caller's promise.
        unsafe { buffer.fill_text(&certain)? };
        *characters = after;
        Ok(())
    })
}

/// Ends a text: gives U+FFFD, copied into your buffer, for bytes that cannot become a character any more, and begins a new
/// one.
///
/// # Safety
/// As the head of the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_text_finish(
    text: u64,
    buffer: *mut c_char,
    capacity: u64,
    length: *mut u64,
) -> i32 {
    guard(|| {
        let text = registry::get::<Text>(text)?;
        let buffer = Buffer::new(buffer, capacity, length)?;
        let mut characters = try_lock(&text.characters)?;
        // SAFETY: the caller's promise.
        unsafe { buffer.fill_text(&characters.clone().finish())? };
        *characters = Characters::default();
        Ok(())
    })
}

/// Frees a text. Nothing happens for 0, a freed handle, or one of another kind.
#[unsafe(no_mangle)]
pub extern "C" fn bonsai_text_free(text: u64) {
    guard(|| {
        registry::remove::<Text>(text);
        Ok(())
    });
}
