//! What the library would print if it printed anything.

use std::ffi::{c_char, c_void};
use std::sync::{Mutex, PoisonError};

/// A remark: what was opened, and how it will be computed.
pub const BONSAI_LOG_INFO: i32 = 1;

/// Gets a line of the log: UTF-8 of `length` bytes, without a zero byte or line break, good until it returns.
pub type LogCallback =
    Option<unsafe extern "C" fn(user: *mut c_void, level: i32, message: *const c_char, length: u64)>;

struct Hook {
    callback: LogCallback,
    user: *mut c_void,
}

// SAFETY: the pointer is only handed back to its owner, who was told that any thread may log.
unsafe impl Send for Hook {}

static HOOK: Mutex<Hook> = Mutex::new(Hook { callback: None, user: std::ptr::null_mut() });

/// Sends the log to a function of yours; null, the default, sends it nowhere. Calls under way in other threads may
/// still use the function before.
///
/// # Safety
/// `callback` is null, or a function that may be called with `user` from any thread that calls the library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_set_log(callback: LogCallback, user: *mut c_void) {
    *HOOK.lock().unwrap_or_else(PoisonError::into_inner) = Hook { callback, user };
}

pub(crate) fn info(message: &str) {
    let hook = HOOK.lock().unwrap_or_else(PoisonError::into_inner);
    let (callback, user) = (hook.callback, hook.user);
    drop(hook); // the function may call the library
    if let Some(callback) = callback {
        // SAFETY: promised to `bonsai_set_log`.
        unsafe { callback(user, BONSAI_LOG_INFO, message.as_ptr().cast(), message.len() as u64) };
    }
}
