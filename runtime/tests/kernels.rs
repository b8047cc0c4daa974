//! Kernels against their definitions: every instruction set against the scalar code to the bit, the scalar code
//! against f64.

mod support;

use bonsai_runtime::cpu::isa::Isa;
use bonsai_runtime::cpu::ternary_matmul::{Rounded, rows};
use bonsai_runtime::tensor::{Format, StoredTensor};
use bonsai_runtime::ternary::Packing;
use proptest::prelude::*;
use support::*;

/// The product `[tokens, rows]`.
fn product(isa: Isa, w: &StoredTensor, x: &[f32]) -> Vec<f32> {
    let mut rounded = Rounded::default();
    rounded.fill(isa, x, w.cols);
    let mut out = vec![0.0; w.rows * rounded.all().tokens()];
    rows(isa, &mut out, w, 0, rounded.all());
    out
}

fn same_at_every_level(w: &StoredTensor, x: &[f32]) {
    let expected = bits(&product(Isa::SCALAR, w, x));
    for isa in Isa::available() {
        assert!(bits(&product(isa, w, x)) == expected, "{} {}x{}", isa.name(), w.rows, w.cols);
    }
}

/// Any bytes at all as codes; finite scales of either sign.
fn raw(rows: usize, cols: usize, packing: Packing, mut byte: impl FnMut() -> u8) -> StoredTensor {
    let mut bytes = Vec::new();
    for _ in 0..rows * cols / packing.group() {
        let block = bytes.len();
        bytes.extend((0..packing.block_bytes()).map(|_| byte()));
        set_scale(packing, &mut bytes[block..], half::f16::from_f32((f32::from(byte()) - 100.0) / 64.0));
    }
    StoredTensor { format: Format::Ternary(packing), rows, cols, bytes: bytes.into() }
}

fn set_scale(packing: Packing, block: &mut [u8], scale: half::f16) {
    let at = if matches!(packing, Packing::Q2_0 | Packing::Q2_0G64) { 0 } else { block.len() - 2 };
    block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_codes_any_shape(
        (rows, groups, tokens) in (1usize..20, 1usize..20, 1usize..11),
        packing in prop::sample::select(&Packing::ALL[..]),
        spread in -20i32..20,
        seed: u64,
    ) {
        let mut random = Random(seed);
        let w = raw(rows, groups * packing.group(), packing, || random.bits() as u8);
        let factor = 2f32.powi(spread);
        let x: Vec<f32> = random.normals(tokens * w.cols).iter().map(|x| x * factor).collect();
        same_at_every_level(&w, &x);
    }
}

/// More tokens, rows and groups than any kernel keeps in its caches at a time.
#[test]
fn many_tokens() {
    let mut random = Random(3);
    for packing in Packing::ALL {
        let w = raw(17, 19 * packing.group(), packing, || random.bits() as u8);
        same_at_every_level(&w, &random.normals(139 * w.cols));
    }
}

/// For people, tools/emulate and ./test: which levels the tests here are about, and which one a program gets.
#[test]
fn levels() {
    let names: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
    println!("levels: {}", names.join(" "));
    println!("chosen: {}", Isa::detect().name());
}

#[test]
fn extremes() {
    for packing in Packing::ALL {
        for code in [0x00, 0x55, 0xaa, 0xff, 0xe4] {
            let w = raw(5, 3 * packing.group(), packing, || code);
            for x in [127.0, -127.0, 0.0, -0.0, 1e-38, 1e-31, f32::MAX, f32::MIN] {
                same_at_every_level(&w, &vec![x; 5 * w.cols]);
            }
            // Halves round to even: absmax 127 makes the scale 1.
            let halves: Vec<f32> =
                (0..w.cols).map(|i| if i % 32 == 0 { 127.0 } else { i as f32 - 50.5 }).collect();
            same_at_every_level(&w, &halves);
        }
    }
}

/// With scales of one everything is an integer, and the result must be exact: which activation meets which
/// weight, code 3 (weight +2) included.
#[test]
fn integers_come_out_exactly() {
    let mut random = Random(1);
    let (rows, tokens) = (7, 5);
    let shapes = [(Packing::Q2_0G64, 64), (Packing::Q2_0G64, 192)];
    for (packing, cols) in shapes.into_iter().chain(Packing::ALL.map(|packing| (packing, 512))) {
        let mut w = raw(rows, cols, packing, || random.bits() as u8);
        let mut bytes = w.bytes.to_vec();
        for block in bytes.chunks_exact_mut(packing.block_bytes()) {
            set_scale(packing, block, half::f16::ONE);
        }
        w.bytes = bytes.into();
        let mut x: Vec<f32> = (0..tokens * cols).map(|_| (random.bits() % 255) as f32 - 127.0).collect();
        x.iter_mut().step_by(32).for_each(|x| *x = 127.0);
        let dense = w.to_f32();
        let exact = x.chunks_exact(cols).flat_map(|x| {
            dense.chunks_exact(cols).map(move |w| w.iter().zip(x).map(|(w, x)| w * x).sum::<f32>())
        });
        let exact: Vec<f32> = exact.collect();
        for isa in Isa::available() {
            assert_eq!(product(isa, &w, &x), exact, "{} {}", isa.name(), packing.name());
        }
    }
}

/// Uniform rounding errors of absmax / 127 / sqrt(12) each, where the largest of 32 normal numbers is about 2.1
/// deviations: (2.1 / 127)^2 / 12 = 2.3e-5 of the energy. Twice that is the bound, half of it must be there.
#[test]
fn rounding_costs_what_it_must() {
    let mut random = Random(2);
    let (rows, cols, tokens) = (64, 1024, 8);
    let w = stored(rows, cols, &random.normals(rows * cols), Format::Ternary(Packing::Q2_0));
    let x = random.normals(tokens * cols);
    let dense = w.to_f32();
    let exact = x.chunks_exact(cols).flat_map(|x| {
        dense
            .chunks_exact(cols)
            .map(move |w| w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>())
    });
    let exact: Vec<f64> = exact.collect();
    let error = nmse(&product(Isa::detect(), &w, &x), &exact);
    assert!((1.2e-5..4.6e-5).contains(&error), "{error:e}");
}

#[test]
fn activations_that_are_not_numbers_show_in_the_result() {
    let w = raw(4, 128, Packing::Q2_0, || 0x91);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = vec![1.0; 128];
        x[77] = bad;
        for isa in Isa::available() {
            assert!(product(isa, &w, &x).iter().all(|x| x.is_nan()));
        }
    }
}
