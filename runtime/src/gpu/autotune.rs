//! Which way of computing the products of one token is the fastest on a device, and what else limits a token there.
//!
//! Times are wall-clock times of batches that end when the device is done: what a session sees.

use std::time::Instant;

use super::device::{Buffer, Gpu};
use super::ways::{Shape, Way, Ways};
use super::{COUNT, Epilogue, GpuBackend, GpuMatrix, GpuTensor, READ_WORDS, keeps_subnormal_halves};
use crate::backend::{Backend, Norm};
use crate::bench::median;
use crate::cpu::KvFormat;
use crate::error::Result;
use crate::model::Weights;
use crate::random::Random;
use crate::session::{Model, nmse};

/// The largest normalised mean square error of a way against the portable one: sums in another order differ by 1e-14.
const CLOSE: f64 = 1e-11;
/// Batches of which the median counts,
const BATCHES: usize = 5;
/// and how long each should take, so that handing it over does not count.
const BATCH_SECONDS: f64 = 0.02;
/// Bytes read to find out how fast that is, if a buffer may have so many.
const READ_BYTES: u64 = 128 << 20;

/// A way that was tried on a shape.
#[derive(Debug, Clone)]
pub struct Tried {
    /// The way.
    pub way: Way,
    /// Its error against the portable way, or why it cannot be taken.
    pub error: std::result::Result<f64, String>,
    /// Seconds of a product; none of a way that computes something else.
    pub seconds: Option<f64>,
}

/// A shape with all ways that the device can go.
#[derive(Debug, Clone)]
pub struct Tuned {
    /// The shape.
    pub shape: Shape,
    /// How many stacks of it a token passes.
    pub stacks: usize,
    /// Bytes that a product reads of its weights.
    pub bytes: u64,
    /// In the order of [`Way::all`].
    pub tried: Vec<Tried>,
}

impl Tuned {
    /// The fastest that computes what the portable way does.
    pub fn best(&self) -> Option<&Tried> {
        let timed = self.tried.iter().filter(|tried| tried.seconds.is_some());
        timed.min_by(|a, b| a.seconds.partial_cmp(&b.seconds).unwrap_or(std::cmp::Ordering::Equal))
    }
}

/// A model on a device, to be measured.
pub struct Autotune {
    gpu: Gpu,
    halves: bool,
    backend: GpuBackend,
    weights: Weights<GpuBackend>,
}

impl Autotune {
    /// Uploads a model.
    pub fn new(gpu: &Gpu, model: &Model) -> Result<Self> {
        let halves = gpu.block_on(keeps_subnormal_halves(gpu))?;
        let mut backend = GpuBackend::with(gpu, 1, 1, Ways::untuned(halves), KvFormat::F16)?;
        let weights = Weights::new(&mut backend, model.file())?;
        Ok(Self { gpu: gpu.clone(), halves, backend, weights })
    }

    /// Whether the device keeps subnormal halves.
    pub fn halves(&self) -> bool {
        self.halves
    }

    /// Tries every way on every shape of the model, and calls `done` after each shape.
    pub fn tune(&self, mut done: impl FnMut(&Tuned)) -> Result<Vec<Tuned>> {
        let mut shapes: Vec<(Shape, Epilogue, Vec<&GpuMatrix>)> = Vec::new();
        for (epilogue, matrix) in self.matrices() {
            match shapes.iter_mut().find(|(shape, ..)| *shape == matrix.shape()) {
                Some((.., matrices)) => matrices.push(matrix),
                None => shapes.push((matrix.shape(), epilogue, vec![matrix])),
            }
        }
        let tuned = shapes.into_iter().map(|(shape, epilogue, matrices)| {
            let tuned = self.tune_shape(shape, epilogue, &matrices)?;
            done(&tuned);
            Ok(tuned)
        });
        tuned.collect()
    }

    /// What a token passes, with what becomes of each product.
    fn matrices(&self) -> impl Iterator<Item = (Epilogue, &GpuMatrix)> {
        let of_layer = [Epilogue::Store, Epilogue::Add, Epilogue::Gate, Epilogue::Add];
        let matrices = 4 * self.weights.config.layers;
        let epilogues = of_layer.into_iter().cycle().take(matrices).chain([Epilogue::Store]);
        epilogues.zip(self.weights.matrices())
    }

    fn tune_shape(&self, shape: Shape, epilogue: Epilogue, matrices: &[&GpuMatrix]) -> Result<Tuned> {
        let product = Product::new(self, shape, epilogue)?;
        let expected = product.result(matrices[0], Way::PORTABLE)?;
        let mut tried = Vec::new();
        for way in Way::all(&self.gpu, self.halves) {
            let error = product.result(matrices[0], way).map(|got| nmse(&got, &expected));
            self.gpu.flush()?; // a device that is lost is no property of the way
            let close = matches!(error, Ok(error) if error <= CLOSE);
            let seconds = if close { Some(product.seconds(matrices, way)?) } else { None };
            tried.push(Tried { way, error: error.map_err(|e| e.to_string()), seconds });
        }
        let parts = matrices[0].parts.iter();
        let bytes = parts.map(|part| part.weights().bytes() + part.scales().bytes()).sum();
        Ok(Tuned { shape, stacks: matrices.len(), bytes, tried })
    }
}

/// Products of one shape with random activations.
struct Product<'a> {
    of: &'a Autotune,
    epilogue: Epilogue,
    x: GpuTensor,
    norm: Norm<GpuTensor>,
    outs: [GpuTensor; 3],
}

impl<'a> Product<'a> {
    fn new(of: &'a Autotune, shape: Shape, epilogue: Epilogue) -> Result<Self> {
        let mut random = Random(1);
        let mut tensor = |low: f64| -> Result<GpuTensor> {
            let tensor = of.backend.tensor(1, shape.cols)?;
            let values = (0..shape.cols).map(|_| (low + random.uniform()) as f32);
            of.gpu.upload(&tensor.buffer, 0, &values.collect::<Vec<_>>());
            Ok(tensor)
        };
        let (x, gain) = (tensor(-0.5)?, tensor(0.5)?);
        let out = || of.backend.tensor(1, shape.rows);
        Ok(Self { of, epilogue, x, norm: Norm { gain, eps: 1e-6 }, outs: [out()?, out()?, out()?] })
    }

    fn run(&self, matrix: &GpuMatrix, way: Way) -> Result<()> {
        let kernel = matrix.matvec(&self.of.gpu, way, self.epilogue)?;
        let norm = (self.epilogue != Epilogue::Add).then_some(&self.norm);
        self.of.backend.matvec(&self.outs.each_ref(), (&self.x.buffer, 0), norm, matrix, &kernel);
        Ok(())
    }

    /// All outputs, one behind the other; what the product does not write is 0.
    fn result(&self, matrix: &GpuMatrix, way: Way) -> Result<Vec<f32>> {
        self.outs.iter().for_each(|out| self.of.gpu.clear(out.buffer.all()));
        self.run(matrix, way)?;
        let rows = self.outs[0].cols;
        let mut all = vec![0.0; 3 * rows];
        for (out, values) in self.outs.iter().zip(all.chunks_exact_mut(rows)) {
            self.of.gpu.read(out.buffer.all(), values)?;
        }
        Ok(all)
    }

    /// Of one product. All stacks take turns, so that none is found in a cache that a token would not find it in.
    fn seconds(&self, matrices: &[&GpuMatrix], way: Way) -> Result<f64> {
        let batch = |turns: usize| -> Result<f64> {
            let start = Instant::now();
            for matrix in (0..turns).flat_map(|_| matrices) {
                self.run(matrix, way)?;
            }
            self.of.gpu.finish()?;
            Ok(start.elapsed().as_secs_f64() / (turns * matrices.len()) as f64)
        };
        let first = batch(1)? * matrices.len() as f64;
        let turns = (BATCH_SECONDS / first).clamp(1.0, 50.0) as usize;
        let batches = (0..BATCHES).map(|_| batch(turns)).collect::<Result<Vec<_>>>()?;
        Ok(median(&batches))
    }
}

/// Bytes a second that a kernel reads which does little else, and how many it read.
pub fn read_bandwidth(gpu: &Gpu) -> Result<(f64, u64)> {
    let limits = gpu.limits();
    let bytes = READ_BYTES.min(limits.binding).min(limits.buffer) / 16 * 16;
    let groups = 1024.min(limits.groups);
    let (words, out) = (gpu.buffer(bytes as usize)?, gpu.buffer(16 * 256 * groups as usize)?);
    let kernel = gpu.kernel(&READ_WORDS, &[])?;
    let once = || -> Result<f64> {
        let start = Instant::now();
        gpu.run(&kernel, &[out.all(), words.all()], &[(bytes / 16) as u32], [groups, 1, 1]);
        gpu.finish()?;
        Ok(start.elapsed().as_secs_f64())
    };
    once()?;
    let seconds = (0..BATCHES).map(|_| once()).collect::<Result<Vec<_>>>()?;
    Ok((bytes as f64 / seconds.into_iter().fold(f64::MAX, f64::min), bytes))
}

/// Seconds from the first of so many dispatches, each of which must see what the one before it did, to the news that the
/// last is done.
pub fn dispatches(gpu: &Gpu, count: usize) -> Result<f64> {
    let kernel = gpu.kernel(&COUNT, &[])?;
    let once = || -> Result<f64> {
        let (x, start) = (gpu.buffer(4)?, Instant::now());
        (0..count).for_each(|_| gpu.run(&kernel, &[x.all()], &[1u32], [1, 1, 1]));
        gpu.finish()?;
        let seconds = start.elapsed().as_secs_f64();
        counted(gpu, &x, count)?;
        Ok(seconds)
    };
    once()?;
    Ok(median(&(0..BATCHES).map(|_| once()).collect::<Result<Vec<_>>>()?))
}

/// An error if the dispatches did not see each other's work.
fn counted(gpu: &Gpu, x: &Buffer, count: usize) -> Result<()> {
    let mut got = [0u32];
    gpu.read(x.all(), &mut got)?;
    match got[0] as usize == count {
        true => Ok(()),
        false => Err(crate::Error::Gpu(format!("{count} dispatches added up to {}", got[0]))),
    }
}
