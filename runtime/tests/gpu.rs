//! The GPU: the door, and every operation against f64. Needs an adapter; Mesa's lavapipe will do.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "tests")]

#[cfg(feature = "shader-tests")]
#[path = "support/shaders.rs"]
mod shaders;
#[cfg(feature = "shader-tests")]
#[path = "support/slots.rs"]
mod slots;
mod support;

use std::time::{Duration, Instant};

use bonsai_runtime::backend::Backend;
use bonsai_runtime::error::{Error, ErrorCode};
use bonsai_runtime::gpu::GpuBackend;
use bonsai_runtime::gpu::device::{Counts, Gpu, GpuOptions, PARAMS_BYTES};
use bonsai_runtime::gpu::shader::Shader;
#[cfg(feature = "shader-tests")]
use bonsai_runtime::gpu::{MATVEC, MATVEC_SUBGROUPS, SHADERS};
use bonsai_runtime::model::{State, Weights, feed};
use bonsai_runtime::random_model::{random_model, shape};
use bonsai_runtime::tensor::{Format, StoredTensor};
use bonsai_runtime::ternary::Packing;
use bonsai_runtime::{
    Config, Device, KvFormat, Model, ModelFile, Result, Sampler, SamplerOptions, Session, SessionOptions,
};
use support::*;

/// `x += y`.
const ADD: Shader = bonsai_runtime::shader!("add", [Write, Read], [&[]]);

fn gpu() -> Gpu {
    Gpu::open(&GpuOptions::default()).unwrap()
}

fn gpu_error(result: Result<impl Sized>) -> String {
    let error = result.err().expect("an error");
    assert_eq!((error.code(), error.exit_code()), (ErrorCode::Gpu, 6), "{error}");
    error.to_string()
}

#[cfg(feature = "shader-tests")]
#[test]
fn shaders_translate_for_every_system() {
    for shader in SHADERS.iter().chain([&ADD]) {
        shaders::check(shader);
    }
}

/// The inner loop of a product of one token: eight words of 16 weights a turn. Prints what docs/benchmarks.md lists.
#[cfg(feature = "shader-tests")]
#[test]
fn a_weight_takes_few_slots() {
    let turn = |constants| slots::of_loop(&MATVEC, "sums", constants);
    let shared = slots::of_loop(&MATVEC_SUBGROUPS, "sums", &[("HALVES", 1.0)]);
    let (masks, halves) = (turn(&[]), turn(&[("HALVES", 1.0)]));
    let with_norm = turn(&[("NORM", 1.0), ("HALVES", 1.0)]);
    assert_eq!(shared, halves, "ways of adding up have the loop in common");
    for (name, turn) in [("masks", masks), ("halves", halves), ("halves with a norm", with_norm)] {
        let [decode, all] = turn.slots().map(|slots| f64::from(slots) / 128.0);
        println!("{name}: {decode:.2} slots a weight, {all:.2} with addresses; {turn:?}");
    }
    assert_eq!(masks.converts, 128, "each weight is converted");
    let scales = 8;
    let halves_of = [halves.converts, halves.unpacks - scales, halves.masks - scales, halves.shifts];
    assert_eq!(halves_of, [0, 64, 64, 8], "two weights at a time");
    assert!(halves.slots()[0] <= 320 && masks.slots()[0] >= 860, "2.5 and 6.7 slots a weight");
}

#[test]
fn adapters_are_listed_and_chosen_by_name() {
    let all = Gpu::adapters();
    assert!(!all.is_empty());
    let named = |name: &str| Gpu::open(&GpuOptions { adapter: Some(name.into()), ..Default::default() });
    assert_eq!(named(&all[0].name.to_uppercase()).unwrap().adapter().name, all[0].name);
    let refused = gpu_error(named("no such thing"));
    assert!(refused.contains(&all[0].name) && refused.contains("is not called 'no such thing'"), "{refused}");
    if all.iter().all(|adapter| adapter.software()) {
        let refused = gpu_error(Gpu::open(&GpuOptions { software: false, ..Default::default() }));
        assert!(refused.contains("is a program on the CPU"), "{refused}");
    }
}

#[test]
fn effects_come_in_the_order_of_the_calls() {
    for checked in [false, true] {
        let gpu = Gpu::open(&GpuOptions { checked, ..Default::default() }).unwrap();
        let add = gpu.kernel(&ADD, &[]).unwrap();
        let (x, y) = (gpu.buffer(4000).unwrap(), gpu.buffer_of(&[1.0f32; 1000]).unwrap());
        let mut got = [0.0f32; 1000];
        gpu.read(x.all(), &mut got).unwrap();
        assert_eq!(got, [0.0; 1000], "buffers begin as zeros");
        let run = |quads: u32, n: u32| gpu.run(&add, &[x.all(), y.all()], &[quads], [n, 1, 1]);
        run(250, 1);
        gpu.upload(&y, 0, &[10.0f32; 1000]); // the first sum has not seen it
        run(250, 1);
        gpu.copy(y.slice(0..400), &x, 400);
        run(25, 1); // 100 more of the same
        gpu.clear(x.slice(3996..4000));
        run(250, 0); // an empty grid
        let early = gpu.begin_read(x.slice(400..408)).unwrap();
        run(250, 1);
        gpu.read(x.all(), &mut got).unwrap();
        let mut two = [0.0f32; 2];
        early.wait(bytemuck::cast_slice_mut(&mut two)).unwrap();
        assert_eq!(two, [10.0; 2]);
        let expected = |i: usize| match i {
            0..100 => 31.0,
            100..200 => 20.0,
            999 => 10.0,
            _ => 21.0,
        };
        for (i, &got) in got.iter().enumerate() {
            assert_eq!(got, expected(i), "{i}");
        }
        assert_eq!(gpu.status().contains("unchecked"), !checked);
    }
}

#[test]
fn a_batch_is_one_submission_and_kernels_are_made_once() {
    let gpu = gpu();
    let add = gpu.kernel(&ADD, &[("THREADS", 64.0)]).unwrap();
    gpu.kernel(&ADD, &[("THREADS", 64.0)]).unwrap();
    let (x, y) = (gpu.buffer(1024).unwrap(), gpu.buffer_of(&[1.0f32; 256]).unwrap());
    let before = gpu.counts();
    assert_eq!(before.allocated, 2048);
    for n in 0..3000u32 {
        gpu.run(&add, &[x.all(), y.all()], &[64 - n % 2], [1, 1, 1]);
    }
    let mut got = [0.0f32; 256];
    gpu.read(x.all(), &mut got).unwrap();
    assert_eq!((got[0], got[255]), (3000.0, 1500.0));
    let now = gpu.counts();
    assert_eq!(now.dispatches - before.dispatches, 3000);
    assert_eq!((now.submits - before.submits, now.read_backs, now.bytes_down), (1, 1, 1024));
    assert_eq!(now.bytes_up - before.bytes_up, 512, "equal parameters travel once");
    for n in 0..3000u32 {
        gpu.run(&add, &[x.all(), y.all()], &[n % 64, n], [1, 1, 1]); // more than a batch holds
    }
    gpu.finish().unwrap();
    assert_eq!(gpu.counts().submits - now.submits, 3);
    drop(x);
    assert_eq!(gpu.counts().allocated, 1024);
}

#[test]
fn what_cannot_be_made_is_an_error_and_spoils_nothing() {
    let gpu = gpu();
    let too_large = gpu.buffer(1 << 50).err().unwrap();
    assert!(matches!(too_large, Error::Memory(_)), "{too_large}");
    let broken = Shader { source: "fn broken( {", name: "broken", ..ADD };
    let message = gpu_error(gpu.kernel(&broken, &[]));
    assert!(message.contains("the kernel broken"), "{message}");
    let unknown = gpu_error(gpu.kernel(&ADD, &[("NO_SUCH", 1.0)]));
    assert!(unknown.contains("the kernel add"), "{unknown}");
    gpu.kernel(&ADD, &[]).unwrap();
    gpu.finish().unwrap();
}

#[test]
fn a_lost_device_is_an_error_not_a_hang() {
    let gpu = Gpu::open(&GpuOptions { timeout: Duration::from_secs(20), ..Default::default() }).unwrap();
    let add = gpu.kernel(&ADD, &[]).unwrap();
    let (x, y) = (gpu.buffer(1024).unwrap(), gpu.buffer(1024).unwrap());
    gpu.run(&add, &[x.all(), y.all()], &[64u32], [1, 1, 1]);
    gpu.destroy();
    gpu.run(&add, &[x.all(), y.all()], &[64u32], [1, 1, 1]);
    let message = gpu_error(gpu.read(x.all(), &mut [0.0f32; 4]));
    assert!(message.contains("lost") || message.contains("destroyed"), "{message}");
    gpu_error(gpu.buffer(16));
    gpu_error(gpu.kernel(&ADD, &[("THREADS", 32.0)]));
    gpu_error(gpu.flush());
    gpu_error(gpu.finish());
}

#[test]
fn wrong_use_is_an_error_at_the_next_read() {
    let gpu = gpu();
    let add = gpu.kernel(&ADD, &[]).unwrap();
    let x = gpu.buffer(1024).unwrap();
    gpu.run(&add, &[x.all(), x.all()], &[64u32], [1, 1, 1]); // read and written at once
    let message = gpu_error(gpu.read(x.all(), &mut [0.0f32; 4]));
    assert!(message.contains("usage") || message.contains("conflict"), "{message}");
}

fn on(file: ModelFile, device: Device) -> Session {
    Model::from_file(file).unwrap().session(SessionOptions { device, ..Default::default() }).unwrap()
}

/// Every width of groups, shape of heads and number of tokens that takes another kernel, against f64; `gpu_ops.rs` has
/// every format. f32 sums of a few hundred
/// products and keys and values in f16 (2^-12 of each, uniformly: 2e-8 of the energy) leave about 1e-7.
#[test]
fn logits_are_those_of_the_network_in_f64() {
    let tokens = Random(21).ids(75, tiny().vocab); // more than a tile of positions
    let packings = [Packing::Q2_0G64, Packing::Q2_0, Packing::Tq2_0].map(Format::Ternary);
    for format in packings.into_iter().chain([Format::F16]) {
        let group = if let Format::Ternary(packing) = format { packing.group() } else { 64 };
        let config = [tiny(), tiny_128(), tiny_256()][group / 128].clone();
        let untied = group == 128;
        let config = Config { tied: !untied, ..config };
        let config = match group {
            64 => Config { qk_norm_eps: None, ..config },
            _ => config,
        };
        let file = || model_file(&config, format, 22);
        let expected = reference(&file(), &tokens);
        let mut session = on(file(), Device::Gpu);
        let together = session.logits(&tokens).unwrap();
        let error = nmse(&together, &expected);
        session.reset();
        let vocab = config.vocab;
        let single: Vec<f32> = tokens.iter().flat_map(|&id| session.next(id).unwrap().to_vec()).collect();
        let error_single = nmse(&single, &expected);
        println!("{}: {error:.1e} together, {error_single:.1e} one by one", format.name());
        assert!(error < 1e-6 && error_single < 1e-6, "{}: {error:e}, {error_single:e}", format.name());
        session.reset();
        let last: Vec<f64> = together[together.len() - vocab..].iter().map(|&x| x.into()).collect();
        let alone = nmse(session.prompt(&tokens).unwrap(), &last); // another kernel: another order of sums
        assert!(alone < 1e-11, "{}: the last row alone: {alone:e}", format.name());
        session.reset();
        assert_eq!(bits(&session.logits(&tokens).unwrap()), bits(&together), "the same again");
    }
}

/// What the second token of a model takes: counts before and behind it, and the seconds.
fn second_token(file: &ModelFile) -> ([Counts; 2], f64) {
    let gpu = gpu();
    let backend = &mut GpuBackend::new(&gpu, 1, file.config.hidden).unwrap();
    let weights = Weights::new(backend, file).unwrap();
    let mut state = State::new(backend, &file.config, 64, 1).unwrap();
    let mut logits = vec![0.0; file.config.vocab];
    let mut token = |id| {
        feed(backend, &weights, &mut state, &[id], 0..1);
        backend.read(&state.logits, &mut logits).unwrap();
    };
    token(1);
    let (before, start) = (gpu.counts(), Instant::now());
    token(2);
    ([before, gpu.counts()], start.elapsed().as_secs_f64())
}

#[test]
fn a_token_is_one_submission() {
    let file = model_file(&tiny_128(), Format::Ternary(Packing::Q2_0), 23);
    let ([before, now], _) = second_token(&file);
    let Config { layers, head_dim, vocab, .. } = file.config;
    assert_eq!(now.dispatches - before.dispatches, 6 * layers as u64 + 2, "dispatches");
    assert_eq!((now.submits - before.submits, now.read_backs - before.read_backs), (1, 1));
    assert_eq!(now.bytes_down - before.bytes_down, 4 * vocab as u64, "logits");
    let up = (now.bytes_up - before.bytes_up) as usize;
    let params = 9 * PARAMS_BYTES; // of embed, qkv, heads, attention, out, gate and up, down, head; one to spare
    assert!(up <= 4 + 4 * head_dim + params, "{up} bytes up: the token, its angles, parameters that differ");
    assert_eq!(now.allocated, before.allocated);
}

#[test]
fn a_token_of_the_0_6b_shape() {
    let file = random_model(shape("0.6b").unwrap(), Packing::Q2_0).unwrap();
    let ([before, now], seconds) = second_token(&file);
    let bound = (now.bytes_bound - before.bytes_bound) as f64 / 1e6;
    println!("{} MiB allocated, {bound:.1} MB bound by a token, {seconds:.2} s", now.allocated >> 20);
    assert_eq!(now.dispatches - before.dispatches, 170);
    assert_eq!((now.submits - before.submits, now.read_backs - before.read_backs), (1, 1));
    assert_eq!(now.bytes_down - before.bytes_down, 4 * file.config.vocab as u64, "logits");
    assert!(now.bytes_up - before.bytes_up < 4096, "{} bytes up", now.bytes_up - before.bytes_up);
    assert!(now.allocated >> 20 < 200, "the file has 151 MiB: {}", now.allocated >> 20);
    // Every weight once, and the table of the embedding, which is the head's, once more: one row of it is read.
    assert!((158.0..230.0).contains(&bound), "{bound} MB bound");
}

/// A trained model, so that one token is usually likelier than all others by far.
fn stories() -> Model {
    Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../wasm/demo/stories.gguf")).unwrap()
}

fn session(model: &Model, kv: KvFormat, tokens_per_submit: usize) -> Session {
    let tokens_per_submit = Some(tokens_per_submit);
    let options =
        SessionOptions { device: Device::Gpu, kv: Some(kv), tokens_per_submit, ..Default::default() };
    model.session(options).unwrap()
}

fn greedy() -> Sampler {
    Sampler::new(SamplerOptions::greedy())
}

/// What greedy decoding writes, by itself and asked token by token.
fn written(session: &mut Session, prompt: &[u32], most: usize) -> [Vec<u32>; 2] {
    session.reset();
    let at_once: Result<Vec<u32>> = session.generate(prompt, &mut greedy(), most).collect();
    let position = session.position();
    session.reset();
    let mut sampler = greedy();
    let mut one_by_one = vec![sampler.sample(session.prompt(prompt).unwrap())];
    while one_by_one.len() < most {
        one_by_one.push(sampler.sample(session.next(one_by_one[one_by_one.len() - 1]).unwrap()));
    }
    assert_eq!(position, session.position(), "what was computed for nothing does not count as fed");
    [at_once.unwrap(), one_by_one]
}

#[test]
fn greedy_text_is_the_cpus_and_the_same_one_by_one() {
    let model = stories();
    let prompt = model.tokenizer().unwrap().unwrap().encode("Once upon a time").unwrap();
    let on_cpu = |exact| {
        let options = SessionOptions { exact, kv: Some(KvFormat::F16), ..Default::default() };
        let mut session = model.session(options).unwrap();
        let text: Result<Vec<u32>> = session.generate(&prompt, &mut greedy(), 64).collect();
        session.reset();
        (text.unwrap(), session.logits(&prompt).unwrap())
    };
    let ((exact, logits), (fast, _)) = (on_cpu(true), on_cpu(false));
    for tokens_per_submit in [1, 3, 32] {
        let mut session = session(&model, KvFormat::F16, tokens_per_submit);
        let [at_once, one_by_one] = written(&mut session, &prompt, 64);
        assert_eq!(at_once, one_by_one, "{tokens_per_submit} a submission");
        assert_eq!((at_once.len(), &at_once), (64, &exact), "f32 activations on the CPU");
        assert_eq!(at_once, fast, "i8 activations on the CPU");
        session.reset();
        let expected: Vec<f64> = logits.iter().map(|&x| x.into()).collect();
        let error = nmse(&session.logits(&prompt).unwrap(), &expected);
        println!("logits: {error:.1e}");
        assert!(error < 1e-6, "{error:e}: keys and values are f16 on both");
    }
    let mut int8 = session(&model, KvFormat::Int8, 4);
    let [at_once, one_by_one] = written(&mut int8, &prompt, 16);
    assert_eq!(at_once, one_by_one, "int8");
    int8.reset();
    let expected: Vec<f64> = logits.iter().map(|&x| x.into()).collect();
    let error = nmse(&int8.logits(&prompt).unwrap(), &expected);
    println!("logits with int8: {error:.1e}");
    assert!(error < 1e-3, "{error:e}: as much as the CPU's int8 may cost such a model");
}

#[test]
fn greedy_tokens_cost_a_few_bytes_and_few_submissions() {
    let file = model_file(&tiny_128(), Format::Ternary(Packing::Q2_0), 25);
    let layers = file.config.layers as u64;
    let model = Model::from_file(file).unwrap();
    let mut session = session(&model, KvFormat::F16, 8);
    let gpu = model.gpu().unwrap();
    let mut sampler = greedy();
    let mut tokens = session.generate(&[1, 2], &mut sampler, 33);
    tokens.next().unwrap().unwrap(); // of the prompt's logits
    let before = gpu.counts();
    assert_eq!(tokens.collect::<Result<Vec<_>, _>>().unwrap().len(), 32);
    let now = gpu.counts();
    assert_eq!(now.dispatches - before.dispatches, 32 * (6 * layers + 2 + 2), "two of argmax");
    assert_eq!((now.submits - before.submits, now.read_backs - before.read_backs), (4, 4));
    assert_eq!(now.bytes_down - before.bytes_down, 32 * 4);
    assert_eq!(now.allocated, before.allocated);
}

/// Sampling with the default chain reads the 64 likeliest tokens, and chooses what it would choose among all logits.
#[test]
fn a_sampled_token_costs_half_a_kilobyte() {
    let model = stories();
    let prompt = model.tokenizer().unwrap().unwrap().encode("Once upon a time").unwrap();
    let mut session = session(&model, KvFormat::F16, 4);
    let gpu = model.gpu().unwrap();
    let options = |seed| SamplerOptions { temperature: 1.5, seed, ..Default::default() };
    for options in
        [options(1), options(2), SamplerOptions { top_k: 64, top_p: 1.0, min_p: 0.0, ..options(3) }]
    {
        session.reset();
        let before = gpu.counts();
        let mut sampler = Sampler::new(options.clone());
        let told: Result<Vec<u32>> = session.generate(&prompt, &mut sampler, 40).collect();
        let (now, told) = (gpu.counts(), told.unwrap());
        assert_eq!(now.bytes_down - before.bytes_down, 40 * 512, "{} tokens", told.len());
        session.reset();
        let mut sampler = Sampler::new(options);
        prompt.iter().for_each(|&id| sampler.accept(id));
        let mut all = vec![sampler.sample(session.prompt(&prompt).unwrap())];
        while all.len() < told.len() {
            all.push(sampler.sample(session.next(all[all.len() - 1]).unwrap()));
        }
        assert_eq!(told, all);
    }
    let mut penalised = Sampler::new(SamplerOptions { repeat_penalty: 1.1, ..options(4) });
    session.reset();
    let before = gpu.counts().bytes_down;
    assert_eq!(session.generate(&prompt, &mut penalised, 2).count(), 2);
    assert_eq!(gpu.counts().bytes_down - before, 2 * 4 * model.config().vocab as u64, "others may decide");
}

#[test]
fn greedy_decoding_ends_as_it_does_token_by_token() {
    let file = || model_file(&tiny(), Format::Ternary(Packing::Q2_0G64), 26);
    let model = Model::from_file(file()).unwrap();
    let free: Vec<u32> = session(&model, KvFormat::F16, 4)
        .generate(&[1, 2], &mut greedy(), 20)
        .map(|id| id.unwrap())
        .collect();
    assert_eq!(free.len(), 20);
    let end = free.iter().position(|id| *id == free[9]).unwrap();
    let mut ends = file();
    ends.config.eos = vec![free[9]];
    let ended = Model::from_file(ends).unwrap();
    let mut session = session(&ended, KvFormat::F16, 4);
    let ids: Vec<u32> = session.generate(&[1, 2], &mut greedy(), 20).map(|id| id.unwrap()).collect();
    assert_eq!(ids, free[..end], "an end token");
    assert_eq!(session.tokens(), [&[1, 2], &free[..end]].concat());
    let after = bits(session.next(3).unwrap());
    session.reset();
    session.prompt(&[1, 2]).unwrap();
    for &id in &free[..end] {
        session.next(id).unwrap();
    }
    assert_eq!(bits(session.next(3).unwrap()), after, "what was computed for nothing leaves nothing");
    let options = SessionOptions { device: Device::Gpu, context: Some(7), ..Default::default() };
    let mut short = model.session(options).unwrap();
    let ids: Vec<Option<u32>> = short.generate(&[1, 2], &mut greedy(), 20).map(|id| id.ok()).collect();
    let fits = free[..6].iter().copied().map(Some).chain([None]);
    assert_eq!(ids, fits.collect::<Vec<_>>(), "a full context");
    let cancel = short.cancel_flag();
    short.reset();
    let mut sampler = greedy();
    let mut ids = short.generate(&[1, 2], &mut sampler, 20);
    ids.next().unwrap().unwrap();
    ids.next().unwrap().unwrap();
    cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(ids.next(), Some(Err(Error::Cancelled))));
    assert!(ids.next().is_none());
}

#[test]
fn damaged_weights_are_an_error_not_a_story() {
    let file = || model_file(&Config { tied: false, ..tiny() }, Format::F32, 15);
    let write = |file| -> Vec<Option<u32>> {
        let model = Model::from_file(file).unwrap();
        let mut session = session(&model, KvFormat::F16, 4);
        session.generate(&[1, 2], &mut greedy(), 12).map(|id| id.ok()).collect()
    };
    let free = write(file());
    let damaged = free[5].unwrap();
    let first = free.iter().position(|id| *id == Some(damaged)).unwrap();
    assert!(first > 0 && damaged > 4, "the GPU's test at the start must not meet it");
    let mut file = file();
    let table = file.tensors.get_mut("model.embed_tokens.weight").unwrap();
    let mut rows = table.to_f32();
    rows[damaged as usize * table.cols] = f32::NAN;
    *table = StoredTensor::from_f32(table.rows, table.cols, &rows);
    let written = write(file);
    assert_eq!((&written[..=first], &written[first + 1..]), (&free[..=first], &[None][..]));
}

#[test]
fn a_model_of_not_a_numbers_is_no_fault_of_the_gpu() {
    let mut file = model_file(&tiny(), Format::F32, 15);
    file.tensors.insert("model.norm.weight".into(), StoredTensor::from_f32(1, 192, &[f32::NAN; 192]));
    let options = SessionOptions { device: Device::Gpu, ..Default::default() };
    let refused = Model::from_file(file).unwrap().session(options).err().unwrap();
    assert_eq!(refused.code(), ErrorCode::Format, "{refused}");
}

#[test]
fn a_device_lost_while_it_writes_is_an_error_and_then_left_for_another() {
    let model = Model::from_file(model_file(&tiny(), Format::Ternary(Packing::Q2_0G64), 27)).unwrap();
    let mut lost = session(&model, KvFormat::F16, 2);
    let mut sampler = greedy();
    let start = Instant::now();
    let mut ids = lost.generate(&[1, 2], &mut sampler, 100);
    let first: Vec<u32> = ids.by_ref().take(5).map(|id| id.unwrap()).collect();
    model.gpu().unwrap().destroy();
    let rest: Vec<Result<u32>> = ids.collect();
    assert!(rest.len() <= 5, "what was under way may still come: {}", rest.len());
    gpu_error(rest.into_iter().next_back().unwrap());
    gpu_error(lost.next(1));
    assert!(start.elapsed() < Duration::from_secs(60), "no hang");
    let again =
        session(&model, KvFormat::F16, 2).generate(&[1, 2], &mut greedy(), 5).collect::<Result<Vec<_>>>();
    assert_eq!(again.unwrap(), first, "a new session opens the device again");
}

#[test]
fn choices_belong_to_the_pinned_version_of_wgpu() {
    let pinned = format!("wgpu = {{ version = \"={}\"", bonsai_runtime::gpu::choices::WGPU);
    assert_eq!(include_str!("../Cargo.toml").matches(&pinned).count(), 2);
}

#[test]
fn what_a_gpu_cannot_do_is_said() {
    let file = || model_file(&tiny(), Format::Ternary(Packing::Q2_0G64), 24);
    let model = Model::from_file(file()).unwrap();
    let gpu = SessionOptions { device: Device::Gpu, ..Default::default() };
    let f32 = SessionOptions { kv: Some(KvFormat::F32), ..gpu.clone() };
    assert_eq!(model.session(f32).err().unwrap().code(), ErrorCode::Unsupported);
    for tokens in [0, 33] {
        let so_many = SessionOptions { tokens_per_submit: Some(tokens), ..gpu.clone() };
        assert_eq!(model.session(so_many).err().unwrap().code(), ErrorCode::Argument);
    }
    let backend = GpuBackend::new(&model.gpu().unwrap(), 1, 1).unwrap();
    let too_long = backend.cache(8, 128, 1 << 30).err().unwrap();
    assert!(matches!(too_long, Error::Memory(_)), "{too_long}");
    let session = on(file(), Device::Gpu);
    assert_eq!(session.save().err().unwrap().code(), ErrorCode::Unsupported);
    assert!(session.status().starts_with("GPU, "), "{}", session.status());
    if Gpu::adapters().iter().all(|adapter| adapter.software()) {
        let session = on(file(), Device::Auto);
        assert!(session.status().contains("is a program on the CPU"), "{}", session.status());
    }
}
