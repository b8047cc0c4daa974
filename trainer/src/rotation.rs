//! Another basis for the residual stream, folded into the weights: the same function, weights that round better.
//!
//! An orthogonal R turns the residual stream x into x R. RMSNorm with gain 1 does not see it, so what reads the stream
//! (after its norm's gain is multiplied into it) becomes W R, and what writes to it (embedding rows, o and down)
//! becomes R^T W: QuaRot (Ashkboos et al., arXiv 2404.00456), R1 of SpinQuant (Liu et al., arXiv 2405.16406). Inside a
//! head the values may turn the same way, undone by the output projection: R2. R is a block Hadamard matrix after
//! random signs, so a few large weights of a group spread over all of it. Nothing is left to do at run time.

use bonsai_runtime::ModelFile;
use bonsai_runtime::config::{Config, Kind, TensorSpec};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::random::Random;

/// What is rotated before a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rotation {
    /// Nothing.
    #[default]
    None,
    /// The residual stream (R1). Gains become 1, and a tied head a matrix of its own.
    Residual,
    /// The values of each head, too (R1 and R2).
    Full,
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const FINAL_NORM: &str = "model.norm.weight";

impl Rotation {
    /// The shape of a model after it: the final norm's gain goes into the head, which is then no longer the embedding.
    pub fn shape(self, config: &Config) -> Config {
        Config { tied: config.tied && self == Self::None, ..config.clone() }
    }

    /// The weights of one tensor of [`Rotation::shape`]'s table, made from a file's.
    pub fn weights(self, file: &ModelFile, spec: &TensorSpec) -> Vec<f32> {
        let stored = |name: &str| file.tensors[name].to_f32();
        if self == Self::None {
            return stored(&spec.name);
        }
        // Always the same signs: a run that starts again starts from the same weights.
        let residual = signs(file.config.hidden, 1);
        let values = if self == Self::Full { signs(file.config.head_dim, 2) } else { Vec::new() };
        let after_norm =
            |w: &str, norm: &str| rotated_inputs(times_gain(stored(w), &stored(norm)), &residual);
        let Some((layer, name)) = in_layer(&spec.name) else {
            return match spec.kind {
                Kind::Norm => vec![1.0; spec.len()],
                Kind::Embedding => rotated_inputs(stored(EMBEDDING), &residual),
                _ if file.config.tied => after_norm(EMBEDDING, FINAL_NORM),
                _ => after_norm(&spec.name, FINAL_NORM),
            };
        };
        match name {
            "self_attn.q_norm" | "self_attn.k_norm" => stored(&spec.name), // inside a head, after q and k
            _ if spec.kind == Kind::Norm => vec![1.0; spec.len()],
            "self_attn.o_proj" => {
                rotated_outputs(rotated_inputs(stored(&spec.name), &values), spec.cols, &residual)
            }
            "mlp.down_proj" => rotated_outputs(stored(&spec.name), spec.cols, &residual),
            "self_attn.v_proj" => {
                let norm = format!("{layer}.input_layernorm.weight");
                rotated_outputs(after_norm(&spec.name, &norm), spec.cols, &values)
            }
            "self_attn.q_proj" | "self_attn.k_proj" => {
                after_norm(&spec.name, &format!("{layer}.input_layernorm.weight"))
            }
            _ => after_norm(&spec.name, &format!("{layer}.post_attention_layernorm.weight")),
        }
    }
}

/// `model.layers.3.mlp.up_proj.weight` as `model.layers.3` and `mlp.up_proj`.
fn in_layer(name: &str) -> Option<(&str, &str)> {
    let rest = name.strip_prefix("model.layers.")?;
    let end = name.len() - rest.len() + rest.find('.')?;
    Some((&name[..end], name[end + 1..].strip_suffix(".weight")?))
}

/// A matrix `[rows, inputs]` that reads a normed stream, with the norm's gain in its columns.
fn times_gain(mut w: Vec<f32>, gain: &[f32]) -> Vec<f32> {
    w.par_chunks_mut(gain.len()).for_each(|row| row.iter_mut().zip(gain).for_each(|(w, g)| *w *= g));
    w
}

/// Random signs, one for each of `n` coordinates.
fn signs(n: usize, stream: u64) -> Vec<f32> {
    let mut random = Random::stream(0, stream);
    (0..n).map(|_| if random.next_u64() >> 63 == 0 { 1.0 } else { -1.0 }).collect()
}

/// `W R` for a matrix of any number of rows; R turns as many neighbouring columns as there are signs.
fn rotated_inputs(mut w: Vec<f32>, signs: &[f32]) -> Vec<f32> {
    if !signs.is_empty() {
        w.par_chunks_mut(signs.len()).for_each(|row| rotate(row, 1, signs));
    }
    w
}

/// `R^T W` for a matrix of `cols` columns; R turns as many neighbouring rows as there are signs.
fn rotated_outputs(mut w: Vec<f32>, cols: usize, signs: &[f32]) -> Vec<f32> {
    if !signs.is_empty() {
        w.par_chunks_mut(signs.len() * cols).for_each(|rows| rotate(rows, cols, signs));
    }
    w
}

/// Turns coordinates that are `width` numbers each: signs, then a Hadamard matrix over blocks of the largest power of two
/// that divides their number (64 of 576), by additions and subtractions.
fn rotate(x: &mut [f32], width: usize, signs: &[f32]) {
    let block = 1 << signs.len().trailing_zeros();
    let unit = 1.0 / (block as f32).sqrt();
    for (x, sign) in x.chunks_exact_mut(width).zip(signs) {
        x.iter_mut().for_each(|x| *x *= sign * unit);
    }
    for block in x.chunks_exact_mut(block * width) {
        let mut half = width;
        while half < block.len() {
            for pair in block.chunks_exact_mut(2 * half) {
                let (a, b) = pair.split_at_mut(half);
                for (a, b) in a.iter_mut().zip(b) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_keeps_products_and_spreads_what_stands_out() {
        let mut random = Random::new(5);
        let signs = signs(24, 7); // blocks of eight
        let mut normal = || (0..24).map(|_| random.normal() as f32).collect::<Vec<f32>>();
        let (a, b) = (normal(), normal());
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let turned = |x: &[f32]| rotated_inputs(x.to_vec(), &signs);
        assert!((dot(&a, &b) - dot(&turned(&a), &turned(&b))).abs() < 1e-4);
        // As rows of a matrix of one column, the same.
        assert_eq!(rotated_outputs(a.clone(), 1, &signs), turned(&a));
        let mut one = [0.0; 24];
        one[9] = 1.0;
        let spread = turned(&one);
        assert!(spread[8..16].iter().all(|x| (x.abs() - 0.125f32.sqrt()).abs() < 1e-6), "{spread:?}");
        assert!(spread[..8].iter().chain(&spread[16..]).all(|&x| x == 0.0));
    }
}
