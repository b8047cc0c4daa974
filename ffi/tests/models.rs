//! Writes the model that `run.sh` beside this gives to the C and Python programs, and uses the exported functions the
//! way they do.
#![allow(clippy::unwrap_used, unsafe_code, reason = "tests of a C interface")]

#[path = "../../runtime/tests/tiny/mod.rs"]
mod tiny;

use std::ptr::{null, null_mut};

use bonsai::model::{bonsai_model_free, bonsai_model_open_bytes};
use bonsai::session::{bonsai_session_free, bonsai_session_new, bonsai_session_next, bonsai_session_prompt};
use bonsai::status::{BONSAI_ERROR_ARGUMENT, BONSAI_ERROR_HANDLE, BONSAI_OK};
use bonsai_runtime::config::Config;
use bonsai_runtime::gguf::PackedFormat;

/// Long enough for a prompt of several chunks.
fn gguf() -> Vec<u8> {
    let config = Config { context: 512, layers: 2, ..tiny::wide() };
    let format: PackedFormat = "q2_0".parse().unwrap();
    tiny::gguf(&config, format)
}

#[test]
fn the_model_for_the_other_programs_is_written() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("ffi");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("tiny.gguf"), gguf()).unwrap();
}

#[test]
fn calls_from_rust_behave_as_calls_from_c() {
    let bytes = gguf();
    let (mut model, mut session, mut id) = (0, 0, 0);
    // SAFETY: pointers to living variables, and lengths that are theirs.
    unsafe {
        assert_eq!(
            bonsai_model_open_bytes(bytes.as_ptr(), bytes.len() as u64, null(), &mut model),
            BONSAI_OK
        );
        assert_eq!(bonsai_session_new(model, null(), &mut session), BONSAI_OK);
        assert_eq!(bonsai_session_next(session, &mut id), BONSAI_ERROR_ARGUMENT);
        bonsai_model_free(model); // the session lives on
        assert_eq!(bonsai_session_prompt(session, [1, 2, 3].as_ptr(), 3), BONSAI_OK);
        assert_eq!(bonsai_session_next(session, &mut id), BONSAI_OK);
        assert_ne!(bonsai_session_next(session, null_mut()), BONSAI_OK);
        bonsai_session_free(session);
        bonsai_session_free(session);
        assert_eq!(bonsai_session_next(session, &mut id), BONSAI_ERROR_HANDLE);
        assert_eq!(bonsai_session_new(model, null(), &mut session), BONSAI_ERROR_HANDLE);
    }
}
