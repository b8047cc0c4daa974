//! What processors and engines are like.
//!
//! Threads of the build with shared memory. Rust cannot start any here: JavaScript does, one module instance each on the
//! same memory.

use std::sync::OnceLock;

use bonsai_runtime::cpu::threads::Threads;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::error::{Result, argument};
use bonsai_runtime::{Error, verify};

/// What the threads do.
static WORK: OnceLock<Box<dyn Fn() + Send + Sync>> = OnceLock::new();

/// Makes all sessions compute on `count` threads, the caller's included. The others have to call [`serve`]; nobody waits
/// for those that have not. To be called once, before the first session.
#[wasm_bindgen]
pub fn threads(count: usize) -> Result<()> {
    if cfg!(not(target_feature = "atomics")) {
        return Err(argument("this build has one thread"));
    }
    let work =
        Threads::of_the_host(count).ok_or_else(|| argument("too late to change the number of threads"))?;
    let _ = WORK.set(Box::new(work)); // it is empty: of_the_host() gives one only
    Ok(())
}

/// Works for the thread that called [`threads`], and does not return.
#[wasm_bindgen]
pub fn serve() {
    WORK.get().into_iter().for_each(|work| work());
}

/// Compares this build's kernels with the plain code: throws where the engine gets an instruction wrong, as the quick
/// compiler of Node 20 does with relaxed products.
#[wasm_bindgen(js_name = selfTest)]
pub fn self_test() -> Result<()> {
    match verify::self_test()? {
        Some(difference) => Err(Error::Check(difference).into()),
        None => Ok(()),
    }
}
