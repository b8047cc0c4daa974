//! Models of known shapes with random ternary weights: speed and memory are those of a trained model, text is not.
//! Anyone can measure with them without a download.

use std::collections::HashMap;

use half::f16;

use crate::config::{Config, Kind, Rope, TensorSpec};
use crate::cpu::threads::{self, Threads};
use crate::error::{Error, Result};
use crate::model_file::ModelFile;
use crate::random::Random;
use crate::tensor::{Format, StoredTensor};
use crate::ternary::{Packing, TernaryMatrix};

/// Rows with random numbers of their own, so that threads can share the work.
const PIECE: usize = 256;
/// Qwen3's vocabulary.
const VOCAB: usize = 151_936;

/// Names that [`shape`] knows: Qwen3's, and 25 M weights with a vocabulary of 4096 and with Qwen3's for browsers.
pub const SHAPES: [&str; 6] = ["0.6b", "1.7b", "4b", "8b", "25m", "25m-vocab"];

/// The shape of a Qwen3 model.
pub fn shape(name: &str) -> Result<Config> {
    let small =
        |vocab| Config { vocab, kv_heads: 4, head_dim: 64, context: 4096, ..qwen3(512, 1536, 8, 8, true) };
    match name {
        "0.6b" => Ok(qwen3(1024, 3072, 28, 16, true)),
        "1.7b" => Ok(qwen3(2048, 6144, 28, 16, true)),
        "4b" => Ok(qwen3(2560, 9728, 36, 32, true)),
        "8b" => Ok(qwen3(4096, 12_288, 36, 32, false)),
        "25m" => Ok(small(4096)),
        "25m-vocab" => Ok(small(VOCAB)),
        _ => {
            let known = SHAPES.join(", ");
            Err(Error::Argument(format!("unknown shape '{name}': expected one of {known}")))
        }
    }
}

fn qwen3(hidden: usize, intermediate: usize, layers: usize, heads: usize, tied: bool) -> Config {
    Config {
        vocab: VOCAB,
        hidden,
        intermediate,
        layers,
        heads,
        kv_heads: 8,
        head_dim: 128,
        context: 40_960,
        norm_eps: 1e-6,
        qk_norm_eps: Some(1e-6),
        rope: Rope::plain(1e6),
        tied,
        bos: None,
        eos: vec![],
    }
}

/// A model of random ternary weights without a tokenizer. The same at every call, and in every packing but for the
/// scales, of which there are as many as there are groups.
pub fn random_model(config: Config, packing: Packing) -> Result<ModelFile> {
    config.check().map_err(Error::Argument)?;
    let group = packing.group();
    if let Some(odd) = config.tensors().iter().find(|t| t.kind != Kind::Norm && t.cols % group != 0) {
        let message = format!("{} has {} columns, no multiple of {group}", odd.name, odd.cols);
        return Err(Error::Argument(message));
    }
    let tensor = |(n, spec): (usize, TensorSpec)| {
        let tensor = match spec.kind {
            Kind::Norm => StoredTensor::from_f32(1, spec.cols, &vec![1.0; spec.cols]),
            _ => random_matrix(spec.rows, spec.cols, n as u64, packing)?,
        };
        Ok((spec.name, tensor))
    };
    let specs = config.tensors().into_iter().enumerate();
    let tensors = Threads::new(None)?.run(|| specs.map(tensor).collect::<Result<HashMap<_, _>>>())?;
    let description = format!("random weights, {} tensors, {}", tensors.len(), packing.name());
    Ok(ModelFile { config, tokenizer: None, tensors, description })
}

/// A matrix of random codes 0, 1, 2, equally likely. Scales vary by a quarter round the one that keeps the length
/// of what is multiplied.
pub fn random_matrix(rows: usize, cols: usize, seed: u64, packing: Packing) -> Result<StoredTensor> {
    let no_blocks = || Error::Argument(format!("{cols} columns in groups of {}", packing.group()));
    let row_bytes = packing.row_bytes(cols).ok_or_else(no_blocks)?;
    let mut bytes = Vec::new();
    let too_large = |_| Error::Memory(format!("{} MiB for a matrix", (rows * row_bytes) >> 20));
    bytes.try_reserve_exact(rows * row_bytes).map_err(too_large)?;
    bytes.resize(rows * row_bytes, 0);
    let four_codes = four_codes();
    let mean = (1.5 / cols as f64).sqrt(); // two thirds of the weights are not zero
    threads::for_each(bytes.chunks_mut(PIECE * row_bytes).enumerate().collect(), |(piece, bytes)| {
        let mut random = Random(seed << 32 | piece as u64);
        let mut matrix = TernaryMatrix::zeros(bytes.len() / row_bytes, cols, packing.group());
        for codes in matrix.codes.chunks_mut(8) {
            for (code, byte) in codes.iter_mut().zip(random.bits().to_le_bytes()) {
                *code = four_codes[byte as usize];
            }
        }
        let scale = |_: &_| f16::from_f64(mean * (0.75 + 0.5 * random.uniform()));
        matrix.scales = matrix.scales.iter().map(scale).collect();
        let mut blocks = Vec::with_capacity(bytes.len());
        packing.encode(&matrix, &mut blocks).expect("a matrix in the groups of its packing");
        bytes.copy_from_slice(&blocks);
    });
    Ok(StoredTensor { format: Format::Ternary(packing), rows, cols, bytes: bytes.into() })
}

/// A random byte as four random codes: 256 values spread over the 81 there are.
fn four_codes() -> [u8; 256] {
    std::array::from_fn(|byte| {
        let digits = byte * 81 / 256;
        (0..4).fold(0, |codes, k| codes | ((digits / 3usize.pow(k) % 3) << (2 * k)) as u8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ternary::count_zeros;

    #[test]
    fn a_random_matrix_is_ternary_and_evenly_so() {
        let w = random_matrix(64, 1024, 3, Packing::Q2_0).unwrap();
        let ternary = Packing::Q2_0.unpack(64, 1024, &w.bytes).unwrap();
        let zeros = count_zeros(&ternary.codes) as f64 / 65_536.0;
        assert!((zeros - 1.0 / 3.0).abs() < 0.02, "{zeros}");
        let energy = w.to_f32().iter().map(|x| x * x).sum::<f32>() / 64.0;
        assert!((energy - 1.0).abs() < 0.1, "{energy}");
        assert_eq!(random_matrix(64, 1024, 3, Packing::Q2_0).unwrap(), w);
        assert_ne!(random_matrix(64, 1024, 4, Packing::Q2_0).unwrap(), w);
    }

    #[test]
    fn shapes_have_the_size_of_their_name() {
        for (name, billions) in [
            ("25m", 0.0273),
            ("25m-vocab", 0.103),
            ("0.6b", 0.596),
            ("1.7b", 1.72),
            ("4b", 4.02),
            ("8b", 8.19),
        ] {
            let found = shape(name).unwrap().parameters() as f64 / 1e9;
            assert!((found / billions - 1.0).abs() < 0.01, "{name}: {found}");
        }
        assert!(shape("7b").unwrap_err().to_string().contains("0.6b, 1.7b"));
    }
}
