//! A model on a GPU, as C programs ask for one. Needs a Vulkan adapter; Mesa's lavapipe will do.
#![allow(clippy::unwrap_used, unsafe_code, reason = "tests of a C interface")]

#[path = "../../runtime/tests/tiny/mod.rs"]
mod tiny;

use std::ffi::CStr;
use std::ptr::{null, null_mut};

use bonsai::model::{bonsai_model_free, bonsai_model_info, bonsai_model_open_bytes};
use bonsai::options::*;
use bonsai::session::*;
use bonsai::status::{BONSAI_ERROR_UNSUPPORTED, BONSAI_OK, bonsai_last_error};
use bonsai_runtime::config::Config;

/// Handle of the small model on a device, and what it says about it.
fn open(device: u32) -> (u64, String) {
    let config = Config { context: 64, layers: 2, ..tiny::wide() };
    let bytes = tiny::gguf(&config, "q2_0".parse().unwrap());
    let size = size_of::<ModelOptions>() as u32;
    let options = ModelOptions { size, device, preload: 0, reserved: 0, progress: None, user: null_mut() };
    let (mut model, mut length, mut info) = (0, 0, vec![0u8; 4096]);
    // SAFETY: pointers to living variables, and lengths that are theirs.
    unsafe {
        let status = bonsai_model_open_bytes(bytes.as_ptr(), bytes.len() as u64, &options, &mut model);
        assert_eq!(status, BONSAI_OK, "{:?}", CStr::from_ptr(bonsai_last_error()));
        let buffer = info.as_mut_ptr().cast();
        assert_eq!(bonsai_model_info(model, buffer, info.len() as u64, &mut length), BONSAI_OK);
    }
    info.truncate(length as usize);
    (model, String::from_utf8(info).unwrap())
}

/// The likeliest tokens after a prompt, and whether the session can be saved.
fn greedy(model: u64) -> (Vec<u32>, i32) {
    let size = size_of::<SamplingOptions>() as u32;
    let (mut session, mut id, mut ids, mut length) = (0, 0, vec![], 0);
    // SAFETY: as above; the options are filled before they are read.
    unsafe {
        let mut sampling = std::mem::zeroed();
        assert_eq!(bonsai_sampling_options_init(&mut sampling, size), BONSAI_OK);
        sampling.temperature = 0.0;
        assert_eq!(bonsai_session_new(model, null(), &mut session), BONSAI_OK);
        assert_eq!(bonsai_session_set_sampling(session, &sampling), BONSAI_OK);
        assert_eq!(bonsai_session_prompt(session, [72, 101, 108, 108, 111].as_ptr(), 5), BONSAI_OK);
        for _ in 0..8 {
            assert_eq!(bonsai_session_next(session, &mut id), BONSAI_OK);
            ids.push(id);
        }
        let saved = bonsai_session_save(session, null_mut(), 0, &mut length);
        bonsai_session_free(session);
        (ids, saved)
    }
}

#[test]
fn the_gpu_writes_what_the_processor_writes() {
    let (gpu, about) = open(BONSAI_DEVICE_GPU);
    assert!(about.contains(r#""backend":"GPU, "#), "{about}");
    let (ids, saved) = greedy(gpu);
    assert_eq!(saved, BONSAI_ERROR_UNSUPPORTED);
    let (cpu, about) = open(BONSAI_DEVICE_CPU);
    assert!(about.contains(r#""backend":"CPU, "#), "{about}");
    assert_eq!(greedy(cpu).0, ids);

    let size = size_of::<SessionOptions>() as u32;
    let options = SessionOptions { size, context: 0, threads: 0, kv: BONSAI_KV_F32, exact: 0 };
    let mut session = 0;
    // SAFETY: as above.
    assert_eq!(unsafe { bonsai_session_new(gpu, &options, &mut session) }, BONSAI_ERROR_UNSUPPORTED);
    bonsai_model_free(gpu);
    bonsai_model_free(cpu);
}

#[test]
fn the_best_device_is_one_that_says_why() {
    let (model, about) = open(BONSAI_DEVICE_AUTO);
    assert!(about.contains(r#""backend":"GPU, "#) || about.contains("not on a GPU: "), "{about}");
    assert_eq!(greedy(model).0.len(), 8);
    bonsai_model_free(model);
}
