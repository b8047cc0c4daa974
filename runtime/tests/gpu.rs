//! The GPU: the door, and every operation against f64. Needs an adapter; Mesa's lavapipe will do.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/shaders.rs"]
mod shaders;

use std::time::Duration;

use bonsai_runtime::error::{Error, ErrorCode};
use bonsai_runtime::gpu::device::{Gpu, GpuOptions};
use bonsai_runtime::gpu::{ADD, SHADERS};

fn gpu() -> Gpu {
    Gpu::open(&GpuOptions::default()).unwrap()
}

fn gpu_error(result: Result<impl Sized, Error>) -> String {
    let error = result.err().expect("an error");
    assert_eq!((error.code(), error.exit_code()), (ErrorCode::Gpu, 6), "{error}");
    error.to_string()
}

#[test]
fn shaders_translate_for_every_system() {
    for shader in SHADERS {
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
    let broken = bonsai_runtime::gpu::shader::Shader { source: "fn broken( {", name: "broken", ..ADD };
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
