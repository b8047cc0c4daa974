//! Buffers and matrices on the device, and how they are cut into pieces that a kernel may be given.

use std::ops::Range;

use bonsai_runtime::gpu::device;
use bonsai_runtime::gpu::device::Binding;
use bonsai_runtime::ternary::ScaleRule;

use crate::backend::Projection;

/// Numbers of 4 bytes on the device; behind the last are zeros up to a multiple of 4. Cloning shares them.
#[derive(Clone)]
pub struct GpuBuffer {
    /// `None`: there was no memory for it, which the backend remembers.
    pub(super) raw: Option<device::Buffer>,
    pub(super) len: usize,
}

impl GpuBuffer {
    /// All of it.
    pub(super) fn all(&self) -> Piece<'_> {
        self.piece(0..self.len)
    }

    /// Numbers `range`, which begins at a multiple of 64.
    pub(super) fn piece(&self, range: Range<usize>) -> Piece<'_> {
        Piece { buffer: self, range }
    }

    /// As rows of `stride` numbers.
    pub(super) fn rows(&self, stride: usize) -> Rows<'_> {
        Rows { buffer: self, first: 0, rows: self.len / stride, stride }
    }
}

/// A piece of a buffer, as a kernel gets it.
pub(super) struct Piece<'a> {
    pub(super) buffer: &'a GpuBuffer,
    pub(super) range: Range<usize>,
}

impl<'a> Piece<'a> {
    /// As the door wants it; whole vectors of four. `None` where there is no memory behind it.
    pub(super) fn binding(&self) -> Option<Binding<'a>> {
        let raw = self.buffer.raw.as_ref()?;
        let end = (4 * self.range.end as u64).next_multiple_of(16).min(raw.bytes());
        Some(raw.slice(4 * self.range.start as u64..end))
    }
}

/// Consecutive rows of a buffer.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) buffer: &'a GpuBuffer,
    pub(super) first: usize,
    pub(super) rows: usize,
    pub(super) stride: usize,
}

impl<'a> Rows<'a> {
    /// Rows `range` of these.
    pub(super) fn some(self, range: Range<usize>) -> Self {
        assert!(range.end <= self.rows, "rows {range:?} of {}", self.rows);
        Self { first: self.first + range.start, rows: range.len(), ..self }
    }

    pub(super) fn piece(self) -> Piece<'a> {
        self.buffer.piece(self.first * self.stride..(self.first + self.rows) * self.stride)
    }
}

/// A parameter on the device.
pub struct GpuMatrix {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) latent: GpuBuffer,
    pub(super) ternary: Option<Ternary>,
}

/// Codes, 16 in a word in the order of `TernaryMatrix`, and scales, as f32 that f16 can hold.
pub(super) struct Ternary {
    pub(super) projection: Projection,
    pub(super) codes: GpuBuffer,
    pub(super) scales: GpuBuffer,
}

impl Ternary {
    /// The constants of the kernels that round.
    pub(super) fn constants(&self) -> [(&'static str, f64); 2] {
        let refit = match self.projection.rule {
            ScaleRule::Absmean => false,
            ScaleRule::Refit => true,
            rule => unreachable!("a run with the scale rule {rule:?} is refused before it begins"),
        };
        [("GROUP", self.projection.group as f64), ("REFIT", f64::from(u8::from(refit)))]
    }
}

impl GpuMatrix {
    /// What the forward pass multiplies with.
    pub(super) fn weights(&self) -> Weights<'_> {
        let dense = Weights { rows: self.rows, cols: self.cols, numbers: &self.latent, scales: None };
        match &self.ternary {
            None => dense,
            Some(Ternary { projection, codes, scales }) => {
                Weights { numbers: codes, scales: Some((scales, projection.group)), ..dense }
            }
        }
    }
}

/// The second factor of a product: dense, or codes with their scales and group.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) numbers: &'a GpuBuffer,
    pub(super) scales: Option<(&'a GpuBuffer, usize)>,
}

impl<'a> Weights<'a> {
    /// A dense matrix of all of a buffer.
    pub(super) fn dense(numbers: &'a GpuBuffer, cols: usize) -> Self {
        Self { rows: numbers.len / cols, cols, numbers, scales: None }
    }

    /// Parts of the rows that fit into bindings of `span` numbers.
    pub(super) fn parts(&self, span: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        row_parts(self.rows, if self.scales.is_some() { self.cols / 16 } else { self.cols }, span)
    }

    /// Numbers and scales of some rows.
    pub(super) fn pieces(&self, rows: &Range<usize>) -> [Piece<'a>; 2] {
        let part = |per: usize| rows.start * self.cols / per..rows.end * self.cols / per;
        match self.scales {
            None => [self.numbers.piece(part(1)), self.numbers.piece(0..self.numbers.len.min(4))],
            Some((scales, group)) => [self.numbers.piece(part(16)), scales.piece(part(group))],
        }
    }
}

/// `rows` of `stride` numbers in parts that fit into bindings of `span`: all of them, or multiples of 64 rows, so that
/// pieces begin where bindings may.
pub(super) fn row_parts(
    rows: usize,
    stride: usize,
    span: usize,
) -> impl Iterator<Item = Range<usize>> + use<> {
    let most = if rows * stride <= span { rows.max(1) } else { span / stride / 64 * 64 };
    assert!(most > 0, "64 rows of {stride} numbers do not fit into bindings of {span}");
    parts(rows, most)
}

/// `0..n` in parts of at most `most`.
pub(super) fn parts(n: usize, most: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    (0..n).step_by(most).map(move |first| first..n.min(first + most))
}
