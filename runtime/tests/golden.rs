//! Bytes that the reference implementation of llama.cpp produced, and real checkpoints where they are at hand.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use bonsai_runtime::ModelFile;
use bonsai_runtime::checkpoint::check_finite;
use bonsai_runtime::ternary::{Packing, TernaryMatrix};
use half::f16;

const SCALE: f32 = 0.03125;

/// From compiled llama.cpp (mainline): 256 trits times 0.03125 as Q2_0, four blocks.
const Q2_0_G64: &str = "002859208482a904125821a94289268981020028a806529851251419a665111452656191002806a619101a5a\
                        0595066119008a05686a0028516a41a9269199164a88888648555658";
/// The same in two blocks of 128.
const Q2_0_G128: &str = "002859208482a904125821a9428926898102a806529851251419a665111452656191002806a619101a5a0595\
                         066119008a05686a516a41a9269199164a88888648555658";

/// TQ1_0 and TQ2_0 from compiled llama.cpp, too; PTQ1_0 has the same code for a byte, in PrismML's order.
const TQ2_0: &str = "8562a9a164588a48680150160668502a99065a525459a04846109148582251819a85105026a12a96158a0590906021\
                     a02a9a21485646516191695864299959460028";
const TQ1_0: &str = "7bc2a86f3547ec3f51580ed1c8500ef7a1caf2b82c9d1b3ecc0b663d47bf645ef69410448832c16862ec922f4b515\
                     03230d72a7f0028";
const PTQ1_0: &str = "82e9aa910f37be1a52561ebcbb4e1edd6e26896a7d9ce00b9b230028fe9f1e08f394ddd27de1660524257b3fdbaa\
                      c84a963473c6cb880028";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hexadecimal digits"))
        .collect()
}

/// The trits of the golden vectors.
fn trits() -> Vec<i8> {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 16) % 3) as i8 - 1
    };
    (0..256).map(next).collect()
}

fn matrix(group: usize) -> TernaryMatrix {
    let mut matrix = TernaryMatrix::zeros(1, 256, group);
    matrix.scales.fill(f16::from_f32(SCALE));
    matrix.codes.fill(0);
    for (i, t) in trits().into_iter().enumerate() {
        matrix.codes[i / 4] |= ((t + 1) as u8) << (2 * (i % 4));
    }
    matrix
}

const GOLDEN: [(Packing, &str); 5] = [
    (Packing::Q2_0G64, Q2_0_G64),
    (Packing::Q2_0, Q2_0_G128),
    (Packing::Tq2_0, TQ2_0),
    (Packing::Ptq1_0, PTQ1_0),
    (Packing::Tq1_0, TQ1_0),
];

#[test]
fn packs_as_llama_cpp_does() {
    for (packing, golden) in GOLDEN {
        for from in [64, 128, 256] {
            let mut blocks = Vec::new();
            packing.encode(&matrix(from), &mut blocks).unwrap();
            assert_eq!(blocks, bytes(golden), "groups of {from} as {}", packing.name());
        }
        assert_eq!(packing.unpack(1, 256, &bytes(golden)).unwrap(), matrix(packing.group()));
    }
}

#[test]
fn decodes_to_the_weights() {
    let expected: Vec<f32> = trits().into_iter().map(|t| f32::from(t) * SCALE).collect();
    for (packing, golden) in GOLDEN {
        let mut values = vec![f32::NAN; 256];
        packing.decode(&bytes(golden), &mut values);
        assert_eq!(values, expected, "{}", packing.name());
    }
}

#[test]
fn the_generator_is_the_one_of_the_golden_vectors() {
    let text: String = trits()[..32].iter().map(|t| ["-", "0", "+"][(t + 1) as usize]).collect();
    assert_eq!(text, "0+00--+--0-++--+0+++-0--+-0--+00");
}

/// Checkpoints beside the workspace; they are too large for the repository, so the test passes without.
fn beside(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(name);
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
    }
    path.exists().then_some(path)
}

#[test]
fn a_llama_and_a_qwen3_checkpoint_open() {
    for (name, tensors, qk_norm_eps) in [("hf_llama", 47, None), ("hf_qwen3", 57, Some(1e6))] {
        let Some(path) = beside(&format!("models/{name}")) else { continue };
        let model = ModelFile::open(&path).unwrap();
        assert_eq!((model.config.vocab, model.config.hidden, model.config.head_dim), (512, 64, 8));
        assert_eq!((model.config.bos, &model.config.eos[..]), (Some(1), &[2][..]));
        assert_eq!((model.config.norm_eps, model.config.qk_norm_eps), (1e-5, qk_norm_eps));
        assert_eq!(model.config.rope.theta, 10_000.0);
        assert!(model.config.tied && model.tensors.len() == tensors);
        assert!(model.description.contains("as F32"), "{}", model.description);
        check_finite(&model, &path).unwrap();
    }
}

#[test]
fn the_checkpoints_of_the_oracle_open() {
    for (name, tied) in [("tied", true), ("untied", false)] {
        let Some(path) = beside(&format!("oracle/{name}")) else { continue };
        let model = ModelFile::open(&path).unwrap();
        assert_eq!(model.config.tied, tied);
        assert_eq!(model.config.tensors().len(), model.tensors.len());
        let v4 = std::fs::read_to_string(path.join("config_v4_style.json")).unwrap();
        assert_eq!(bonsai_runtime::checkpoint::parse_config(&v4).unwrap(), model.config);
    }
}
