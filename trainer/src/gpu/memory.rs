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

    /// A few of its numbers, for a kernel that reads none.
    pub(super) fn few(&self) -> Piece<'_> {
        self.piece(0..self.len.min(4))
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
    /// Share of the rounded weights in what the forward pass sees; the rest are the latent ones.
    pub(super) share: f32,
}

/// Weights that `rounding.wgsl` sorts at a time.
const SORTED: usize = 2048;

/// Codes, 16 in a word in the order of `TernaryMatrix`, and scales, as f32 that f16 can hold.
pub(super) struct Ternary {
    pub(super) projection: Projection,
    pub(super) codes: GpuBuffer,
    pub(super) scales: GpuBuffer,
}

impl Ternary {
    /// The constants of the kernels that round.
    pub(super) fn constants(&self) -> [(&'static str, f64); 3] {
        let Projection { group, rule } = self.projection;
        let number = ScaleRule::ALL.iter().position(|known| *known == rule).expect("ALL has every rule");
        let sorted = if rule == ScaleRule::LeastSquares { SORTED } else { 1 };
        [("GROUP", group as f64), ("RULE", number as f64), ("SORTED", sorted as f64)]
    }
}

impl GpuMatrix {
    /// What the forward pass multiplies with.
    pub(super) fn weights(&self) -> Weights<'_> {
        let dense = Weights::dense(&self.latent, self.cols);
        match &self.ternary {
            None => dense,
            Some(Ternary { projection, codes, scales }) => Weights {
                numbers: codes,
                scales: Some((scales, projection.group)),
                mixed: (self.share < 1.0).then_some((&self.latent, self.share)),
                ..dense
            },
        }
    }
}

/// The second factor of a product: dense, or codes with their scales and group, and with what they are mixed with.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) numbers: &'a GpuBuffer,
    pub(super) scales: Option<(&'a GpuBuffer, usize)>,
    /// Latent weights, and the share of the rounded ones.
    pub(super) mixed: Option<(&'a GpuBuffer, f32)>,
}

impl<'a> Weights<'a> {
    /// A dense matrix of all of a buffer.
    pub(super) fn dense(numbers: &'a GpuBuffer, cols: usize) -> Self {
        Self { rows: numbers.len / cols, cols, numbers, scales: None, mixed: None }
    }

    /// Parts of the rows that fit into bindings of `span` numbers.
    pub(super) fn parts(&self, span: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let packed = self.scales.is_some() && self.mixed.is_none();
        row_parts(self.rows, if packed { self.cols / 16 } else { self.cols }, span)
    }

    /// Numbers, scales and latent weights of some rows; for what there is not, something else that a kernel may be given.
    pub(super) fn pieces(&self, rows: &Range<usize>) -> [Piece<'a>; 3] {
        let part = |per: usize| rows.start * self.cols / per..rows.end * self.cols / per;
        let Some((scales, group)) = self.scales else {
            return [self.numbers.piece(part(1)), self.numbers.few(), self.numbers.few()];
        };
        let latents = self.mixed.map_or(scales.few(), |(latents, _)| latents.piece(part(1)));
        [self.numbers.piece(part(16)), scales.piece(part(group)), latents]
    }

    /// Constants and the share of what reads these weights.
    pub(super) fn reader(&self) -> ([(&'static str, f64); 3], f32) {
        let flag = |on: bool| f64::from(u8::from(on));
        let constants = [
            ("TERNARY", flag(self.scales.is_some())),
            ("GROUP", self.scales.map_or(128, |(_, group)| group) as f64),
            ("MIXED", flag(self.mixed.is_some())),
        ];
        (constants, self.mixed.map_or(1.0, |(_, share)| share))
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
