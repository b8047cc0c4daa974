//! Losses and their gradients, the ramp, and what is summed for each parameter: as on the CPU.

use bonsai_trainer::backend::{Distillation, Teaching};

use super::*;

/// Targets of `t` tokens, some of which do not count.
fn targets(vocab: usize, t: usize) -> Vec<u32> {
    (0..t).map(|i| if i % 5 == 4 { IGNORE } else { (i * 31 % vocab) as u32 }).collect()
}

fn cross_entropy<B: Backend>(
    b: &mut B,
    [vocab, t]: [usize; 2],
    projection: Option<Projection>,
    [z_loss, share]: [f32; 2],
) -> Results {
    let cols = 64;
    let mut w = b.matrix(vocab, cols, normals(1, vocab * cols), projection);
    b.ramp(&mut w, share);
    let h = filled(b, &normals(2, t * cols));
    let targets = targets(vocab, t);
    let (mut dh, mut dw) = (filled(b, &normals(3, t * cols)), filled(b, &normals(4, vocab * cols)));
    b.cross_entropy(&h, &w, &targets);
    let alone = b.tally().unwrap().loss;
    b.cross_entropy_backward(&mut dh, &mut dw, &h, &w, &targets, 0.25, z_loss);
    assert_eq!(alone, b.tally().unwrap().loss, "with and without gradients");
    let read = |name: &str, buffer| (name.to_string(), b.read(buffer).unwrap().into_owned());
    vec![
        ("cross_entropy".into(), vec![alone as f32]),
        read("cross_entropy dh", &dh),
        read("cross_entropy dw", &dw),
    ]
}

#[test]
fn cross_entropy_and_its_gradients_are_those_of_the_cpu() {
    for size in [[97, 50], [300, 7], [1021, 130]] {
        for projection in [None, Some(PROJECTION)] {
            compare!(1e-11, cross_entropy(size, projection, [0.0, 1.0]));
        }
        compare!(1e-11, cross_entropy(size, Some(PROJECTION), [0.01, 0.3]));
    }
}

fn distillation<B: Backend>(b: &mut B, [vocab, t]: [usize; 2], terms: Distillation, spread: f32) -> Results {
    let (cols, wide) = (64, 128);
    let w = b.matrix(vocab, cols, normals(1, vocab * cols), Some(PROJECTION));
    let teacher: Vec<f32> = normals(5, vocab * wide).iter().map(|x| spread * x).collect();
    let teacher = b.matrix(vocab, wide, teacher, None);
    let (h, teacher_h) = (filled(b, &normals(2, t * cols)), filled(b, &normals(6, t * wide)));
    let targets = targets(vocab, t);
    let (mut dh, mut dw) = (filled(b, &normals(3, t * cols)), filled(b, &normals(4, vocab * cols)));
    let teaching = Teaching::Head(&teacher_h, &teacher);
    b.distillation((&h, &w), teaching, &targets, terms);
    let alone = b.tally().unwrap();
    let gradients = (&mut dh, &mut dw);
    b.distillation_backward(gradients, (&h, &w), teaching, &targets, terms, 0.25);
    assert_eq!(alone, b.tally().unwrap(), "with and without gradients");
    let read = |name: &str, buffer| (name.to_string(), b.read(buffer).unwrap().into_owned());
    vec![
        ("distillation: cross-entropy".into(), vec![alone.loss as f32]),
        ("distillation: divergence".into(), vec![alone.kl as f32]),
        read("distillation dh", &dh),
        read("distillation dw", &dw),
    ]
}

#[test]
fn distillation_and_its_gradients_are_those_of_the_cpu() {
    for (temperature, kl, cross_entropy) in [(1.0, 1.0, 0.0), (2.5, 0.7, 0.3), (0.5, 0.0, 1.0)] {
        let terms = Distillation { temperature, kl, cross_entropy };
        for size in [[97, 50], [300, 7], [1021, 130]] {
            compare!(1e-11, distillation(size, terms, 0.5));
        }
    }
    // A teacher that is nearly sure: most of its probabilities are zeros of f32.
    compare!(
        1e-11,
        distillation([300, 40], Distillation { temperature: 1.0, kl: 1.0, cross_entropy: 0.5 }, 8.0)
    );
}

fn mixed<B: Backend>(b: &mut B, share: f32) -> Results {
    let (t, n, k) = (70, 520, 256);
    let projection = Some(Projection { group: 128, rule: ScaleRule::Refit });
    let mut w = b.matrix(n, k, normals(1, n * k), projection);
    b.ramp(&mut w, share);
    let (x, dy) = (filled(b, &normals(2, t * k)), filled(b, &normals(3, t * n)));
    let (mut y, mut dx, mut dw) = (b.buffer(t * n), b.buffer(t * k), b.buffer(n * k));
    b.linear(&mut y, &x, &w);
    b.linear_backward(&mut dx, false, &mut dw, &dy, &x, &w);
    let tokens: Vec<u32> = (0..t).map(|i| (i * i * 7 % n) as u32).collect();
    let mut rows = b.buffer(t * k);
    b.embed(&mut rows, &w, &tokens);
    let named = [("y", &y), ("dx", &dx), ("dw", &dw), ("embed", &rows)];
    named
        .map(|(name, buffer)| (format!("share {share}: {name}"), b.read(buffer).unwrap().into_owned()))
        .into()
}

#[test]
fn a_ramp_mixes_as_on_the_cpu() {
    for share in [0.0, 0.4, 1.0] {
        compare!(1e-12, mixed(share));
    }
}

#[test]
fn sums_are_known_for_each_parameter() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    for optimizer_in_backward in [false, true] {
        let config = RunConfig { optimizer_in_backward, ..settings(dir.path()) };
        let mut cpu = tiny_run::trainer(config.clone());
        let mut gpu = gpu_trainer(shared_gpu(), config);
        let (a, b) = (cpu.step(&data.train).unwrap(), gpu.step(&data.train).unwrap());
        assert!((b.grad_norm / a.grad_norm - 1.0).abs() < 1e-3);
        let total: f64 = gpu.tallies.iter().map(|tally| tally.squares).sum();
        assert!((total.sqrt() / b.grad_norm - 1.0).abs() < 1e-12, "the parts are the whole");
        let codes = gpu.tallies.iter().map(|tally| tally.codes).sum::<bonsai_trainer::backend::Codes>();
        assert_eq!(codes, b.codes);
        for ((a, b), param) in cpu.tallies.iter().zip(&gpu.tallies).zip(&gpu.params.list) {
            let name = &param.spec.name;
            assert_eq!((a.codes.total, a.steps), (b.codes.total, b.steps), "{name}");
            assert!((a.squares / b.squares - 1.0).abs() < 1e-2, "{name}: {a:?} {b:?}");
            let near = |a: u64, b: u64| a.abs_diff(b) as f64 <= 0.01 * a.max(1000) as f64;
            assert!(
                near(a.codes.zeros, b.codes.zeros) && near(a.codes.flips, b.codes.flips),
                "{name}: {a:?} {b:?}"
            );
        }
    }
}
