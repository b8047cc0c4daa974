//! The forward pass: against f64, against a trained model, and against itself however the work is cut up.

mod support;

use bonsai_runtime::config::{Config, Llama3, Rope, Scaling, Yarn};
use bonsai_runtime::cpu::isa::Isa;
use bonsai_runtime::tensor::{Format, StoredTensor};
use bonsai_runtime::ternary::Packing;
use bonsai_runtime::{Error, KvFormat, Model, Sampler, SamplerOptions, SessionOptions};
use support::*;

const Q2_0: Format = Format::Ternary(Packing::Q2_0G64);

/// Keys and values as they are, whatever the activations.
fn f32_cache() -> SessionOptions {
    SessionOptions { kv: Some(KvFormat::F32), ..Default::default() }
}

fn variants() -> Vec<(&'static str, Config)> {
    let yarn = Scaling::Yarn(Yarn { factor: 4.0, original_context: 100 });
    let llama3 = Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 100 };
    let scaled = |scaling| Config { rope: Rope { theta: 1e4, scaling: Some(scaling) }, ..tiny() };
    vec![
        ("as Qwen3", tiny()),
        ("untied", Config { tied: false, ..tiny() }),
        ("without q/k norm", Config { qk_norm_eps: None, ..tiny() }),
        ("heads narrower than hidden / heads", Config { head_dim: 16, ..tiny() }),
        ("one head of an odd half", Config { heads: 1, kv_heads: 1, head_dim: 6, ..tiny() }),
        ("every head its own key", Config { kv_heads: 4, ..tiny() }),
        ("YaRN", scaled(yarn)),
        ("linear scaling", scaled(Scaling::Linear(3.0))),
        ("Llama 3's scaling", scaled(Scaling::Llama3(llama3))),
        ("another q/k epsilon", Config { qk_norm_eps: Some(0.3), ..tiny() }),
    ]
}

/// f32 against f64: about 40 roundings of 6e-8 in a row give some 1e-13 of the energy; 1e-11 leaves room for
/// chance and is 1e5 below what any mistake in the network makes.
#[test]
fn every_variant_matches_the_network_in_f64() {
    for (name, config) in variants() {
        let file = model_file(&config, Format::F32, 1);
        let tokens = Random(2).ids(12, config.vocab);
        let exact = reference(&file, &tokens);
        let logits = Model::from_file(file).unwrap().session(f32_cache()).unwrap().logits(&tokens).unwrap();
        let error = nmse(&logits, &exact);
        assert!(error < 1e-11, "{name}: {error:e}");
    }
}

#[test]
fn exact_mode_is_the_dense_model_of_the_same_weights() {
    let files = [(tiny(), Q2_0), (tiny_128(), Format::Ternary(Packing::Q2_0))];
    for (config, format) in files {
        let file = model_file(&config, format, 3);
        let dense = Model::from_file(unpacked(&file)).unwrap();
        let packed = Model::from_file(file).unwrap();
        let tokens = Random(4).ids(9, config.vocab);
        let exact = SessionOptions { exact: true, ..Default::default() };
        let a = packed.session(exact).unwrap().logits(&tokens).unwrap();
        let b = dense.session(f32_cache()).unwrap().logits(&tokens).unwrap();
        assert_eq!(bits(&a), bits(&b));
    }
}

/// Rounding to i8 errs by up to half a step of absmax / 127, uniformly: (1/127)^2 / 12 of the largest value's
/// square, some 5e-5 of a normal row's energy in each of the 4 products on the way through a layer, and the
/// network adds those up over two layers and the head.
#[test]
fn rounded_activations_stay_near_the_exact_ones() {
    let file = model_file(&tiny(), Q2_0, 5);
    let tokens = Random(6).ids(20, tiny().vocab);
    let exact = reference(&file, &tokens);
    let logits =
        Model::from_file(file).unwrap().session(SessionOptions::default()).unwrap().logits(&tokens).unwrap();
    let error = nmse(&logits, &exact);
    assert!(error < 1e-3, "{error:e}");
    assert!(error > 1e-9, "{error:e}: are activations rounded at all?");
}

#[test]
fn a_prompt_gives_the_same_bits_however_it_is_fed() {
    for (format, exact) in [(Q2_0, false), (Q2_0, true), (Format::F16, false), (Format::Bf16, false)] {
        let model = model(&tiny(), format, 7);
        let tokens = Random(8).ids(300, tiny().vocab); // more than a chunk, more than a block of the cache
        let session = || model.session(SessionOptions { exact, ..Default::default() }).unwrap();
        let whole = session().logits(&tokens).unwrap();
        let last = whole.len() - tiny().vocab;
        assert_eq!(bits(session().prompt(&tokens).unwrap()), bits(&whole[last..]), "{format:?}");
        for piece in [1, 7, 64] {
            let mut pieces = session();
            let logits: Vec<f32> = tokens.chunks(piece).flat_map(|t| pieces.logits(t).unwrap()).collect();
            assert_eq!(bits(&logits), bits(&whole), "{format:?} in pieces of {piece}");
        }
        let mut one_by_one = session();
        for (&id, logits) in tokens.iter().zip(whole.chunks_exact(tiny().vocab)) {
            assert_eq!(bits(one_by_one.next(id).unwrap()), bits(logits), "{format:?}");
        }
    }
}

#[test]
fn threads_and_instructions_never_change_a_bit() {
    for (format, exact) in [(Q2_0, false), (Q2_0, true), (Format::F32, false)] {
        let model = model(&tiny(), format, 9);
        let tokens = Random(10).ids(150, tiny().vocab);
        let run = |threads, isa| {
            let options =
                SessionOptions { exact, threads: Some(threads), isa: Some(isa), ..Default::default() };
            bits(&model.session(options).unwrap().logits(&tokens).unwrap())
        };
        let expected = run(1, Isa::SCALAR);
        for isa in Isa::available() {
            for threads in [1, 2, 3] {
                assert!(run(threads, isa) == expected, "{format:?} {} {threads}", isa.name());
            }
        }
    }
}

#[test]
fn the_same_weights_give_the_same_bits_in_any_packing() {
    let config = tiny_256();
    let file = model_file(&config, Format::Ternary(Packing::Tq2_0), 11);
    let tokens = Random(12).ids(40, config.vocab);
    let run = |file| {
        let model = Model::from_file(file).unwrap();
        let mut session = model.session(SessionOptions::default()).unwrap();
        let prompt = session.logits(&tokens).unwrap();
        bits(&[&prompt[..], session.next(3).unwrap()].concat())
    };
    let mut same = unpacked(&file);
    same.tensors = file.tensors.clone();
    let expected = run(same);
    let mut copied = unpacked(&file);
    copied.tensors = file.tensors.clone();
    copied.copy_tensors().unwrap();
    assert!(copied.tensors == file.tensors && run(copied) == expected, "copied into huge pages");
    for packing in Packing::ALL {
        let mut repacked = unpacked(&file);
        for (name, tensor) in &file.tensors {
            if tensor.format == Format::Ternary(Packing::Tq2_0) {
                let matrix = Packing::Tq2_0.unpack(tensor.rows, tensor.cols, &tensor.bytes).unwrap();
                let mut bytes = Vec::new();
                packing.encode(&matrix, &mut bytes).unwrap();
                let tensor =
                    StoredTensor { format: Format::Ternary(packing), bytes: bytes.into(), ..tensor.clone() };
                repacked.tensors.insert(name.clone(), tensor);
            }
        }
        assert!(run(repacked) == expected, "{}", packing.name());
    }
}

/// A number for all bits of some logits (FNV-1a).
fn fingerprint(logits: &[f32]) -> u64 {
    let bytes = logits.iter().flat_map(|x| x.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The constants come from the scalar code on x86-64. Whoever changes them changes what every model says.
#[test]
fn the_bits_are_these_on_every_machine() {
    let expected = [
        (Packing::Q2_0G64, KvFormat::F16, false, 0xd3c2_630f_2bdc_2118),
        (Packing::Q2_0, KvFormat::F16, false, 0x254f_68ff_5eb2_f23a),
        (Packing::Q2_0, KvFormat::Int16, false, 0x3892_a9e4_15bb_1f63),
        (Packing::Q2_0, KvFormat::Int8, false, 0x9960_3623_b9fa_d570),
        (Packing::Q2_0, KvFormat::Int4, false, 0x56a8_fde7_81fc_6d36),
        (Packing::Q2_0, KvFormat::F32, false, 0x24f9_f12a_3dc6_c592),
        (Packing::Q2_0, KvFormat::F32, true, 0xf573_8488_5da5_7254),
        (Packing::Tq2_0, KvFormat::F16, false, 0x760e_56be_2dcd_b3a1),
        (Packing::Ptq1_0, KvFormat::F16, false, 0x254f_68ff_5eb2_f23a),
        (Packing::Tq1_0, KvFormat::F16, false, 0x760e_56be_2dcd_b3a1),
    ];
    for (packing, kv, exact, expected) in expected {
        let config = if packing == Packing::Q2_0G64 { tiny() } else { tiny_256() };
        let model = model(&config, Format::Ternary(packing), 16);
        let tokens = Random(17).ids(37, config.vocab); // more than a tile of positions, an odd number
        for isa in Isa::available() {
            let options = SessionOptions {
                exact,
                kv: Some(kv),
                isa: Some(isa),
                threads: Some(1),
                ..Default::default()
            };
            let mut session = model.session(options).unwrap();
            let mut logits = session.logits(&tokens).unwrap();
            logits.extend(session.next(3).unwrap());
            let got = fingerprint(&logits);
            let case = format!("{} {} exact: {exact} {}", packing.name(), kv.name(), isa.name());
            assert_eq!(got, expected, "{case}: {got:#018x}");
        }
    }
}

#[test]
fn a_trained_model_writes_the_golden_story() {
    let (Some(golden), Some(models)) = (shared("models/golden.json"), shared("models")) else { return };
    let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let ids: Vec<u32> =
        golden["greedy_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    for name in ["hf_llama", "hf_qwen3"] {
        let model = Model::open(models.join(name)).unwrap();
        let first: Vec<f64> =
            golden["logits_first8"][0].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        // A cache in f16 or int16 changes the logits a little and the story not at all. In int8 the heads of 8 of this model
        // lose enough for another word somewhere, so only its logits are held.
        for (kv, most) in
            [(KvFormat::Int8, 1e-3), (KvFormat::Int16, 1e-6), (KvFormat::F16, 1e-6), (KvFormat::F32, 1e-9)]
        {
            let options = SessionOptions { kv: Some(kv), ..Default::default() };
            let mut session = model.session(options).unwrap();
            let error = nmse(session.prompt(&ids[..1]).unwrap(), &first);
            assert!(error < most, "{name} {}: {error:e}", kv.name());
            if kv == KvFormat::Int8 {
                continue;
            }
            session.reset();
            let mut sampler = Sampler::new(SamplerOptions::greedy());
            let written = session.generate(&ids[..1], &mut sampler, ids.len() - 1);
            let written: Vec<u32> = written.map(|id| id.unwrap()).collect();
            assert_eq!(written, ids[1..], "{name} {}", kv.name());
        }
    }
}

#[test]
fn wrong_input_is_an_error_and_leaves_the_session_usable() {
    let model = model(&tiny(), Q2_0, 13);
    let mut session = model.session(SessionOptions { context: Some(5), ..Default::default() }).unwrap();
    let expected = bits(session.prompt(&[1, 2, 3]).unwrap());
    assert!(matches!(session.prompt(&[1, 97]), Err(Error::Token { id: 97, vocab: 97 })));
    assert!(matches!(session.prompt(&[]), Err(Error::Argument(_))));
    assert!(matches!(session.prompt(&[1, 2, 3]), Err(Error::ContextFull { capacity: 5 })));
    assert_eq!(session.position(), 3);
    session.prompt(&[4, 5]).unwrap();
    assert!(matches!(session.next(1), Err(Error::ContextFull { .. })));
    session.rewind(2);
    assert_eq!(bits(session.next(3).unwrap()), expected);
    session.cancel_flag().store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(session.next(1), Err(Error::Cancelled)));
    session.cancel_flag().store(false, std::sync::atomic::Ordering::Relaxed);
    session.reset();
    assert_eq!(bits(session.prompt(&[1, 2, 3]).unwrap()), expected);
    // Stopped between two pieces, it has logits of tokens in the middle: nobody must take them for the last one's.
    let mut long = model.session(SessionOptions::default()).unwrap();
    let cancel = long.cancel_flag();
    let stop = |_: usize, _: &[f32]| cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(long.each_logits(&[1; 300], stop), Err(Error::Cancelled)));
    cancel.store(false, std::sync::atomic::Ordering::Relaxed);
    assert!(long.position() < 300 && matches!(long.last_logits(), Err(Error::Argument(_))));
    for context in [0, 401] {
        let options = SessionOptions { context: Some(context), ..Default::default() };
        assert!(matches!(model.session(options), Err(Error::Argument(_))));
    }
    assert!(model.session(SessionOptions { threads: Some(0), ..Default::default() }).is_err());
}

#[test]
fn generation_ends_at_an_end_token_a_limit_or_a_full_context() {
    let mut file = model_file(&tiny(), Q2_0, 14);
    let greedy = |file: bonsai_runtime::ModelFile, context, n| {
        let model = Model::from_file(file).unwrap();
        let mut session = model.session(SessionOptions { context, ..Default::default() }).unwrap();
        let mut sampler = Sampler::new(SamplerOptions::greedy());
        session.generate(&[1, 2], &mut sampler, n).map(|id| id.ok()).collect::<Vec<_>>()
    };
    let again = || model_file(&tiny(), Q2_0, 14);
    let free = greedy(again(), None, 20);
    assert_eq!(free.len(), 20);
    assert_eq!(greedy(again(), Some(5), 20)[..], [free[0], free[1], free[2], free[3], None]);
    let end = free.iter().position(|id| *id == free[7]).unwrap();
    file.config.eos = vec![free[7].unwrap()];
    assert_eq!(greedy(file, None, 20), free[..end]);
}

#[test]
fn damaged_weights_are_an_error_not_a_story() {
    let mut file = model_file(&tiny(), Format::F32, 15);
    let nan = StoredTensor::from_f32(1, 192, &[f32::NAN; 192]);
    file.tensors.insert("model.norm.weight".into(), nan);
    let model = Model::from_file(file).unwrap();
    let mut session = model.session(SessionOptions::default()).unwrap();
    let mut sampler = Sampler::new(SamplerOptions::default());
    let written: Vec<_> = session.generate(&[1], &mut sampler, 5).collect();
    assert!(matches!(written[..], [Err(Error::Format { .. })]));
    let mut short = model_file(&tiny(), Format::F32, 15);
    short.tensors.remove("model.layers.1.mlp.up_proj.weight");
    assert!(Model::from_file(short).err().unwrap().to_string().contains("layers.1.mlp.up_proj"));
}
