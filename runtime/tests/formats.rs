//! What goes into a file comes out of it, whoever wrote the file.
#![allow(clippy::unwrap_used, reason = "tests")]

mod law;
mod tiny;

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::Path;

use bonsai_runtime::checkpoint::{config_json, parse_config};
use bonsai_runtime::config::{Config, Llama3, Rope, Scaling, Yarn};
use bonsai_runtime::gguf::{
    Array, Evidence, Gguf, ModelTensor, NewTensor, PackedFormat, TensorType, Value, write, write_model,
};
use bonsai_runtime::ternary::{Packing, ScaleRule, TernaryMatrix};
use bonsai_runtime::tokenizer::Tokenizer;
use bonsai_runtime::{Error, ModelFile};
use proptest::prelude::*;

fn open(bytes: Vec<u8>) -> Result<ModelFile, Error> {
    ModelFile::from_bytes(&bytes.into(), Path::new("tiny.gguf"))
}

fn container(bytes: Vec<u8>) -> Result<Gguf, Error> {
    Gguf::from_bytes(bytes.into(), Path::new("tiny.gguf"))
}

#[track_caller]
fn refused<T>(result: Result<T, Error>, expected: &str) {
    let error = result.err().expect("opened").to_string();
    assert!(error.contains(expected), "expected \"{expected}\" in: {error}");
}

// ---- GGUF models

#[test]
fn a_model_written_in_each_format_opens_as_the_same() {
    let yarn = Some(Scaling::Yarn(Yarn { factor: 4.0, original_context: 24 }));
    let untied = Config {
        tied: false,
        bos: Some(7),
        eos: vec![256, 255, 3],
        rope: Rope { theta: 5e6, scaling: yarn },
        kv_heads: 4,
        ..tiny::wide()
    };
    let wider = Config { hidden: 256, intermediate: 256, heads: 8, head_dim: 32, ..tiny::wide() };
    for config in [tiny::wide(), untied, wider] {
        for format in PackedFormat::ALL {
            if !config.hidden.is_multiple_of(format.packing().group()) {
                continue;
            }
            let bytes = tiny::gguf(&config, format);
            assert!(law::check(&bytes));
            let model = open(bytes).unwrap();
            assert_eq!(model.config, config);
            for spec in config.tensors() {
                let expected = match tiny::ternary(&spec, format.packing().group()) {
                    ModelTensor::Ternary(matrix) => matrix.to_f32(),
                    ModelTensor::Dense(values) => values.into_owned(),
                    ModelTensor::Stored(_) => unreachable!(),
                };
                assert_eq!(model.tensors[&spec.name].to_f32(), expected, "{format} {}", spec.name);
            }
        }
    }
}

#[test]
fn the_description_says_what_was_recognised() {
    let describe = |format| open(tiny::gguf(&tiny::wide(), format)).unwrap().description;
    assert_eq!(
        describe(PackedFormat::Q2_0),
        "GGUF v3, qwen3, 8 ternary tensors as Q2_0 in groups of 128 (PrismML's layout of type 42, recognised by \
         the tensor offsets), 5 as F32"
    );
    assert_eq!(
        describe(PackedFormat::Q2_0G64),
        "GGUF v3, qwen3, 8 ternary tensors as Q2_0 in groups of 64 (llama.cpp's layout of type 42, recognised by \
         the tensor offsets), 5 as F32"
    );
    assert_eq!(
        describe(PackedFormat::Pq2_0),
        "GGUF v3, qwen3, 8 ternary tensors as PQ2_0 in groups of 128 (type 142), 5 as F32"
    );
}

#[test]
fn the_tokenizer_comes_back_filled_up_to_the_embedding() {
    let bytes = tiny::gguf(&tiny::config(), PackedFormat::Q2_0G64);
    let file = container(bytes.clone()).unwrap();
    let metadata = file.metadata();
    let tokens: Vec<&str> = metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap().collect();
    assert_eq!((tokens.len(), tokens[256], tokens[259]), (260, "<|endoftext|>", "[PAD259]"));
    let types = metadata.i32s("tokenizer.ggml.token_type").unwrap().unwrap();
    assert_eq!(types[255..], [1, 3, 4, 1, 5]);
    assert_eq!(metadata.str("tokenizer.ggml.model").unwrap(), Some("gpt2"));
    assert_eq!(metadata.u32("general.file_type").unwrap(), Some(41));
    let vocabulary = open(bytes).unwrap().tokenizer().unwrap().unwrap().vocabulary().unwrap();
    let original = tiny::vocabulary();
    assert_eq!(vocabulary.tokens[..259], original.tokens);
    assert_eq!(vocabulary.merges, original.merges);
    assert_eq!((vocabulary.eos, vocabulary.add_bos), (Some(256), false));
    assert_eq!(vocabulary.chat_template, original.chat_template);
}

#[test]
fn a_model_without_a_tokenizer_has_none() {
    let mut bytes = Vec::new();
    let tensor = |spec: &_| tiny::ternary(spec, 64);
    write_model(&mut bytes, &tiny::config(), "bare", None, PackedFormat::Q2_0G64, tensor).unwrap();
    let model = open(bytes).unwrap();
    assert!(model.tokenizer.is_none());
    assert_eq!(model.config, tiny::config());
}

#[test]
fn a_model_that_is_not_ternary_goes_out_as_f32() {
    let config = tiny::config();
    let mut bytes = Vec::new();
    let tensor = |spec: &_| ModelTensor::Dense(Cow::Owned(tiny::values(spec)));
    write_model(&mut bytes, &config, "dense", None, PackedFormat::Q2_0, tensor).unwrap();
    let model = open(bytes).unwrap();
    assert_eq!(model.description, "GGUF v3, qwen3, 13 as F32");
    for spec in config.tensors() {
        assert_eq!(model.tensors[&spec.name].to_f32(), tiny::values(&spec));
    }
}

#[test]
fn a_stored_model_is_packed_again_without_loss() {
    let config = tiny::wide();
    let from = open(tiny::gguf(&config, PackedFormat::Pq2_0)).unwrap();
    let mut bytes = Vec::new();
    let tensor =
        |spec: &bonsai_runtime::config::TensorSpec| ModelTensor::Stored(from.tensors[&spec.name].clone());
    write_model(&mut bytes, &config, "again", None, PackedFormat::Q2_0G64, tensor).unwrap();
    let again = open(bytes).unwrap();
    assert!(again.description.contains("groups of 64"), "{}", again.description);
    for spec in config.tensors() {
        assert_eq!(again.tensors[&spec.name].to_f32(), from.tensors[&spec.name].to_f32());
    }
}

#[test]
fn what_a_gguf_file_cannot_say_is_refused_on_writing() {
    let out = |config: &Config, format, group| {
        write_model(&mut Vec::new(), config, "no", None, format, |spec| tiny::ternary(spec, group))
    };
    refused(out(&tiny::config(), PackedFormat::Q2_0, 64), "64 columns do not divide into groups of 128");
    refused(out(&tiny::wide(), PackedFormat::Q2_0, 64), "use groups of 64");
    let other_eps = Config { qk_norm_eps: Some(1e-5), ..tiny::config() };
    refused(out(&other_eps, PackedFormat::Q2_0G64, 64), "q/k norm epsilon");
    let theta = Config { rope: Rope::plain(1e6 + 1e-6), ..tiny::config() };
    refused(out(&theta, PackedFormat::Q2_0G64, 64), "it is no f32");
    let llama3 = Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
    let with = |llama3, qk_norm_eps| Config {
        rope: Rope { theta: 1e6, scaling: Some(Scaling::Llama3(llama3)) },
        qk_norm_eps,
        ..tiny::config()
    };
    refused(out(&with(llama3, Some(1e-6)), PackedFormat::Q2_0G64, 64), "llama.cpp has it for llama only");
    let other = Llama3 { original_context: 4096, ..llama3 };
    refused(out(&with(other, None), PackedFormat::Q2_0G64, 64), "it holds a table");
    let few = Config { vocab: 200, eos: vec![], ..tiny::config() };
    let tokenizer = Tokenizer::from_vocabulary(tiny::vocabulary()).unwrap();
    let tensor = |spec: &_| tiny::ternary(spec, 64);
    let result = write_model(&mut vec![], &few, "no", Some(&tokenizer), PackedFormat::Q2_0G64, tensor);
    refused(result, "the tokenizer has 259 tokens, but the embedding only 200 rows");
}

/// A file with changed metadata: `None` removes a key.
fn changed(key: &str, value: Option<Value>) -> Result<ModelFile, Error> {
    let file = container(tiny::gguf(&tiny::config(), PackedFormat::Q2_0G64)).unwrap();
    let mut entries = file.metadata().entries().to_vec();
    entries.retain(|(name, _)| name != key);
    entries.extend(value.map(|value| (key.to_string(), value)));
    open(law::rewrite(&file, &entries))
}

#[test]
fn keys_have_the_defaults_of_llama_cpp() {
    let config = |key, value| changed(key, value).unwrap().config;
    assert_eq!(config("qwen3.rope.freq_base", None).rope.theta, 10_000.0);
    assert_eq!(config("qwen3.vocab_size", Some(Value::U32(9))).vocab, 260);
    assert_eq!(config("qwen3.rope.scaling.factor", Some(Value::F32(1.0))).rope.scaling, None);
    assert_eq!(config("qwen3.rope.scaling.type", Some("none".into())).rope.scaling, None);
    let doubled = config("qwen3.rope.scaling.factor", Some(Value::F32(2.0))).rope.scaling;
    assert_eq!(doubled, Some(Scaling::Linear(2.0)));
    assert_eq!(config("qwen3.context_length", Some(Value::I64(96))).context, 96);
    assert_eq!(config("qwen3.rope.freq_base", Some(Value::F64(5e5))).rope.theta, 5e5);
    // Without head_count_kv there are as many as heads, without key_length heads share the width: other shapes.
    refused(changed("qwen3.attention.head_count_kv", None), "'blk.0.attn_k.weight' has shape [64, 64]");
    refused(
        changed("qwen3.attention.key_length", None),
        "'qwen3.attention.value_length' = 32 beside heads of 16",
    );
    // Only one end named: those with a known text count too.
    assert_eq!(config("tokenizer.ggml.eos_token_id", Some(Value::U32(3))).eos, [3, 256]);
    assert_eq!(config("tokenizer.ggml.eot_token_id", None).eos, [256]);
}

#[test]
fn contradictions_in_the_metadata_are_refused() {
    refused(changed("qwen3.block_count", None), "the metadata key 'qwen3.block_count' is missing");
    refused(changed("qwen3.block_count", Some(Value::U32(2))), "too few for 2 layers");
    refused(
        changed("qwen3.block_count", Some(Value::I32(-1))),
        "a number from 0 to 2^32 - 1, but the file has I32(-1)",
    );
    refused(changed("qwen3.block_count", Some("1".into())), "the file has string");
    refused(changed("qwen3.attention.head_count", Some(Value::U32(0))), "heads is 0");
    refused(changed("qwen3.attention.layer_norm_rms_epsilon", Some(Value::F32(f32::NAN))), "epsilon");
    refused(changed("qwen3.embedding_length", Some(Value::U32(128))), "has shape [64, 260]");
    refused(changed("qwen3.rope.scaling.type", Some("longrope".into())), "RoPE scaling 'longrope'");
    refused(
        changed("qwen3.rope.scaling.type", Some("yarn".into())),
        "'qwen3.rope.scaling.factor' is missing",
    );
    refused(changed("qwen3.attention.sliding_window", Some(Value::U32(8))), "sliding_window' = 8");
    refused(changed("qwen3.expert_count", Some(Value::U32(8))), "expert_count' = 8");
    refused(changed("tokenizer.ggml.eos_token_id", Some(Value::U32(260))), "special token 260 is outside");
    refused(changed("tokenizer.ggml.model", Some("llama".into())), "tokenizer model 'llama'");
    let padded = changed("tokenizer.ggml.padding_token_id", Some(Value::U32(9999))).unwrap();
    assert!(padded.tokenizer().unwrap().is_some(), "nobody needs the padding");
    let short = Value::Array(Array::i32s(&[1]));
    refused(changed("tokenizer.ggml.token_type", Some(short)), "has 1 entries for 260 tokens");
}

/// A tensor of zero bytes.
fn zeros(name: &str, ne: &[usize], kind: TensorType) -> NewTensor<'static> {
    let size = ne[1..].iter().product::<usize>() * kind.format().row_bytes(ne[0]).unwrap();
    let source = Box::new(move |out: &mut dyn std::io::Write| out.write_all(&vec![0; size]));
    NewTensor { name: name.into(), ne: ne.into(), kind, source }
}

#[test]
fn tensors_too_few_or_too_many_are_refused_by_name() {
    let file = container(tiny::gguf(&tiny::config(), PackedFormat::Q2_0G64)).unwrap();
    let with = |remove: &str, add: Option<NewTensor<'static>>| {
        let mut tensors: Vec<NewTensor> = file
            .tensors()
            .iter()
            .filter(|t| t.name != remove)
            .map(|t| zeros(&t.name, &t.ne, t.kind))
            .collect();
        tensors.extend(add);
        let mut out = Vec::new();
        write(&mut out, file.metadata().entries(), &tensors).unwrap();
        open(out)
    };
    with("", None).unwrap();
    with("", Some(zeros("rope_freqs.weight", &[16], TensorType::F32))).unwrap();
    refused(with("output_norm.weight", None), "tensor 'output_norm.weight' is missing");
    refused(with("token_embd.weight", None), "tensor 'token_embd.weight' is missing");
    refused(
        with("", Some(zeros("blk.0.attn_q.bias", &[128], TensorType::F32))),
        "tensor 'blk.0.attn_q.bias', which",
    );
    refused(
        with("", Some(zeros("blk.0.attn_q.scale", &[1], TensorType::F32))),
        "tensor 'blk.0.attn_q.scale', which",
    );
    // Ones at the end of a shape mean nothing.
    with("output_norm.weight", Some(zeros("output_norm.weight", &[64, 1, 1], TensorType::F32))).unwrap();
}

#[test]
fn a_llama_file_has_no_qk_norm_and_no_table_of_rope_factors() {
    let config = Config { qk_norm_eps: None, ..tiny::config() };
    let file = container(tiny::gguf(&config, PackedFormat::Q2_0G64)).unwrap();
    let with = |add: Option<NewTensor<'static>>| {
        let mut tensors: Vec<_> = file.tensors().iter().map(|t| zeros(&t.name, &t.ne, t.kind)).collect();
        tensors.extend(add);
        let mut out = Vec::new();
        write(&mut out, file.metadata().entries(), &tensors).unwrap();
        open(out)
    };
    assert_eq!(with(None).unwrap().config, config);
    refused(with(Some(zeros("rope_freqs.weight", &[16], TensorType::F32))), "RoPE scaling by a table");
    let norm = zeros("blk.0.attn_q_norm.weight", &[32], TensorType::F32);
    refused(with(Some(norm)), "tensor 'blk.0.attn_q_norm.weight', which a llama model does not have");
}

#[test]
fn a_file_is_written_in_pieces_of_huge_pages_whatever_pieces_its_tensors_come_in() {
    struct Pieces(Vec<usize>);
    impl Write for Pieces {
        fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
            self.0.push(piece.len());
            Ok(piece.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    const SIZE: usize = 9 << 20;
    let source = |out: &mut dyn Write| (0..SIZE / 4096).try_for_each(|_| out.write_all(&[1; 4096]));
    let ne = vec![SIZE / 4];
    let tensor = NewTensor { name: "a".into(), ne, kind: TensorType::F32, source: Box::new(source) };
    let mut pieces = Pieces(Vec::new());
    write(&mut pieces, &[], &[tensor]).unwrap();
    let (last, whole) = pieces.0.split_last().unwrap();
    assert_eq!(whole, [4 << 20; 2]);
    assert_eq!(*last, (1 << 20) + 64); // and what stands before the tensor
}

// ---- The two layouts of type 42

/// A container of type-42 tensors of `rows` rows of 128 zero weights, with the bytes of the data as given.
fn type_42(group: usize, rows: &[usize], data: impl FnOnce(&mut Vec<u8>)) -> Result<Gguf, Error> {
    let kind = TensorType::Q2_0 { group };
    let names = "abcdefgh".chars().map(String::from);
    let tensors: Vec<_> = names.zip(rows).map(|(name, &rows)| zeros(&name, &[128, rows], kind)).collect();
    let mut bytes = Vec::new();
    write(&mut bytes, &[], &tensors).unwrap();
    data(&mut bytes);
    container(bytes)
}

#[track_caller]
fn recognised(file: Result<Gguf, Error>, group: usize, evidence: Evidence) {
    let file = file.unwrap();
    assert_eq!(file.evidence(), Some(evidence));
    assert!(file.tensors().iter().all(|t| t.kind == TensorType::Q2_0 { group }));
}

#[test]
fn the_offsets_tell_the_layouts_apart() {
    recognised(type_42(64, &[128, 1], |_| ()), 64, Evidence::Offsets);
    recognised(type_42(128, &[128, 1], |_| ()), 128, Evidence::Offsets);
    // Rows of 64 do not divide into groups of 128.
    let mut bytes = Vec::new();
    write(&mut bytes, &[], &[zeros("a", &[64, 3], TensorType::Q2_0 { group: 64 })]).unwrap();
    recognised(container(bytes), 64, Evidence::Offsets);
}

#[test]
fn the_size_of_the_file_tells_the_layouts_of_a_single_tensor_apart() {
    recognised(type_42(64, &[128], |_| ()), 64, Evidence::Size);
    recognised(type_42(128, &[128], |_| ()), 128, Evidence::Size);
    // One row: 36 and 34 bytes, both padded to 64. Unpadded they differ.
    recognised(type_42(64, &[1], |bytes| bytes.truncate(bytes.len() - 28)), 64, Evidence::Size);
    recognised(type_42(128, &[1], |bytes| bytes.truncate(bytes.len() - 30)), 128, Evidence::Size);
}

#[test]
fn the_padding_tells_the_layouts_of_tiny_tensors_apart() {
    recognised(type_42(128, &[1], |_| ()), 128, Evidence::Padding);
    recognised(type_42(128, &[1, 1, 1], |_| ()), 128, Evidence::Padding);
    // In groups of 64 the two bytes behind the first 34 hold codes.
    let codes = |bytes: &mut Vec<u8>| {
        let data = bytes.len() - 64;
        bytes[data + 35] = 0x55;
    };
    recognised(type_42(64, &[1], codes), 64, Evidence::Padding);
    recognised(type_42(64, &[1, 1, 1], codes), 64, Evidence::Padding);
}

#[test]
fn neither_layout_is_an_error_that_names_both() {
    let file = type_42(64, &[128, 1], |bytes| {
        let at = bytes.windows(8).position(|window| window == 4608u64.to_le_bytes()).unwrap();
        bytes[at..at + 8].copy_from_slice(&4480u64.to_le_bytes());
    });
    refused(
        file,
        "tensor 'b' starts at byte 4480 of the data, but with type 42 (Q2_0) in groups of 64 it would start at 4608, \
         and in groups of 128 (PrismML's layout) at 4352",
    );
    // Cut: the offsets fit one layout, and the sentence is about that one.
    let cut = type_42(128, &[128, 128], |bytes| bytes.truncate(bytes.len() - 100));
    refused(cut, "tensor 'b' ends at byte 8704 of the data, but the file has only 8604");
}

// ---- The container

#[test]
fn version_2_opens_too() {
    let mut bytes = tiny::gguf(&tiny::config(), PackedFormat::Q2_0G64);
    bytes[4] = 2;
    assert!(open(bytes).unwrap().description.starts_with("GGUF v2, qwen3, "));
}

#[test]
fn another_alignment_is_kept() {
    let entries = vec![("general.alignment".to_string(), Value::U32(256))];
    let mut bytes = Vec::new();
    let tensors = [zeros("a", &[4], TensorType::F32), zeros("b", &[4], TensorType::F16)];
    write(&mut bytes, &entries, &tensors).unwrap();
    let file = container(bytes).unwrap();
    assert_eq!(file.tensors()[1].offset, 256);
    law::check(&law::rewrite(&file, file.metadata().entries()));
}

#[test]
fn a_vocabulary_of_150_000_is_read_to_its_end() {
    let texts: Vec<String> = (0..150_000).map(|n| format!("token{n}")).collect();
    let strings = || Value::Array(Array::strings(texts.iter().map(String::as_str)));
    let entries = [("tokens".to_string(), strings()), ("merges".to_string(), strings())];
    let mut bytes = Vec::new();
    write(&mut bytes, &entries, &[]).unwrap();
    let file = container(bytes).unwrap();
    assert_eq!(file.metadata().strings("tokens").unwrap().unwrap().last(), Some("token149999"));
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i16>().prop_map(Value::I16),
        any::<u64>().prop_map(Value::U64),
        any::<bool>().prop_map(Value::Bool),
        any::<f64>().prop_map(Value::F64),
        ".{0,9}".prop_map(Value::Str),
        prop::collection::vec(any::<i32>(), 0..5).prop_map(|x| Value::Array(Array::i32s(&x))),
        prop::collection::vec(".{0,9}", 0..5)
            .prop_map(|x| Value::Array(Array::strings(x.iter().map(String::as_str)))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn unpacking_what_was_packed_gives_the_matrix(
        rows in 1usize..5, groups in 1usize..4, packing in prop::sample::select(&Packing::ALL[..]), seed: u32,
    ) {
        let group = packing.group();
        let cols = groups * group;
        let mut state = seed;
        let next = |_| { state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223); state as f32 - 2e9 };
        let w: Vec<f32> = (0..rows * cols).map(next).map(|x| x * 1e-9).collect();
        let matrix = TernaryMatrix::project(&w, rows, cols, group, ScaleRule::Refit);
        let mut blocks = Vec::new();
        packing.encode(&matrix, &mut blocks).unwrap();
        prop_assert_eq!(&packing.unpack(rows, cols, &blocks).unwrap(), &matrix);
        let mut values = vec![0.0; rows * cols];
        packing.decode(&blocks, &mut values);
        prop_assert_eq!(values, matrix.to_f32());
    }

    #[test]
    fn metadata_comes_back(values in prop::collection::vec(any_value(), 0..8)) {
        let entries: Vec<_> = values.into_iter().enumerate().map(|(n, value)| (format!("k{n}"), value)).collect();
        let mut bytes = Vec::new();
        write(&mut bytes, &entries, &[]).unwrap();
        let file = container(bytes).unwrap();
        // Debug, because NaN is not equal to itself.
        prop_assert_eq!(format!("{:?}", file.metadata().entries()), format!("{entries:?}"));
    }

    #[test]
    fn small_models_come_back(
        (vocab, heads, kv_heads, layers) in (1usize..40, 1usize..3, 1usize..3, 1usize..4),
        (hidden, intermediate, tied) in (1usize..3, 1usize..4, any::<bool>()),
        (by, factor, original_context) in (0..3, 1u32..40, 1usize..4096),
        ends in 0usize..3,
    ) {
        let config = Config {
            vocab, layers, tied,
            hidden: 256 * hidden,
            intermediate: 256 * intermediate,
            heads: heads * kv_heads,
            kv_heads,
            head_dim: 256,
            eos: (0..ends.min(vocab) as u32).collect(),
            rope: Rope {
                theta: 1e6,
                scaling: match by {
                    0 => None,
                    1 => Some(Scaling::Linear(f64::from(factor) + 0.5)),
                    _ => Some(Scaling::Yarn(Yarn { factor: factor.into(), original_context })),
                },
            },
            ..tiny::config()
        };
        for format in PackedFormat::ALL {
            let mut bytes = Vec::new();
            let tensor = |spec: &_| tiny::ternary(spec, 256);
            write_model(&mut bytes, &config, "any", None, format, tensor).unwrap();
            prop_assert!(law::check(&bytes));
            prop_assert_eq!(&open(bytes).unwrap().config, &config);
        }
        prop_assert_eq!(&parse_config(&config_json(&config).to_string()).unwrap(), &config);
    }
}

#[test]
fn a_tokenizer_is_built_when_it_is_asked_for() {
    let merges = Value::Array(Array::strings(["h zz"]));
    let file = changed("tokenizer.ggml.merges", Some(merges)).unwrap();
    let facts = file.tokenizer.as_ref().unwrap().facts().unwrap();
    assert_eq!((facts.tokens, facts.eos, facts.chat_template), (260, Some(256), true));
    let error = file.tokenizer().unwrap_err().to_string();
    assert!(error.contains("merge"), "{error}");
}
