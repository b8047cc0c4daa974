//! The cases of `cases.rs` on a native device. Needs an adapter; Mesa's lavapipe will do. The browser test runs them, too.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod cases;
#[path = "../support/mod.rs"]
mod support;

use bonsai_runtime::gpu::GpuBackend;
use bonsai_runtime::gpu::device::{Gpu, GpuOptions};
use cases::{NAMES, TOKENS, WIDEST};

/// Backends that check indices and that do not, with codes read in both ways: both must give the same bits.
#[test]
fn every_operation_is_near_f64() {
    let mut backends = [false, true].map(|checked| {
        let gpu = Gpu::open(&GpuOptions { checked, ..Default::default() }).unwrap();
        let backend = GpuBackend::new(&gpu, TOKENS, WIDEST).unwrap();
        if checked { backend.without_halves() } else { backend }
    });
    let gpu = backends[0].gpu().clone();
    for name in NAMES {
        println!("{name}");
        let worst = gpu.block_on(async { Ok(cases::run(name, &mut backends).await) });
        println!("{name}: at most {:.1e}", worst.unwrap());
    }
}
