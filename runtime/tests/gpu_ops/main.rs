//! The cases of `cases.rs` on a native device. Needs an adapter; Mesa's lavapipe will do. The browser test runs them, too.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod cases;
#[path = "../support/mod.rs"]
mod support;

use std::sync::{LazyLock, Mutex, PoisonError};

use bonsai_runtime::gpu::GpuBackend;
use bonsai_runtime::gpu::device::{Gpu, GpuOptions};
use cases::{Machines, TOKENS, WIDEST};

/// Backends that check indices and that do not, with codes read in both ways: both must give the same bits. Made once,
/// since drivers take long to compile kernels.
static MACHINES: LazyLock<Mutex<Machines>> = LazyLock::new(|| {
    let backends = [false, true].map(|checked| {
        let gpu = Gpu::open(&GpuOptions { checked, ..Default::default() }).unwrap();
        let backend = GpuBackend::new(&gpu, TOKENS, WIDEST).unwrap();
        if checked { backend.without_halves() } else { backend }
    });
    Mutex::new(Machines { backends: backends.into(), worst: 0.0 })
});

/// Runs one of the cases.
fn hold(case: impl AsyncFn(&mut Machines)) {
    let mut machines = MACHINES.lock().unwrap_or_else(PoisonError::into_inner);
    let gpu = machines.backends[0].gpu().clone();
    let held = gpu.block_on(async {
        case(&mut machines).await;
        Ok(())
    });
    held.unwrap();
}

#[test]
fn embed() {
    hold(cases::embed);
}

#[test]
fn norm_matmul() {
    hold(cases::norm_matmul);
}

#[test]
fn norm_matmul_of_some_rows() {
    hold(cases::norm_matmul_of_some_rows);
}

#[test]
fn matmul_add() {
    hold(cases::matmul_add);
}

#[test]
fn norm_swiglu() {
    hold(cases::norm_swiglu);
}

#[test]
fn attend() {
    hold(cases::attend);
}
