//! Bytes that open as GGUF keep the law of `tests/law`: all tensors there, and written again they open equal.
#![no_main]

#[path = "../../tests/law/mod.rs"]
mod law;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    law::check(bytes);
});
