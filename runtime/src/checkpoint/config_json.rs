//! config.json, in the spelling of transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and of 5
//! (`rope_parameters`, `dtype`). What changes the network and is not built here is refused by name.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::{Config, Llama3, Rope, Scaling, Yarn};
use crate::error::Error;

/// Why a config is not used.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It is not a sound config.
    Format(String),
    /// It is one of something else.
    Unsupported(String),
}

impl Refusal {
    pub fn about(self, path: &Path) -> Error {
        match self {
            Self::Format(message) => Error::format(path, message),
            Self::Unsupported(message) => Error::Unsupported(message),
        }
    }
}

/// A config that says what it is called.
#[derive(Debug)]
pub(super) struct Parsed {
    pub config: Config,
    /// "qwen3" or "llama".
    pub model_type: String,
}

#[derive(Deserialize)]
struct Fields {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    #[serde(default)]
    vocab_size: usize,
    #[serde(default = "default_eps")]
    rms_norm_eps: f64,
    qk_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeFields>,
    rope_parameters: Option<RopeFields>,
    #[serde(default)]
    tie_word_embeddings: bool,
    bos_token_id: Option<u32>,
    eos_token_id: Option<Ids>,
    // What must have its usual value.
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    use_sliding_window: Option<bool>,
    sliding_window: Option<u64>,
    layer_types: Option<Vec<String>>,
    quantization: Option<Value>,
    quantization_config: Option<Value>,
}

fn default_eps() -> f64 {
    1e-6
}

/// One id or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    fn list(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

/// `rope_scaling` or `rope_parameters`.
#[derive(Deserialize)]
struct RopeFields {
    rope_type: Option<String>,
    /// The older name of `rope_type`; files have either or both.
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    truncate: Option<bool>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    partial_rotary_factor: Option<f64>,
}

/// Reads a config.json.
pub fn parse_config(json: &str) -> Result<Config, String> {
    let message = |refusal| match refusal {
        Refusal::Format(message) => message,
        Refusal::Unsupported(message) => format!("not supported: {message}"),
    };
    let config = parse(json).map_err(message)?.config;
    config.check()?;
    Ok(config)
}

/// Reads a config.json. The caller may know the vocabulary better, and checks the sizes after that.
pub(super) fn parse(json: &str) -> Result<Parsed, Refusal> {
    // The model type first: the config of something else need not have our fields.
    let value: Value = serde_json::from_str(json).map_err(|e| Refusal::Format(e.to_string()))?;
    let model_type = value.get("model_type").and_then(Value::as_str).unwrap_or("(none)").to_string();
    if !["qwen3", "llama"].contains(&model_type.as_str()) {
        return Err(Refusal::Unsupported(format!("model_type '{model_type}': only qwen3 and llama are")));
    }
    let fields: Fields = serde_json::from_value(value).map_err(|e| Refusal::Format(e.to_string()))?;
    refuse_features(&fields)?;
    let rope = rope(&fields)?;
    let norm_eps = fields.rms_norm_eps as f32;
    let qk_norm_eps = fields.qk_norm_eps.map_or(norm_eps, |eps| eps as f32);
    let head_dim = match fields.head_dim {
        Some(head_dim) => head_dim,
        None => fields
            .hidden_size
            .checked_div(fields.num_attention_heads)
            .ok_or_else(|| Refusal::Format("num_attention_heads is 0, expected at least 1".into()))?,
    };
    let config = Config {
        vocab: fields.vocab_size,
        hidden: fields.hidden_size,
        intermediate: fields.intermediate_size,
        layers: fields.num_hidden_layers,
        heads: fields.num_attention_heads,
        kv_heads: fields.num_key_value_heads.unwrap_or(fields.num_attention_heads),
        head_dim,
        context: fields.max_position_embeddings,
        norm_eps,
        qk_norm_eps: (model_type == "qwen3").then_some(qk_norm_eps),
        rope,
        tied: fields.tie_word_embeddings,
        bos: fields.bos_token_id,
        eos: fields.eos_token_id.map(Ids::list).unwrap_or_default(),
    };
    Ok(Parsed { config, model_type: fields.model_type })
}

/// Refuses what would load and then run wrongly.
fn refuse_features(fields: &Fields) -> Result<(), Refusal> {
    let refuse = |what: String| Err(Refusal::Unsupported(format!("config.json with {what}")));
    if let Some(act) = fields.hidden_act.as_deref().filter(|act| !["silu", "swish"].contains(act)) {
        return refuse(format!("hidden_act '{act}': only silu is"));
    }
    if fields.attention_bias == Some(true) || fields.mlp_bias == Some(true) {
        return refuse("attention_bias or mlp_bias: layers here have no bias".into());
    }
    // Qwen3 configs may carry a window that is switched off.
    let window = fields.sliding_window.filter(|_| fields.use_sliding_window == Some(true));
    let other_layer = fields.layer_types.iter().flatten().find(|kind| *kind != "full_attention");
    if let Some(window) = window {
        return refuse(format!("a sliding window of {window}: only full attention is"));
    }
    if let Some(kind) = other_layer {
        return refuse(format!("layers of type '{kind}': only full_attention is"));
    }
    if fields.quantization.is_some() || fields.quantization_config.is_some() {
        return refuse("packed weights (quantization): use the unpacked checkpoint".into());
    }
    Ok(())
}

/// The embedding's base and extension, wherever they are written.
fn rope(fields: &Fields) -> Result<Rope, Refusal> {
    let parameters = fields.rope_parameters.as_ref().or(fields.rope_scaling.as_ref());
    let nested = fields.rope_parameters.as_ref().and_then(|p| p.rope_theta);
    let theta = nested.or(fields.rope_theta).unwrap_or(10_000.0);
    let Some(parameters) = parameters else { return Ok(Rope::plain(theta)) };
    if let Some(part) = parameters.partial_rotary_factor.filter(|part| *part != 1.0) {
        return Err(Refusal::Unsupported(format!(
            "config.json with partial_rotary_factor {part}: only 1 is"
        )));
    }
    let context = fields.max_position_embeddings;
    let scaling =
        match parameters.rope_type.as_deref().or(parameters.old_type.as_deref()).unwrap_or("default") {
            "default" => None,
            "linear" => Some(Scaling::Linear(number("factor", parameters.factor, "linear")?))
                .filter(|s| *s != Scaling::Linear(1.0)),
            "yarn" => Some(Scaling::Yarn(yarn(parameters, context)?)),
            "llama3" => Some(Scaling::Llama3(llama3(parameters, context)?)),
            other => {
                return Err(Refusal::Unsupported(format!(
                    "config.json with rope_type '{other}': only linear, yarn and llama3 are"
                )));
            }
        };
    Ok(Rope { theta, scaling })
}

/// A number that a rope_type cannot do without.
fn number(key: &str, value: Option<f64>, rope_type: &str) -> Result<f64, Refusal> {
    value.ok_or_else(|| Refusal::Format(format!("the {key} of {rope_type} is missing")))
}

fn yarn(fields: &RopeFields, context: usize) -> Result<Yarn, Refusal> {
    let factor = number("factor", fields.factor, "yarn")?;
    let usual_attention = 0.1 * libm::log(factor) + 1.0;
    let usual = [
        ("attention_factor", fields.attention_factor, usual_attention),
        ("beta_fast", fields.beta_fast, 32.0),
        ("beta_slow", fields.beta_slow, 1.0),
        // mscale alone changes nothing; beside mscale_all_dim it does.
        ("mscale", fields.mscale, 1.0),
        ("mscale_all_dim", fields.mscale_all_dim, 0.0),
        ("truncate", fields.truncate.map(f64::from), 1.0),
    ];
    for (key, found, usual) in usual {
        // Files round these numbers to six digits or more.
        if let Some(x) = found.filter(|x| (x - usual).abs() > 1e-5) {
            return Err(Refusal::Unsupported(format!("config.json with {key} {x} in yarn: only {usual} is")));
        }
    }
    let original_context = fields.original_max_position_embeddings.unwrap_or(context);
    Ok(Yarn { factor, original_context })
}

fn llama3(fields: &RopeFields, context: usize) -> Result<Llama3, Refusal> {
    let number = |key, value| number(key, value, "llama3");
    Ok(Llama3 {
        factor: number("factor", fields.factor)?,
        low_freq_factor: number("low_freq_factor", fields.low_freq_factor)?,
        high_freq_factor: number("high_freq_factor", fields.high_freq_factor)?,
        original_context: fields.original_max_position_embeddings.unwrap_or(context),
    })
}

/// Takes over the special tokens of generation_config.json: its ends come first, those of config.json follow.
pub(super) fn merge_generation(json: &str, config: &mut Config) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Generation {
        bos_token_id: Option<u32>,
        eos_token_id: Option<Ids>,
    }
    let generation: Generation = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let mut ends = generation.eos_token_id.map(Ids::list).unwrap_or_default();
    ends.extend(&config.eos);
    config.eos.clear();
    for id in ends {
        if !config.eos.contains(&id) {
            config.eos.push(id);
        }
    }
    config.bos = config.bos.or(generation.bos_token_id);
    Ok(())
}

/// A config.json that transformers 4 and 5 load as Qwen3ForCausalLM, or as LlamaForCausalLM without a q/k norm.
pub fn config_json(config: &Config) -> Value {
    let (class, model_type) = if config.qk_norm_eps.is_some() {
        ("Qwen3ForCausalLM", "qwen3")
    } else {
        ("LlamaForCausalLM", "llama")
    };
    let eos = match config.eos[..] {
        [] => Value::Null,
        [one] => json!(one),
        _ => json!(config.eos),
    };
    let theta = config.rope.theta;
    let mut json = json!({
        "architectures": [class],
        "model_type": model_type,
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": config.bos,
        "eos_token_id": eos,
        "dtype": "float32",
        "torch_dtype": "float32",
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate,
        "max_position_embeddings": config.context,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "rms_norm_eps": shortest(config.norm_eps),
        "rope_theta": theta,
        "rope_scaling": Value::Null,
        "rope_parameters": { "rope_theta": theta, "rope_type": "default" },
        "tie_word_embeddings": config.tied,
        "use_cache": true,
        "vocab_size": config.vocab,
    });
    if let Some(scaling) = config.rope.scaling {
        let scaling = scaling_json(scaling);
        json["rope_parameters"] = scaling.clone();
        json["rope_parameters"]["rope_theta"] = json!(theta);
        json["rope_scaling"] = scaling;
    }
    match config.qk_norm_eps {
        Some(eps) => {
            json["sliding_window"] = Value::Null;
            json["use_sliding_window"] = json!(false);
            if eps != config.norm_eps {
                json["qk_norm_eps"] = json!(shortest(eps));
            }
        }
        None => json["mlp_bias"] = json!(false),
    }
    json
}

fn scaling_json(scaling: Scaling) -> Value {
    match scaling {
        Scaling::Linear(factor) => json!({ "rope_type": "linear", "factor": factor }),
        Scaling::Yarn(Yarn { factor, original_context }) => json!({
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original_context,
        }),
        Scaling::Llama3(llama3) => json!({
            "rope_type": "llama3",
            "factor": llama3.factor,
            "low_freq_factor": llama3.low_freq_factor,
            "high_freq_factor": llama3.high_freq_factor,
            "original_max_position_embeddings": llama3.original_context,
        }),
    }
}

/// The f32 as people write it: 1e-6, not 9.999999974752427e-7. Reads back as the same f32.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}
