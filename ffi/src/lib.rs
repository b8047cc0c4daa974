//! `libbonsai`: the runtime behind a C interface.
//!
//! What a caller must know stands in `include/libbonsai.h`, which is made from this crate. What a reader must know:
//!
//! - every exported function is one call of [`status::guard`], which catches panics and keeps the error message;
//! - objects live in [`registry`], and callers hold numbers: a wrong one is an error, never a wild pointer;
//! - pointers become slices in [`pointers`] and nowhere else. What the caller promises there is what every `# Safety`
//!   section says: pointers are null or good for the lengths beside them until the call returns.

#![allow(unsafe_code, reason = "this crate is the boundary to C: raw pointers come in, symbols go out")]

pub mod chat;
pub mod log;
pub mod model;
pub mod options;
mod pointers;
mod registry;
pub mod session;
pub mod status;
pub mod text;
pub mod version;
