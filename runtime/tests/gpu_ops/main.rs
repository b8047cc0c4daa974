//! The cases of `cases.rs` on a native device. Needs an adapter; Mesa's lavapipe will do. The browser test runs them, too.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod cases;
#[path = "../support/mod.rs"]
mod support;

use bonsai_runtime::KvFormat;
use bonsai_runtime::gpu::device::{Gpu, GpuOptions};
use bonsai_runtime::gpu::ways::{Way, Ways};
use bonsai_runtime::gpu::{GpuBackend, keeps_subnormal_halves};
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

/// The other ways to compute a product of one token: their sums have another order, and each has its bits again.
#[test]
fn every_way_is_near_f64() {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let halves = gpu.block_on(keeps_subnormal_halves(&gpu)).unwrap();
    let ways = Way::all(&gpu, halves);
    assert!(ways.contains(&Way::PORTABLE));
    assert_eq!(ways.iter().any(|way| way.subgroups), gpu.adapter().subgroups.is_some());
    for way in ways {
        let ways = Ways { default: way, chosen: Vec::new() };
        let mut backends = [GpuBackend::with(&gpu, TOKENS, WIDEST, ways, KvFormat::F16).unwrap()];
        for name in ["norm_matmul_of_some_rows", "matmul_add", "norm_swiglu"] {
            let worst = gpu.block_on(async { Ok(cases::run(name, &mut backends).await) });
            println!("{}, {name}: at most {:.1e}", way.name(), worst.unwrap());
        }
    }
}
