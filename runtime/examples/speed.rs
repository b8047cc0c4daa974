//! temporary
use bonsai_runtime::cpu::isa::Isa;
use bonsai_runtime::cpu::ternary_matmul::{Rounded, rows};
use bonsai_runtime::random_model::random_matrix;
use bonsai_runtime::ternary::Packing;
use std::time::Instant;
fn main() {
    for packing in Packing::ALL {
        let w = random_matrix(1024, 1024, 1, packing).unwrap();
        for tokens in [1usize, 128] {
            let x: Vec<f32> = (0..tokens * 1024).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
            let isa = Isa::detect();
            let (mut r, mut out) = (Rounded::default(), vec![0.0; 1024 * tokens]);
            r.fill(isa, &x, 1024);
            let mut best = f64::MAX;
            for _ in 0..if tokens == 1 { 3000 } else { 60 } {
                let t = Instant::now();
                rows(isa, &mut out, &w, 0, &r);
                best = best.min(t.elapsed().as_secs_f64());
            }
            println!(
                "{} {tokens}: {:.2} GB/s {:.1} GMAC/s",
                packing.name(),
                w.bytes.len() as f64 / best / 1e9,
                (1024 * 1024 * tokens) as f64 / best / 1e9
            );
        }
    }
}
