//! PyTorch as the oracle: logits, loss, every gradient, and the weights after AdamW steps, dense and ternary.
//!
//! `tests/oracle/{tied,untied}` is a small fixture (its generator lies beside it; of matrices it holds every
//! `row_stride`th row only, to stay small); a larger one of the same kind in `../shared/oracle` is read too where it is
//! present.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use bonsai_runtime::Config;
use bonsai_runtime::ternary::ScaleRule;
use bonsai_trainer::backend::{Backend, Distillation, Projection, Teaching};
use bonsai_trainer::config::{RunConfig, preset};
use bonsai_trainer::cpu::CpuBackend;
use bonsai_trainer::data::{Batch, IGNORE};
use bonsai_trainer::formats::MomentFormat;
use bonsai_trainer::model::{self, Activations};
use bonsai_trainer::optimizer::Optimizer;
use bonsai_trainer::params::Params;
use bonsai_trainer::train::target_tokens;
use safetensors::{Dtype, SafeTensors};

/// A backend to hold against the oracle.
trait Open: Backend + Sized {
    fn open(config: &Config, seq: usize) -> Self;
}

impl Open for CpuBackend {
    fn open(config: &Config, seq: usize) -> Self {
        CpuBackend::new(config, seq)
    }
}

struct Oracle {
    name: String,
    dir: PathBuf,
    bytes: Vec<u8>,
}

impl Oracle {
    /// Every fixture that is here.
    fn all() -> Vec<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let roots = [here.join("tests/oracle"), here.join("../../shared/oracle")];
        let dirs = roots.iter().flat_map(|root| ["tied", "untied"].map(|variant| root.join(variant)));
        let found: Vec<Self> = dirs
            .filter(|dir| dir.join("oracle.safetensors").exists())
            .map(|dir| Self {
                name: dir.display().to_string(),
                bytes: std::fs::read(dir.join("oracle.safetensors")).unwrap(),
                dir,
            })
            .collect();
        assert!(found.len() >= 2, "the fixtures of tests/oracle are missing");
        found
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(self.dir.join("oracle.json")).unwrap()).unwrap()
    }

    fn number(&self, key: &str, default: usize) -> usize {
        self.json()[key].as_u64().map_or(default, |n| n as usize)
    }

    fn absmean(&self) -> Option<Projection> {
        Some(Projection { group: self.number("group", 128), rule: ScaleRule::Absmean })
    }

    /// The rows of a matrix that the fixture holds; vectors are whole.
    fn rows<T: Copy>(&self, rows: usize, values: &[T]) -> Vec<T> {
        let cols = values.len() / rows;
        let stride = if rows == 1 { 1 } else { self.number("row_stride", 1) };
        values.chunks_exact(cols).step_by(stride).flatten().copied().collect()
    }

    fn batch(&self, index: usize) -> Batch {
        let tensors = self.tensors();
        let ids = |name: &str| {
            let tensor = tensors.tensor(&format!("{name}.{index}")).unwrap();
            let ids: Vec<u32> =
                tensor.data().as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b) as u32).collect();
            (ids, tensor.shape().to_vec())
        };
        let ((tokens, shape), (targets, _)) = (ids("input_ids"), ids("targets"));
        Batch { batch: shape[0], seq: shape[1], tokens, targets }
    }

    fn f32(&self, name: &str) -> Option<Vec<f32>> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).ok()?;
        assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
        Some(tensor.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    }

    fn setup<B: Open>(&self, projection: Option<Projection>) -> (B, Params<B>, Activations<B>, Batch) {
        let file = bonsai_runtime::ModelFile::open(&self.dir).unwrap();
        let batch = self.batch(0);
        let backend = B::open(&file.config, batch.seq);
        let latent = |_: usize, spec: &bonsai_runtime::config::TensorSpec| file.tensors[&spec.name].to_f32();
        let params = Params::new(&backend, &file.config, |_| projection, |_| &[MomentFormat::F32; 2], latent);
        let activations = Activations::new(&backend, &file.config, batch.batch, batch.seq);
        (backend, params, activations, batch)
    }
}

/// |a - b| / |b| in the 2-norm.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    difference / norm(&mut b.iter().map(|&b| f64::from(b))).max(1e-30)
}

fn check_logits_and_gradients<B: Open>(mode: &str, ternary: bool) {
    for oracle in Oracle::all() {
        let projection = oracle.absmean().filter(|_| ternary);
        let (mut b, mut p, mut a, batch) = oracle.setup::<B>(projection);
        model::forward(&mut b, &p, &mut a, &batch);
        let logits = model::logits(&mut b, &p, &a).unwrap();
        let Some(expected) = oracle.f32(&format!("{mode}.logits")) else { continue };
        let error = relative(&logits, &expected);
        assert!(error < 1e-5, "{}: {mode} logits {error:.2e}", oracle.name);
        let count = target_tokens(&batch) as f64;
        model::loss(&mut b, &p, &a, &batch);
        let alone = b.tally().unwrap().loss / count;
        model::backward(&mut b, &mut p, &mut a, &batch, 1.0 / count as f32);
        let loss = b.tally().unwrap().loss / count;
        assert_eq!(alone, loss, "the loss with and without gradients");
        let expected = oracle.json()[format!("{mode}.loss")].as_f64().unwrap();
        assert!((loss / expected - 1.0).abs() < 1e-5, "{}: {mode} loss {loss} {expected}", oracle.name);
        let (mut worst, mut compared) = (0.0f64, 0);
        for param in &p.list {
            let Some(expected) = oracle.f32(&format!("{mode}.grad.{}", param.spec.name)) else { continue };
            let error = relative(
                &oracle.rows(param.spec.rows, &b.read(param.grad.as_ref().unwrap()).unwrap()),
                &expected,
            );
            assert!(error < 1e-4, "{}: {mode} gradient of {} {error:.2e}", oracle.name, param.spec.name);
            worst = worst.max(error);
            compared += 1;
        }
        println!(
            "{}: {mode} logits {:.1e}, loss {loss:.6}, worst of {compared} gradients {worst:.1e}",
            oracle.name,
            relative(&logits, &oracle.f32(&format!("{mode}.logits")).unwrap())
        );
        assert!(compared == p.list.len() || mode == "dense", "only {compared} gradients in {}", oracle.name);
    }
}

#[test]
fn dense_logits_loss_and_gradients_are_those_of_pytorch() {
    check_logits_and_gradients::<CpuBackend>("dense", false);
}

#[test]
fn ternary_logits_loss_and_gradients_are_those_of_pytorch() {
    check_logits_and_gradients::<CpuBackend>("ternary", true);
}

#[test]
fn codes_and_scales_are_those_of_pytorch() {
    check_codes_and_scales::<CpuBackend>();
}

fn check_codes_and_scales<B: Open>() {
    for oracle in Oracle::all() {
        let (b, p, _, _) = oracle.setup::<B>(oracle.absmean());
        let tensors = oracle.tensors();
        let mut compared = 0;
        for param in &p.list {
            let Some(ternary) = b.ternary(&param.value).unwrap() else { continue };
            let codes = tensors.tensor(&format!("ternary.codes.{}", param.spec.name)).unwrap();
            let ours: Vec<u8> = ternary
                .codes
                .iter()
                .flat_map(|byte| (0..4).map(move |k| ((byte >> (2 * k)) & 3).wrapping_sub(1)))
                .collect();
            assert_eq!(
                codes.data(),
                oracle.rows(param.spec.rows, &ours),
                "{}: codes of {}",
                oracle.name,
                param.spec.name
            );
            let scales = tensors.tensor(&format!("ternary.scales.{}", param.spec.name)).unwrap();
            let ours: Vec<u8> = ternary.scales.iter().flat_map(|s| s.to_le_bytes()).collect();
            assert_eq!(scales.data(), ours, "{}: scales of {}", oracle.name, param.spec.name);
            compared += 1;
        }
        assert!(compared > 10, "{}", oracle.name);
    }
}

#[test]
fn weights_after_adamw_steps_are_those_of_pytorch() {
    check_weights_after_adamw_steps::<CpuBackend>();
}

#[cfg(feature = "gpu")]
mod gpu {
    use super::*;
    use bonsai_runtime::gpu::device::{Gpu, GpuOptions};
    use bonsai_trainer::gpu::GpuBackend;

    impl Open for GpuBackend {
        fn open(config: &Config, seq: usize) -> Self {
            GpuBackend::new(Gpu::open(&GpuOptions::default()).unwrap(), config, seq).unwrap()
        }
    }

    #[test]
    fn on_a_gpu_all_is_that_of_pytorch() {
        check_codes_and_scales::<GpuBackend>();
        check_logits_and_gradients::<GpuBackend>("dense", false);
        check_logits_and_gradients::<GpuBackend>("ternary", true);
        check_weights_after_adamw_steps::<GpuBackend>();
        check_distillation::<GpuBackend>();
    }
}

fn check_weights_after_adamw_steps<B: Open>() {
    let config = RunConfig { lr: 1e-3, weight_decay: 0.1, clip: 1.0, ..RunConfig::default() };
    let optimizer = Optimizer::new(&config);
    let mut compared = 0;
    for oracle in Oracle::all() {
        let (mut b, mut p, mut a, _) = oracle.setup::<B>(oracle.absmean());
        for step in 0..3 {
            let batch = oracle.batch(step);
            model::forward(&mut b, &p, &mut a, &batch);
            model::backward(&mut b, &mut p, &mut a, &batch, 1.0 / target_tokens(&batch) as f32);
            p.list.iter().for_each(|param| b.sum_of_squares(param.grad.as_ref().unwrap()));
            let norm = b.tally().unwrap().squares.sqrt();
            let gradients: Vec<Vec<f32>> = p
                .list
                .iter()
                .map(|param| b.read(param.grad.as_ref().unwrap()).unwrap().into_owned())
                .collect();
            for param in &mut p.list {
                optimizer.update(&mut b, param, step as u64 + 1, 1.0, optimizer.clip(norm));
            }
            let (mut off, mut total) = (0, 0);
            for (param, gradient) in p.list.iter().zip(&gradients) {
                let Some(expected) = oracle.f32(&format!("adamw.clip1.step{}.{}", step + 1, param.spec.name))
                else {
                    continue;
                };
                let (ours, gradient) =
                    (b.latent(&param.value).unwrap(), oracle.rows(param.spec.rows, gradient));
                for ((ours, theirs), g) in
                    oracle.rows(param.spec.rows, &ours).iter().zip(&expected).zip(gradient)
                {
                    let difference = (ours - theirs).abs();
                    // Where the gradient is rounding noise, AdamW's first steps turn its sign into a whole step.
                    assert!(
                        step > 0 || difference < 2e-6 || g.abs() < 1e-6,
                        "{}: {} off by {difference}",
                        oracle.name,
                        param.spec.name
                    );
                    off += usize::from(difference > 1e-5);
                    total += 1;
                }
            }
            assert!(
                off as f64 <= 1e-3 * total as f64,
                "{}: {off} of {total} weights off after step {}",
                oracle.name,
                step + 1
            );
            compared += total;
        }
    }
    assert!(compared > 1_000, "only {compared} weights were there to compare");
}

/// `tests/oracle/distillation.safetensors`: one head that learns from another, by PyTorch.
#[test]
fn distillation_is_that_of_pytorch() {
    check_distillation::<CpuBackend>();
}

fn check_distillation<B: Open>() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/distillation.safetensors");
    let oracle = Oracle { name: String::new(), dir: PathBuf::new(), bytes: std::fs::read(path).unwrap() };
    let [temperature, kl, cross_entropy, scale, expected_kl, expected_ce] =
        oracle.f32("numbers").unwrap().try_into().unwrap();
    let tensors = oracle.tensors();
    let ids = tensors.tensor("targets").unwrap();
    // PyTorch's -100 is our u32::MAX: neither counts.
    let target = |&b: &[u8; 8]| u32::try_from(i64::from_le_bytes(b)).unwrap_or(IGNORE);
    let targets: Vec<u32> = ids.data().as_chunks::<8>().0.iter().map(target).collect();
    let config = preset("1m", 23, 16).unwrap();
    let mut b = B::open(&config, 16);
    let [h, w, teacher_h, teacher_w] =
        ["h", "w", "teacher_h", "teacher_w"].map(|name| oracle.f32(name).unwrap());
    let matrix = |w: &Vec<f32>| b.matrix(23, w.len() / 23, w.clone(), None);
    let (w, teacher_w) = (matrix(&w), matrix(&teacher_w));
    let terms = Distillation { temperature, kl, cross_entropy };
    let filled = |values: &[f32]| {
        let mut buffer = b.buffer(values.len());
        b.write(&mut buffer, values);
        buffer
    };
    let (mut dh, mut dw) = (filled(&vec![7.0; h.len()]), b.buffer(23 * 16)); // dh is overwritten
    let [h, teacher_h] = [h, teacher_h].map(|values| filled(&values));
    let teacher = Teaching::Head(&teacher_h, &teacher_w);
    b.distillation_backward((&mut dh, &mut dw), (&h, &w), teacher, &targets, terms, scale);
    let losses = b.tally().unwrap();
    b.distillation((&h, &w), teacher, &targets, terms);
    assert_eq!(losses, b.tally().unwrap(), "with and without gradients");
    let close = |ours: f64, theirs: f32| (ours / f64::from(theirs) - 1.0).abs() < 1e-5;
    assert!(close(losses.kl, expected_kl) && close(losses.loss, expected_ce), "{losses:?}");
    for (name, ours) in [("dh", &dh), ("dw", &dw)] {
        let error = relative(&b.read(ours).unwrap(), &oracle.f32(name).unwrap());
        assert!(error < 1e-5, "{name}: {error:.1e}");
    }
}
