//! The rotary embedding, both ways: keys for linear scaling and YaRN, a tensor for Llama 3's scaling.

use std::io::Write;

use super::export::exact;
use super::keys::Keys;
use super::layout::TensorType;
use super::value::Value;
use super::write::NewTensor;
use crate::config::{Config, Llama3, Rope, Scaling, Yarn};
use crate::error::{Error, Result};

/// What llama.cpp divides the frequencies of a `llama` model by, `[head_dim / 2]`. Qwen3 does not use it.
pub(super) const FACTORS: &str = "rope_freqs.weight";

/// llama.cpp's reading of the keys: no type means linear, no factor means 1. `factors` is the tensor of that name.
pub(super) fn read(keys: &Keys, context: usize, head_dim: usize, factors: Option<Vec<f32>>) -> Result<Rope> {
    let rope = Rope {
        theta: f64::from(keys.f32("rope.freq_base")?.unwrap_or(10_000.0)),
        scaling: read_scaling(keys, context)?,
    };
    let Some(factors) = factors else { return Ok(rope) };
    if factors.len() != head_dim / 2 {
        let (found, expected) = (factors.len(), head_dim / 2);
        return Err(keys.metadata.error(format!("'{FACTORS}' has {found} numbers, expected {expected}")));
    }
    if let Some(scaling) = rope.scaling {
        return Err(Error::Unsupported(format!("{scaling} beside a table of factors ('{FACTORS}')")));
    }
    llama3_of(&factors, rope, head_dim)
}

fn read_scaling(keys: &Keys, context: usize) -> Result<Option<Scaling>> {
    let scaling = keys.str("rope.scaling.type")?.unwrap_or("linear");
    let factor = match keys.f32("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.f32("rope.scale_linear")?,
    };
    match (scaling, factor) {
        ("none", _) | ("linear", None | Some(0.0 | 1.0)) => Ok(None),
        ("linear", Some(factor)) => Ok(Some(Scaling::Linear(factor.into()))),
        ("yarn", factor) => {
            let factor = keys.required("rope.scaling.factor", factor)?;
            // Other programs disagree about these keys, so only the values that all agree on pass.
            keys.neutral("rope.scaling.attn_factor", 1.0)?;
            keys.neutral("rope.scaling.yarn_ext_factor", 1.0)?;
            keys.neutral("rope.scaling.yarn_attn_factor", 1.0)?;
            keys.neutral("rope.scaling.yarn_beta_fast", 32.0)?;
            keys.neutral("rope.scaling.yarn_beta_slow", 1.0)?;
            let original_context = keys.optional("rope.scaling.original_context_length")?.unwrap_or(context);
            Ok(Some(Scaling::Yarn(Yarn { factor: factor.into(), original_context })))
        }
        (other, _) => Err(Error::Unsupported(format!("RoPE scaling '{other}': only linear and yarn are"))),
    }
}

/// A table says how far each frequency is divided, but not by which rule. All models that are known to have one have these
/// bounds, and whether it is theirs can be seen.
fn llama3_of(factors: &[f32], rope: Rope, head_dim: usize) -> Result<Rope> {
    let factor = factors.iter().copied().fold(1.0, f32::max);
    if factors.iter().all(|&f| f == 1.0) {
        return Ok(rope);
    }
    let llama3 =
        Llama3 { factor: factor.into(), low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
    let expected = divisors(llama3, rope.theta, head_dim);
    // Converters compute in f32.
    let near = |(found, expected): (&f32, &f32)| (found / expected - 1.0).abs() < 1e-4;
    if factors.iter().zip(&expected).all(near) {
        return Ok(Rope { scaling: Some(Scaling::Llama3(llama3)), ..rope });
    }
    Err(Error::Unsupported(format!("RoPE scaling by a table ('{FACTORS}') that is not that of Llama 3")))
}

fn divisors(llama3: Llama3, theta: f64, head_dim: usize) -> Vec<f32> {
    let (plain, _) = Rope::plain(theta).frequencies(head_dim);
    plain.into_iter().map(|f| llama3.divisor(f) as f32).collect()
}

/// The keys of a model's embedding.
pub(super) fn write_keys(rope: Rope, add: &mut impl FnMut(&str, Value)) -> Result<()> {
    add("rope.freq_base", Value::F32(exact(rope.theta, "RoPE base")?));
    match rope.scaling {
        None | Some(Scaling::Llama3(_)) => {}
        Some(Scaling::Linear(factor)) => {
            add("rope.scaling.type", "linear".into());
            add("rope.scaling.factor", Value::F32(exact(factor, "RoPE factor")?));
        }
        Some(Scaling::Yarn(yarn)) => {
            let original = u32::try_from(yarn.original_context).map_err(|_| {
                Error::Argument(format!("a context of {} before YaRN", yarn.original_context))
            })?;
            add("rope.scaling.type", "yarn".into());
            add("rope.scaling.factor", Value::F32(exact(yarn.factor, "YaRN factor")?));
            add("rope.scaling.original_context_length", Value::U32(original));
        }
    }
    Ok(())
}

/// The tensor beside them, if there is one.
pub(super) fn factors(config: &Config) -> Result<Option<NewTensor<'static>>> {
    let Some(Scaling::Llama3(llama3)) = config.rope.scaling else { return Ok(None) };
    if config.qk_norm_eps.is_some() {
        return Err(Error::Unsupported(
            "Llama 3's RoPE scaling in a GGUF file of a model with a q/k norm: llama.cpp has it for llama only".into(),
        ));
    }
    let factors = divisors(llama3, config.rope.theta, config.head_dim);
    if llama3_of(&factors, Rope::plain(config.rope.theta), config.head_dim).ok() != Some(config.rope) {
        return Err(Error::Unsupported(format!(
            "Llama 3's RoPE scaling with the numbers {llama3:?} in a GGUF file: it holds a table, which tells only the \
             usual ones"
        )));
    }
    let source = move |out: &mut dyn Write| factors.iter().try_for_each(|f| out.write_all(&f.to_le_bytes()));
    let ne = vec![config.head_dim / 2];
    Ok(Some(NewTensor { name: FACTORS.into(), ne, kind: TensorType::F32, source: Box::new(source) }))
}
