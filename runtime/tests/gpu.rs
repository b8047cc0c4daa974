//! The GPU: the door, and every operation against f64. Needs an adapter; Mesa's lavapipe will do.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "tests")]

#[cfg(feature = "shader-tests")]
#[path = "support/shaders.rs"]
mod shaders;
mod support;

use std::time::{Duration, Instant};

use bonsai_runtime::backend::Backend;
use bonsai_runtime::error::{Error, ErrorCode};
use bonsai_runtime::gpu::GpuBackend;
#[cfg(feature = "shader-tests")]
use bonsai_runtime::gpu::SHADERS;
use bonsai_runtime::gpu::device::{Counts, Gpu, GpuOptions, PARAMS_BYTES};
use bonsai_runtime::gpu::shader::Shader;
use bonsai_runtime::model::{State, Weights, forward};
use bonsai_runtime::random_model::{random_model, shape};
use bonsai_runtime::tensor::Format;
use bonsai_runtime::ternary::Packing;
use bonsai_runtime::{Config, Device, Model, ModelFile, SessionOptions};
use support::*;

/// `x += y`.
const ADD: Shader = bonsai_runtime::shader!("add", [Write, Read], [&[]]);

fn gpu() -> Gpu {
    Gpu::open(&GpuOptions::default()).unwrap()
}

fn gpu_error(result: Result<impl Sized, Error>) -> String {
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

fn on(file: ModelFile, device: Device) -> bonsai_runtime::Session {
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
        forward(backend, &weights, &mut state, &[id], 0..1);
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
    println!("{} MiB allocated, {seconds:.2} s a token", now.allocated >> 20);
    assert_eq!(now.dispatches - before.dispatches, 170);
    assert_eq!((now.submits - before.submits, now.read_backs - before.read_backs), (1, 1));
    assert_eq!(now.bytes_down - before.bytes_down, 4 * file.config.vocab as u64, "logits");
    assert!(now.bytes_up - before.bytes_up < 4096, "{} bytes up", now.bytes_up - before.bytes_up);
    assert!(now.allocated >> 20 < 200, "the file has 151 MiB: {}", now.allocated >> 20);
}

#[test]
fn what_a_gpu_cannot_do_is_said() {
    let file = || model_file(&tiny(), Format::Ternary(Packing::Q2_0G64), 24);
    let model = Model::from_file(file()).unwrap();
    let kv = Some(bonsai_runtime::KvFormat::Int8);
    let options = SessionOptions { device: Device::Gpu, kv, ..Default::default() };
    let refused = model.session(options).err().unwrap();
    assert_eq!(refused.code(), ErrorCode::Unsupported);
    let session = on(file(), Device::Gpu);
    assert_eq!(session.save().err().unwrap().code(), ErrorCode::Unsupported);
    assert!(session.status().starts_with("GPU, "), "{}", session.status());
    if Gpu::adapters().iter().all(|adapter| adapter.software()) {
        let session = on(file(), Device::Auto);
        assert!(session.status().contains("is a program on the CPU"), "{}", session.status());
    }
}
