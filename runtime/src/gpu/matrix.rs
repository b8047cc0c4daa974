//! Weights on the device: codes and scales apart, in the order of GGUF's Q2_0, whatever the file had; dense ones as f32.

use half::f16;

use super::Epilogue;
use super::device::{Binding, Buffer, Gpu, Kernel};
use super::shaders::{EMBED, MATMUL};
use super::ways::{Shape, Way, Ways};
use crate::error::{Error, Result};
use crate::tensor::{Format, StoredTensor};

/// Weights of a word of codes.
pub(super) const WORD: usize = 16;

/// How the weights of a stack are written: the constants of the kernels that read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Weights {
    /// Codes, and a scale for so many.
    Ternary { group: usize },
    /// f32.
    Dense,
}

/// Matrices one below the other, cut into parts that can be bound.
pub struct GpuMatrix {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// First row of the second and of the third matrix, or the end.
    pub(super) starts: [usize; 2],
    pub(super) parts: Vec<Part>,
    shape: Shape,
    pub(super) kernels: Kernels,
}

/// Some rows of a stack.
pub(super) struct Part {
    /// The first of them, in the stack.
    pub first: usize,
    pub rows: usize,
    /// Words of two scales in a row.
    pub halves: usize,
    weights: Buffer,
    scales: Buffer,
}

/// The kernels for one way of writing weights.
#[derive(Clone)]
pub(super) struct Kernels {
    pub embed: Kernel,
    /// Store with a norm before, add, gate with a norm before.
    pub matvec: [Kernel; 3],
    /// Store, add, gate.
    pub matmul: [Kernel; 3],
}

impl Weights {
    fn of(stored: &StoredTensor) -> Self {
        match stored.format {
            Format::Ternary(packing) => Self::Ternary { group: packing.group() },
            _ => Self::Dense,
        }
    }

    /// Weights that share a scale; 0: there are none.
    fn group(self) -> usize {
        match self {
            Self::Ternary { group } => group,
            Self::Dense => 0,
        }
    }

    /// Words of weights and of scales in a row.
    fn row_words(self, cols: usize) -> (usize, usize) {
        match self {
            Self::Ternary { group } => (cols / WORD, (cols / group).div_ceil(2)),
            Self::Dense => (cols, 0),
        }
    }

    fn constants(self) -> (&'static str, f64) {
        match self {
            Self::Ternary { group } => ("GROUP_WORDS", (group / WORD) as f64),
            Self::Dense => ("DENSE", 1.0),
        }
    }

    fn matvec(self, gpu: &Gpu, way: Way, epilogue: Epilogue) -> Result<Kernel> {
        let norm = if matches!(epilogue, Epilogue::Add) { 0.0 } else { 1.0 };
        let [halves, threads] = way.constants();
        let epilogue = ("EPILOGUE", f64::from(epilogue as u8));
        gpu.kernel(way.shader(), &[("NORM", norm), epilogue, halves, threads, self.constants()])
    }

    fn kernels(self, gpu: &Gpu, way: Way) -> Result<Kernels> {
        let format = self.constants();
        let matvec = |epilogue| self.matvec(gpu, way, epilogue);
        let matmul = |epilogue: f64| gpu.kernel(&MATMUL, &[("EPILOGUE", epilogue), format]);
        Ok(Kernels {
            embed: gpu.kernel(&EMBED, &[format])?,
            matvec: [matvec(Epilogue::Store)?, matvec(Epilogue::Add)?, matvec(Epilogue::Gate)?],
            matmul: [matmul(0.0)?, matmul(1.0)?, matmul(2.0)?],
        })
    }
}

impl GpuMatrix {
    /// Uploads a stack of at most three matrices.
    pub(super) fn new(gpu: &Gpu, stack: &[&StoredTensor], ways: &Ways) -> Result<Self> {
        let (cols, weights) = (stack[0].cols, Weights::of(stack[0]));
        if !cols.is_multiple_of(WORD) {
            let message = format!("a matrix of {cols} columns: the GPU needs a multiple of {WORD}");
            return Err(Error::Unsupported(message));
        }
        if stack.iter().any(|m| m.cols != cols || Weights::of(m) != weights) {
            return Err(Error::Unsupported("matrices side by side in several formats, on a GPU".into()));
        }
        let ends: Vec<_> = stack
            .iter()
            .scan(0, |end, m| {
                *end += m.rows;
                Some(*end)
            })
            .collect();
        let rows = ends[ends.len() - 1];
        let (words, _) = weights.row_words(cols);
        let most = (gpu.limits().binding.min(gpu.limits().buffer) as usize / (4 * words)).max(1);
        if stack.len() == 2 && rows > most {
            let message = format!("gate and up of {rows} rows in f32 are more than this GPU binds at once");
            return Err(Error::Unsupported(message));
        }
        let all: Vec<(&StoredTensor, usize)> =
            stack.iter().flat_map(|m| (0..m.rows).map(move |r| (*m, r))).collect();
        let parts = all.chunks(most).enumerate().map(|(n, rows)| Part::new(gpu, weights, n * most, rows));
        let start = |n: usize| ends.get(n).copied().unwrap_or(rows);
        let shape = Shape { rows, cols, group: weights.group(), matrices: stack.len() };
        let (parts, kernels) = (parts.collect::<Result<_>>()?, weights.kernels(gpu, ways.of(shape))?);
        Ok(Self { rows, cols, starts: [start(0), start(1)], parts, kernels, shape })
    }

    /// What a way of computing products is chosen by.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The kernel that computes in one of the ways.
    #[cfg(not(target_family = "wasm"))]
    pub(super) fn matvec(&self, gpu: &Gpu, way: Way, epilogue: Epilogue) -> Result<Kernel> {
        let weights = match self.shape.group {
            0 => Weights::Dense,
            group => Weights::Ternary { group },
        };
        weights.matvec(gpu, way, epilogue)
    }
}

impl Part {
    fn new(gpu: &Gpu, weights: Weights, first: usize, rows: &[(&StoredTensor, usize)]) -> Result<Self> {
        let cols = rows[0].0.cols;
        let (words, halves) = weights.row_words(cols);
        let mut bytes = Vec::with_capacity(4 * words * rows.len());
        let mut scales: Vec<f16> = Vec::with_capacity(2 * halves * rows.len());
        let mut row = vec![0.0; cols];
        for &(stored, n) in rows {
            match stored.format {
                Format::Ternary(packing) => {
                    let mut codes = vec![0; packing.group()];
                    let blocks = &stored.bytes[n * stored.row_bytes()..][..stored.row_bytes()];
                    for block in blocks.chunks_exact(packing.block_bytes()) {
                        scales.push(packing.scale(block));
                        packing.read_codes(block, &mut codes);
                        let fours = codes.as_chunks::<4>().0.iter();
                        bytes.extend(fours.map(|c| c[0] | c[1] << 2 | c[2] << 4 | c[3] << 6));
                    }
                    scales.resize(scales.len().next_multiple_of(2), f16::ZERO); // rows begin with a whole word
                }
                _ => {
                    stored.read_row(n, &mut row);
                    bytes.extend_from_slice(bytemuck::cast_slice(&row));
                }
            }
        }
        let part = |bytes: &[u8]| gpu.buffer_of(bytes);
        Ok(Self {
            first,
            rows: rows.len(),
            halves,
            weights: part(&bytes)?,
            scales: part(bytemuck::cast_slice(&scales))?,
        })
    }

    pub fn weights(&self) -> Binding<'_> {
        self.weights.all()
    }

    pub fn scales(&self) -> Binding<'_> {
        self.scales.all()
    }
}
