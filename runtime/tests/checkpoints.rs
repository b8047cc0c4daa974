//! Hugging Face directories: both spellings of config.json, one file or shards, and what is refused.
#![allow(clippy::unwrap_used, reason = "tests")]

mod tiny;

use bonsai_runtime::checkpoint::{check_finite, config_json, parse_config};
use bonsai_runtime::config::{Config, Llama3, Rope, Scaling, Yarn};
use bonsai_runtime::{Error, ErrorCode, ModelFile};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

#[track_caller]
fn refused<T>(result: Result<T, Error>, expected: &str) {
    let error = result.err().expect("opened").to_string();
    assert!(error.contains(expected), "expected \"{expected}\" in: {error}");
}

/// A directory with the tiny model, its tensors in files by the name that `file_of` gives; F32.
fn directory(config: &Config, file_of: impl Fn(usize) -> String) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let table: Vec<_> = config
        .tensors()
        .into_iter()
        .map(|spec| (spec.name.clone(), spec.shape(), tiny::values(&spec)))
        .collect();
    let mut files: std::collections::BTreeMap<String, Vec<usize>> = Default::default();
    (0..table.len()).for_each(|n| files.entry(file_of(n)).or_default().push(n));
    let mut map = serde_json::Map::new();
    for (file, members) in files {
        let views = members.iter().map(|&n| {
            let (name, shape, values) = &table[n];
            map.insert(name.clone(), file.clone().into());
            (name, TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values)).unwrap())
        });
        std::fs::write(folder.path().join(&file), safetensors::serialize(views, None).unwrap()).unwrap();
    }
    put(&folder, "config.json", &config_json(config));
    put(&folder, "model.safetensors.index.json", &serde_json::json!({ "weight_map": map }));
    folder
}

fn put(folder: &tempfile::TempDir, file: &str, json: &serde_json::Value) {
    std::fs::write(folder.path().join(file), json.to_string()).unwrap();
}

fn single(config: &Config) -> tempfile::TempDir {
    directory(config, |_| "model.safetensors".into())
}

/// Name, number format, shape, bytes.
type Tensor = (&'static str, Dtype, Vec<usize>, Vec<u8>);

/// Writes `model.safetensors` with these tensors only.
fn put_tensors(folder: &tempfile::TempDir, tensors: &[Tensor]) {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
}

/// The tensors of the tiny model, to be changed before they are written.
fn tensors_of(config: &Config) -> Vec<Tensor> {
    let tensor = |spec: bonsai_runtime::config::TensorSpec| {
        let (shape, values) = (spec.shape(), tiny::values(&spec));
        (&*spec.name.leak(), Dtype::F32, shape, bytemuck::cast_slice(&values).to_vec())
    };
    config.tensors().into_iter().map(tensor).collect()
}

#[test]
fn a_directory_opens_whole_or_in_shards() {
    for config in [tiny::config(), Config { tied: false, qk_norm_eps: None, ..tiny::config() }] {
        for folder in [single(&config), directory(&config, |n| format!("model-{}.safetensors", n % 3))] {
            let model = ModelFile::open(folder.path()).unwrap();
            assert_eq!(model.config, config);
            for spec in config.tensors() {
                assert_eq!(model.tensors[&spec.name].to_f32(), tiny::values(&spec));
            }
            check_finite(&model, folder.path()).unwrap();
        }
    }
}

#[test]
fn halves_open_and_give_their_values() {
    let config = tiny::config();
    let folder = single(&config);
    let mut tensors = tensors_of(&config);
    for (n, (_, dtype, _, bytes)) in tensors.iter_mut().enumerate() {
        let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        let halves = |half: fn(f32) -> [u8; 2]| values.iter().flat_map(|&x| half(x)).collect();
        (*dtype, *bytes) = match n % 2 {
            0 => (Dtype::F16, halves(|x| f16::from_f32(x).to_le_bytes())),
            _ => (Dtype::BF16, halves(|x| bf16::from_f32(x).to_le_bytes())),
        };
    }
    put_tensors(&folder, &tensors);
    let model = ModelFile::open(folder.path()).unwrap();
    assert_eq!(model.description, "Hugging Face directory, qwen3, 13 tensors as BF16 and F16");
    for (n, spec) in config.tensors().into_iter().enumerate() {
        let round = |x: f32| if n % 2 == 0 { f16::from_f32(x).to_f32() } else { bf16::from_f32(x).to_f32() };
        let expected: Vec<f32> = tiny::values(&spec).into_iter().map(round).collect();
        assert_eq!(model.tensors[&spec.name].to_f32(), expected);
    }
}

#[test]
fn the_embedding_knows_the_vocabulary_better_than_the_config() {
    let folder = single(&tiny::config());
    put(&folder, "config.json", &config_json(&Config { vocab: 999, ..tiny::config() }));
    assert_eq!(ModelFile::open(folder.path()).unwrap().config.vocab, 260);
}

#[test]
fn generation_config_names_the_ends() {
    let folder = single(&Config { eos: vec![4], ..tiny::config() });
    put(
        &folder,
        "generation_config.json",
        &serde_json::json!({ "eos_token_id": [256, 4, 9], "bos_token_id": 1 }),
    );
    let config = ModelFile::open(folder.path()).unwrap().config;
    assert_eq!((config.eos, config.bos), (vec![256, 4, 9], Some(1)));
}

#[test]
fn wrong_tensors_are_refused_by_name() {
    let config = tiny::config();
    let folder = single(&config);
    let open_with = |change: &dyn Fn(&mut Vec<Tensor>)| {
        let mut tensors = tensors_of(&config);
        change(&mut tensors);
        put_tensors(&folder, &tensors);
        ModelFile::open(folder.path())
    };
    let extra =
        |name: &'static str| open_with(&|tensors| tensors.push((name, Dtype::F32, vec![1], vec![0; 4])));
    extra("lm_head.weight").unwrap();
    extra("model.layers.0.self_attn.rotary_emb.inv_freq").unwrap();
    refused(
        extra("model.layers.0.self_attn.q_proj.bias"),
        "tensor 'model.layers.0.self_attn.q_proj.bias', which",
    );
    refused(open_with(&|tensors| drop(tensors.remove(0))), "'model.embed_tokens.weight' is missing");
    refused(open_with(&|tensors| drop(tensors.pop())), "'model.norm.weight' is missing");
    let misshapen = open_with(&|tensors| tensors[2].2.reverse());
    refused(
        misshapen,
        "'model.layers.0.self_attn.q_proj.weight' has shape [64, 128], but config.json asks for [128, 64]",
    );
    let foreign =
        open_with(&|tensors| tensors[2] = (tensors[2].0, Dtype::I8, vec![128, 64], vec![0; 128 * 64]));
    refused(foreign, "has number format I8");
    put(&folder, "config.json", &config_json(&Config { layers: 1 << 24, ..tiny::config() }));
    refused(open_with(&|_| ()), "num_hidden_layers is 16777216, but there are 13 tensors");
}

#[test]
fn numbers_that_are_none_are_found() {
    let config = tiny::config();
    for (value, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let folder = single(&config);
        let mut tensors = tensors_of(&config);
        tensors[2].3[4 * (3 * 64 + 5)..][..4].copy_from_slice(&value.to_le_bytes());
        put_tensors(&folder, &tensors);
        let model = ModelFile::open(folder.path()).unwrap();
        let expected =
            format!("tensor 'model.layers.0.self_attn.q_proj.weight' has {name} in row 3, column 5");
        refused(check_finite(&model, folder.path()), &expected);
    }
}

#[test]
fn shards_do_not_leave_their_directory() {
    for file in ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "C:\\x"] {
        let folder = directory(&tiny::config(), |n| format!("model-{}.safetensors", n % 2));
        put(
            &folder,
            "model.safetensors.index.json",
            &serde_json::json!({ "weight_map": { "model.norm.weight": file } }),
        );
        refused(ModelFile::open(folder.path()), &format!("shard '{file}' is not a file name"));
    }
    let folder = directory(&tiny::config(), |n| format!("model-{}.safetensors", n % 2));
    let map = serde_json::json!({ "weight_map": { "model.nothing": "model-0.safetensors" } });
    put(&folder, "model.safetensors.index.json", &map);
    refused(ModelFile::open(folder.path()), "tensor 'model.nothing' is missing, though the index lists it");
    std::fs::remove_file(folder.path().join("model-0.safetensors")).unwrap();
    assert_eq!(ModelFile::open(folder.path()).err().unwrap().code(), ErrorCode::Io);
}

#[test]
fn a_checkpoint_cut_or_changed_in_its_header_is_refused_or_opens() {
    let folder = single(&tiny::config());
    let path = folder.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    for length in (0..header).chain((header..whole.len()).step_by(997)) {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(ModelFile::open(folder.path()).is_err(), "opened with {length} bytes");
    }
    for at in 0..header {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        let _ = ModelFile::open(folder.path());
    }
}

// ---- config.json

/// Qwen3-8B's config as transformers 4 wrote it, shortened, with changes.
fn v4(changes: serde_json::Value) -> Result<Config, String> {
    let mut json = serde_json::json!({
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 12288,
        "max_position_embeddings": 40960, "max_window_layers": 36, "model_type": "qwen3",
        "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.51.0",
        "use_cache": true, "use_sliding_window": false, "vocab_size": 151936
    });
    for (key, value) in changes.as_object().unwrap() {
        json[key] = value.clone();
    }
    parse_config(&json.to_string())
}

#[test]
fn both_spellings_mean_the_same() {
    let plain = v4(serde_json::json!({})).unwrap();
    assert_eq!((plain.rope, plain.qk_norm_eps), (Rope::plain(1e6), Some(1e-6)));
    assert_eq!((plain.bos, plain.eos.clone()), (Some(151_643), vec![151_645]));
    let v5 = serde_json::json!({
        "rope_theta": null, "rope_parameters": { "rope_theta": 1e6, "rope_type": "default" }, "dtype": "bfloat16"
    });
    assert_eq!(v4(v5).unwrap(), plain);
    let yarn = Some(Scaling::Yarn(Yarn { factor: 4.0, original_context: 16384 }));
    let scaling = serde_json::json!({
        "rope_type": "yarn", "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16384,
        "attention_factor": 1.1386294, "beta_fast": 32, "beta_slow": 1.0
    });
    let mut parameters = scaling.clone();
    parameters["rope_theta"] = 1e6.into();
    let old = v4(serde_json::json!({ "rope_scaling": scaling })).unwrap();
    let new = v4(serde_json::json!({ "rope_theta": null, "rope_parameters": parameters })).unwrap();
    assert_eq!(old.rope, Rope { theta: 1e6, scaling: yarn });
    assert_eq!(new, old);
    assert_eq!(parse_config(&config_json(&old).to_string()).unwrap(), old);
}

#[test]
fn every_way_to_stretch_the_rotary_embedding_comes_back() {
    use serde_json::json;
    let plain = v4(json!({})).unwrap();
    let scaled = |scaling| Rope { theta: 1e6, scaling: Some(scaling) };
    let llama3 = Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
    for (json, rope) in [
        (json!({ "type": "linear", "factor": 1.0 }), plain.rope),
        (json!({ "type": "linear", "factor": 2.5 }), scaled(Scaling::Linear(2.5))),
        (
            json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192 }),
            scaled(Scaling::Llama3(llama3)),
        ),
    ] {
        let config = v4(json!({ "rope_scaling": json })).unwrap();
        assert_eq!(config, Config { rope, ..plain.clone() });
        assert_eq!(parse_config(&config_json(&config).to_string()).unwrap(), config);
    }
}

#[test]
fn missing_fields_have_the_defaults_of_transformers() {
    let config =
        v4(serde_json::json!({ "head_dim": null, "num_key_value_heads": null, "rope_theta": null })).unwrap();
    assert_eq!((config.head_dim, config.kv_heads, config.rope.theta), (128, 32, 1e4));
    let config = v4(serde_json::json!({ "eos_token_id": [1, 2], "qk_norm_eps": 1e6 })).unwrap();
    assert_eq!((config.eos.clone(), config.qk_norm_eps), (vec![1, 2], Some(1e6)));
    assert_eq!(parse_config(&config_json(&config).to_string()).unwrap(), config);
    let llama = v4(serde_json::json!({ "model_type": "llama" })).unwrap();
    assert_eq!(llama.qk_norm_eps, None);
    assert_eq!(config_json(&llama)["architectures"][0], "LlamaForCausalLM");
    // A window that is switched off is none.
    v4(serde_json::json!({ "sliding_window": 4096, "use_sliding_window": false })).unwrap();
}

#[test]
fn configs_of_other_networks_are_refused_by_name() {
    use serde_json::json;
    for (change, expected) in [
        (json!({ "model_type": "qwen3_moe" }), "not supported: model_type 'qwen3_moe'"),
        (json!({ "hidden_act": "gelu" }), "hidden_act 'gelu'"),
        (json!({ "attention_bias": true }), "attention_bias"),
        (json!({ "mlp_bias": true }), "mlp_bias"),
        (json!({ "sliding_window": 4096, "use_sliding_window": true }), "a sliding window of 4096"),
        (
            json!({ "layer_types": ["full_attention", "sliding_attention"] }),
            "layers of type 'sliding_attention'",
        ),
        (json!({ "quantization": { "bits": 2 } }), "packed weights"),
        (json!({ "rope_scaling": { "rope_type": "dynamic", "factor": 8.0 } }), "rope_type 'dynamic'"),
        (json!({ "rope_scaling": { "rope_type": "linear" } }), "the factor of linear is missing"),
        (
            json!({ "rope_scaling": { "rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0 } }),
            "the low_freq_factor of llama3 is missing",
        ),
        (
            json!({ "rope_scaling": { "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0 } }),
            "scaling is not a sensible number",
        ),
        (json!({ "rope_scaling": { "type": "yarn" } }), "the factor of yarn is missing"),
        (json!({ "rope_scaling": { "type": "yarn", "factor": 4.0, "beta_fast": 16 } }), "beta_fast 16"),
        (
            json!({ "rope_scaling": { "type": "yarn", "factor": 4.0, "attention_factor": 1.0 } }),
            "attention_factor 1",
        ),
        (json!({ "hidden_size": "big" }), "invalid type: string \"big\", expected usize"),
        (json!({ "hidden_size": -1 }), "expected usize"),
        (json!({ "num_attention_heads": 0, "head_dim": null }), "num_attention_heads is 0"),
        (json!({ "vocab_size": 0 }), "vocab is 0"),
    ] {
        let error = v4(change).unwrap_err();
        assert!(error.contains(expected), "expected \"{expected}\" in: {error}");
    }
    assert!(parse_config("{").is_err() && parse_config("[]").unwrap_err().contains("model_type '(none)'"));
}
