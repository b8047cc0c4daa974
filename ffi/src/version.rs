//! Which library this is.

use std::ffi::{CStr, c_char};

/// Changes when a program compiled against an older header can no longer work with this library.
pub const BONSAI_ABI_VERSION: u32 = 1;

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(text) => text,
    Err(_) => panic!("a version has no zero bytes"),
};

/// The ABI version of the library that is running: compare it with `BONSAI_ABI_VERSION`.
#[unsafe(no_mangle)]
pub extern "C" fn bonsai_abi_version() -> u32 {
    BONSAI_ABI_VERSION
}

/// The version of the library, `"0.1.0"`. Static, ends with a zero byte, never freed.
#[unsafe(no_mangle)]
pub extern "C" fn bonsai_version() -> *const c_char {
    VERSION.as_ptr()
}
