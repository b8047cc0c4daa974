//! What calls return, and the message that goes with it.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_char};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use bonsai_runtime::{Error, ErrorCode};

/// All is well.
pub const BONSAI_OK: i32 = 0;
/// The operating system refused a file operation.
pub const BONSAI_ERROR_IO: i32 = 1;
/// A file or saved session is not what it claims to be, or belongs to something else.
pub const BONSAI_ERROR_FORMAT: i32 = 2;
/// Sound, but not done by this library.
pub const BONSAI_ERROR_UNSUPPORTED: i32 = 3;
/// The tokenizer could not be built or used.
pub const BONSAI_ERROR_TOKENIZER: i32 = 4;
/// An argument makes no sense.
pub const BONSAI_ERROR_ARGUMENT: i32 = 5;
/// A token id is outside the vocabulary.
pub const BONSAI_ERROR_TOKEN: i32 = 6;
/// The context is full.
pub const BONSAI_ERROR_CONTEXT_FULL: i32 = 7;
/// Not enough memory.
pub const BONSAI_ERROR_MEMORY: i32 = 8;
/// Stopped, as you asked.
pub const BONSAI_ERROR_CANCELLED: i32 = 9;
/// A check found something that must not be.
pub const BONSAI_ERROR_CHECK: i32 = 10;
/// The chat template could not be read or run, or there is none.
pub const BONSAI_ERROR_TEMPLATE: i32 = 11;
/// There is no GPU that can be used, or it failed.
pub const BONSAI_ERROR_GPU: i32 = 12;
/// Not a handle, not of this kind, or freed.
pub const BONSAI_ERROR_HANDLE: i32 = 32;
/// A pointer is null that must not be, or not aligned for what it points to.
pub const BONSAI_ERROR_POINTER: i32 = 33;
/// An options struct begins with an impossible size, or sets something that this version does not know.
pub const BONSAI_ERROR_OPTIONS: i32 = 34;
/// Text is not UTF-8.
pub const BONSAI_ERROR_UTF8: i32 = 35;
/// Your buffer is too small; the length says what is needed.
pub const BONSAI_ERROR_BUFFER: i32 = 36;
/// Another call is using this session or text.
pub const BONSAI_ERROR_BUSY: i32 = 37;
/// A fault in the library. The handle involved can only be freed; the rest works on.
pub const BONSAI_ERROR_PANIC: i32 = 38;
/// Nothing more comes: the model has ended its answer.
pub const BONSAI_END: i32 = 64;

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
    /// Exported functions that this thread is in the middle of: a callback may call another one.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// A status other than `BONSAI_OK`, and why.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: i32,
    message: String,
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(crate) fn new(status: i32, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error.code() {
            ErrorCode::Io => BONSAI_ERROR_IO,
            ErrorCode::Format => BONSAI_ERROR_FORMAT,
            ErrorCode::Unsupported => BONSAI_ERROR_UNSUPPORTED,
            ErrorCode::Tokenizer => BONSAI_ERROR_TOKENIZER,
            ErrorCode::Argument => BONSAI_ERROR_ARGUMENT,
            ErrorCode::Token => BONSAI_ERROR_TOKEN,
            ErrorCode::ContextFull => BONSAI_ERROR_CONTEXT_FULL,
            ErrorCode::Memory => BONSAI_ERROR_MEMORY,
            ErrorCode::Cancelled => BONSAI_ERROR_CANCELLED,
            ErrorCode::Check => BONSAI_ERROR_CHECK,
            ErrorCode::Template => BONSAI_ERROR_TEMPLATE,
            ErrorCode::Gpu => BONSAI_ERROR_GPU,
        };
        Self::new(status, error.to_string())
    }
}

/// Runs the body of an exported function: its failure becomes a status and a message, and so does a panic, which must
/// not unwind into C.
pub(crate) fn guard(body: impl FnOnce() -> Result<()>) -> i32 {
    hush();
    let _ = DEPTH.try_with(|depth| depth.set(depth.get() + 1)); // fails in a thread that is ending
    let result = catch_unwind(AssertUnwindSafe(body));
    let _ = DEPTH.try_with(|depth| depth.set(depth.get() - 1));
    let failure = match result {
        Ok(Ok(())) => return BONSAI_OK,
        Ok(Err(Failure { status: BONSAI_END, .. })) => return BONSAI_END, // no failure: the last message stays
        Ok(Err(failure)) => failure,
        Err(panic) => {
            Failure::new(BONSAI_ERROR_PANIC, format!("a fault in the library: {}", reason(&*panic)))
        }
    };
    // A zero byte would cut the message short for C.
    let message = CString::new(failure.message.replace('\0', "\u{fffd}")).unwrap_or_default();
    let _ = LAST_ERROR.try_with(|last| last.replace(message)); // fails in a thread that is ending
    failure.status
}

/// Keeps Rust from printing a panic that becomes a status, here or on a thread that computes for this one.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let computes = std::thread::current().name().is_some_and(|name| name.starts_with("bonsai-"));
            if !computes && DEPTH.try_with(Cell::get).unwrap_or(0) == 0 {
                before(info);
            }
        }));
    });
}

fn reason(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked")
}

/// Why the last call on this thread that failed did so: a sentence in UTF-8 that ends with a zero byte, empty if none has.
/// Calls that succeed leave it as it is. The text belongs to the library and is good until the next call of this thread
/// that fails.
#[unsafe(no_mangle)]
pub extern "C" fn bonsai_last_error() -> *const c_char {
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Panics that were printed.
    static PRINTED: AtomicU32 = AtomicU32::new(0);

    #[test]
    fn panics_and_failures_become_a_status_and_a_message() {
        // SAFETY: the pointer is good until the next failure on this thread.
        let last = || unsafe { CStr::from_ptr(bonsai_last_error()) }.to_str().unwrap().to_string();
        // In the place of the hook that prints. No other test of this crate calls `guard`, which wraps it.
        panic::set_hook(Box::new(|_| _ = PRINTED.fetch_add(1, Ordering::Relaxed)));
        assert_eq!((last().as_str(), guard(|| Ok(()))), ("", BONSAI_OK));
        assert_eq!(guard(|| panic!("number {}", 7)), BONSAI_ERROR_PANIC);
        assert_eq!(last(), "a fault in the library: number 7");
        assert_eq!(PRINTED.load(Ordering::Relaxed), 0, "the library prints nothing");
        assert!(catch_unwind(|| panic!("the program's own")).is_err());
        assert_eq!(PRINTED.load(Ordering::Relaxed), 1, "what is not ours is printed");
        assert_eq!(guard(|| Err(Error::Argument("a\0b".into()).into())), BONSAI_ERROR_ARGUMENT);
        assert_eq!(last(), "a\u{fffd}b");
        assert_eq!(guard(|| Ok(())), BONSAI_OK);
        assert_eq!(last(), "a\u{fffd}b");
    }
}
