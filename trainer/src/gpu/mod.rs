//! A GPU: every operation a dispatch of a kernel in `wgsl/`, by the runtime's one door to wgpu.
//!
//! f32 throughout; weights are unpacked from their codes inside of the products. Sums have one order and no float is added
//! atomically, so one device gives the same bits each time. No binding is larger than the door's limit: larger buffers
//! are worked on in pieces. Operations are recorded and handed over when tokens are uploaded or the tally is read.

mod launch;
mod layers;
mod losses;
mod memory;
mod products;
mod shaders;
mod tally;
mod updates;

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};

use bonsai_runtime::Config;
use bonsai_runtime::gpu::device::{Counts, Gpu};
use bonsai_runtime::ternary::TernaryMatrix;
use half::f16;

use crate::backend::{
    AdamW, AttentionShape, Backend, Distillation, Likeliest, Muon, Projection, Tally, Teaching,
};
use crate::error::{Error, Result};
use crate::formats::{Latents, Moment, MomentFormat};

pub use memory::{GpuBuffer, GpuMatrix};
pub use shaders::SHADERS;

use losses::{Head, HeadGradients};
use memory::Ternary;

/// The GPU backend.
pub struct GpuBackend {
    gpu: Gpu,
    tuning: Tuning,
    /// Positions that there are angles for.
    seq: usize,
    /// Cosine and sine of each pair of a head, `[positions, head_dim / 2, 2]`.
    angles: GpuBuffer,
    sums: tally::Sums,
    /// The factor that clips a gradient by its own norm.
    clip: GpuBuffer,
    /// What kernels get that have no codes.
    unused: [GpuBuffer; 2],
    scratch: HashMap<&'static str, GpuBuffer>,
    fault: OnceCell<bonsai_runtime::Error>,
}

/// How work is cut for a device.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// Numbers of the largest binding, a multiple of 2^14.
    pub span: usize,
    /// Matrix products by way of workgroup memory.
    pub tiled: bool,
}

impl Tuning {
    /// What suits a device: 128 MiB are a binding everywhere, and programs on the CPU have no faster memory.
    pub fn of(gpu: &Gpu) -> Self {
        Self { span: 1 << 25, tiled: !gpu.adapter().software() }
    }
}

impl GpuBackend {
    /// Refuses what [`GpuBackend::new`] refuses.
    pub fn check_shape(gpu: &Gpu, config: &Config, seq: usize) -> Result<()> {
        check_shape(config, seq, Tuning::of(gpu).span)
    }

    /// A backend for models of this shape and sequences of up to `seq` tokens. Refuses shapes that the kernels, which
    /// read four numbers at a time, do not know.
    pub fn new(gpu: Gpu, config: &Config, seq: usize) -> Result<Self> {
        let tuning = Tuning::of(&gpu);
        Self::with_tuning(gpu, config, seq, tuning)
    }

    /// The same, cut in another way.
    pub fn with_tuning(gpu: Gpu, config: &Config, seq: usize, tuning: Tuning) -> Result<Self> {
        check_shape(config, seq, tuning.span)?;
        let (frequencies, factor) = config.rope.frequencies(config.head_dim);
        let turns = (0..seq).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
        let angles: Vec<f32> =
            turns.flat_map(|a| [(libm::cos(a) * factor) as f32, (libm::sin(a) * factor) as f32]).collect();
        let buffer = |len: usize| Ok::<_, Error>(GpuBuffer { raw: Some(gpu.buffer(4 * len)?), len });
        let (sums, clip, unused) = (buffer(tally::ROOM)?, buffer(4)?, [buffer(4)?, buffer(4)?]);
        let backend = Self {
            angles: buffer(angles.len())?,
            sums: tally::Sums::new(sums),
            clip,
            unused,
            gpu,
            tuning,
            seq,
            scratch: HashMap::new(),
            fault: OnceCell::new(),
        };
        backend.upload(&backend.angles, 0, &angles);
        Ok(backend)
    }

    /// What the device has done so far.
    pub fn counts(&self) -> Counts {
        self.gpu.counts()
    }
}

/// A head and what it reads.
fn head<'a>(h: &'a GpuBuffer, w: &'a GpuMatrix) -> Head<'a> {
    Head { h, w: w.weights() }
}

fn head_of<'a>(teacher: Teaching<'a, GpuBuffer, GpuMatrix>) -> Head<'a> {
    match teacher {
        Teaching::Head(h, w) => head(h, w),
        Teaching::Likeliest(_) => unreachable!("a run with teacher_cache is refused before it begins"),
    }
}

/// Refuses what the kernels, which read four numbers at a time, do not know, and what no binding of `span` numbers holds.
fn check_shape(config: &Config, seq: usize, span: usize) -> Result<()> {
    let refused = |what: String| Err(Error::Config(format!("{what}; use --device cpu")));
    let odd = [config.hidden, config.intermediate, config.head_dim].into_iter().find(|n| n % 4 != 0);
    if let Some(n) = odd.or((config.head_dim > 256).then_some(config.head_dim)) {
        return refused(format!(
            "a width of {n}: on a GPU all are multiples of 4, and heads at most 256 wide"
        ));
    }
    let longest = span / (config.heads * config.head_dim);
    if seq > longest {
        return refused(format!("sequences of {seq} tokens: on a GPU {longest} at most"));
    }
    if 16 * config.vocab.next_multiple_of(64) > span {
        return refused(format!(
            "a vocabulary of {}: on a GPU {} at most",
            config.vocab,
            span / 16 / 64 * 64
        ));
    }
    Ok(())
}

impl Backend for GpuBackend {
    type Buffer = GpuBuffer;
    type Matrix = GpuMatrix;
    type Moment = GpuBuffer;

    fn buffer(&self, len: usize) -> GpuBuffer {
        self.zeros(len)
    }

    fn matrix(
        &self,
        rows: usize,
        cols: usize,
        latent: impl Into<Latents>,
        projection: Option<Projection>,
    ) -> GpuMatrix {
        let values = latent.into().into_f32();
        assert_eq!(values.len(), rows * cols, "latent weights of a {rows} x {cols} matrix");
        let latent = self.zeros(values.len());
        self.upload(&latent, 0, &values);
        let ternary = projection.map(|projection| {
            let [codes, scales] = [16, projection.group].map(|per| self.zeros(values.len() / per));
            let ternary = Ternary { projection, codes, scales };
            self.project(&latent, &ternary);
            ternary
        });
        GpuMatrix { rows, cols, latent, ternary, share: 1.0 }
    }

    fn read<'a>(&self, buffer: &'a GpuBuffer) -> Result<Cow<'a, [f32]>> {
        Ok(Cow::Owned(self.fetch(buffer, 0..buffer.len)?))
    }

    fn write(&self, buffer: &mut GpuBuffer, values: &[f32]) {
        self.upload(buffer, 0, values);
    }

    fn moment(&self, len: usize, format: MomentFormat) -> GpuBuffer {
        assert!(format == MomentFormat::F32, "a run with 8-bit state is refused before it begins");
        self.zeros(len)
    }

    fn read_moment<'a>(&self, moment: &'a GpuBuffer) -> Result<Moment<'a>> {
        Ok(Moment { floats: self.read(moment)?, codes: Cow::Borrowed(&[]) })
    }

    fn write_moment(&self, moment: &mut GpuBuffer, values: &Moment<'_>) {
        self.write(moment, &values.floats);
    }

    fn latents<'a>(&self, matrix: &'a GpuMatrix) -> Result<Cow<'a, Latents>> {
        Ok(Cow::Owned(Latents::F32(self.read(&matrix.latent)?.into_owned())))
    }

    fn ternary<'a>(&self, matrix: &'a GpuMatrix) -> Result<Option<Cow<'a, TernaryMatrix>>> {
        let Some(Ternary { projection, codes, scales }) = &matrix.ternary else { return Ok(None) };
        let words: Vec<u32> = self.fetch(codes, 0..codes.len)?;
        let scales: Vec<f32> = self.fetch(scales, 0..scales.len)?;
        Ok(Some(Cow::Owned(TernaryMatrix {
            rows: matrix.rows,
            cols: matrix.cols,
            group: projection.group,
            codes: words.into_iter().flat_map(u32::to_le_bytes).collect(),
            scales: scales.into_iter().map(f16::from_f32).collect(),
        })))
    }

    fn tally(&mut self) -> Result<Tally> {
        self.take_tally()
    }

    fn immediate(&self) -> bool {
        false
    }

    fn tally_for(&mut self, parameter: usize) {
        self.sums.read.tally_for(parameter);
    }

    fn tallies(&mut self) -> BTreeMap<usize, Tally> {
        self.sums.read.taken()
    }

    fn ramp(&self, matrix: &mut GpuMatrix, share: f32) {
        matrix.share = share;
    }

    fn embed(&mut self, out: &mut GpuBuffer, table: &GpuMatrix, tokens: &[u32]) {
        self.look_up(out, table, tokens);
    }

    fn embed_backward(&mut self, d_table: &mut GpuBuffer, d_out: &GpuBuffer, tokens: &[u32]) {
        self.look_up_backward(d_table, d_out, tokens);
    }

    fn rms_norm(&mut self, out: &mut GpuBuffer, x: &GpuBuffer, gain: &GpuMatrix, eps: f32) {
        self.norm(out, x, &gain.latent, eps);
    }

    fn rms_norm_backward(
        &mut self,
        dx: &mut GpuBuffer,
        accumulate: bool,
        d_gain: &mut GpuBuffer,
        [dy, x]: [&GpuBuffer; 2],
        gain: &GpuMatrix,
        eps: f32,
    ) {
        self.norm_backward((dx, accumulate), d_gain, [dy, x], &gain.latent, eps);
    }

    fn linear(&mut self, y: &mut GpuBuffer, x: &GpuBuffer, w: &GpuMatrix) {
        self.nt(y.rows(w.rows), x.rows(w.cols), w.weights(), 1.0);
    }

    fn linear_backward(
        &mut self,
        dx: &mut GpuBuffer,
        accumulate: bool,
        dw: &mut GpuBuffer,
        dy: &GpuBuffer,
        x: &GpuBuffer,
        w: &GpuMatrix,
    ) {
        self.nn(dx.rows(w.cols), dy.rows(w.rows), w.weights(), accumulate, 1.0);
        self.tn(dw.rows(w.cols), dy.rows(w.rows), x.rows(w.cols), true);
    }

    fn rope(&mut self, x: &mut GpuBuffer, shape: AttentionShape) {
        self.rotate(x, shape, 1.0);
    }

    fn rope_backward(&mut self, dx: &mut GpuBuffer, shape: AttentionShape) {
        self.rotate(dx, shape, -1.0);
    }

    fn attention(
        &mut self,
        out: &mut GpuBuffer,
        lse: &mut GpuBuffer,
        qkv: [&GpuBuffer; 3],
        shape: AttentionShape,
    ) {
        self.attend(out, lse, qkv, shape);
    }

    fn attention_backward(
        &mut self,
        [dq, dk, dv]: [&mut GpuBuffer; 3],
        d_out: &GpuBuffer,
        out: &GpuBuffer,
        lse: &GpuBuffer,
        qkv: [&GpuBuffer; 3],
        shape: AttentionShape,
    ) {
        self.attend_backward([dq, dk, dv], [d_out, out, lse], qkv, shape);
    }

    fn swiglu(&mut self, out: &mut GpuBuffer, gate: &GpuBuffer, up: &GpuBuffer) {
        self.elementwise(&shaders::SWIGLU, &[out, gate, up], &[]);
    }

    fn swiglu_backward(&mut self, gate: &mut GpuBuffer, up: &mut GpuBuffer, d_out: &GpuBuffer) {
        self.elementwise(&shaders::SWIGLU_BACKWARD, &[gate, up, d_out], &[]);
    }

    fn copy(&mut self, out: &mut GpuBuffer, x: &GpuBuffer) {
        self.elementwise(&shaders::COPY, &[out, x], &[1.0f32.to_bits()]);
    }

    fn add(&mut self, x: &mut GpuBuffer, y: &GpuBuffer) {
        self.elementwise(&shaders::ADD, &[x, y], &[]);
    }

    fn cross_entropy(&mut self, h: &GpuBuffer, w: &GpuMatrix, targets: &[u32]) {
        self.head_loss(head(h, w), targets, None, 0.0);
    }

    fn cross_entropy_backward(
        &mut self,
        dh: &mut GpuBuffer,
        dw: &mut GpuBuffer,
        h: &GpuBuffer,
        w: &GpuMatrix,
        targets: &[u32],
        scale: f32,
        z_loss: f32,
    ) {
        self.head_loss(head(h, w), targets, Some(HeadGradients { dh, dw, scale }), z_loss);
    }

    fn likeliest(&mut self, _: (&GpuBuffer, &GpuMatrix), _: usize, _: f32) -> Likeliest {
        unreachable!("a run with teacher_cache is refused before it begins");
    }

    fn distillation(
        &mut self,
        (h, w): (&GpuBuffer, &GpuMatrix),
        teacher: Teaching<'_, GpuBuffer, GpuMatrix>,
        targets: &[u32],
        terms: Distillation,
    ) {
        self.distill(head(h, w), head_of(teacher), targets, terms, None);
    }

    fn distillation_backward(
        &mut self,
        (dh, dw): (&mut GpuBuffer, &mut GpuBuffer),
        (h, w): (&GpuBuffer, &GpuMatrix),
        teacher: Teaching<'_, GpuBuffer, GpuMatrix>,
        targets: &[u32],
        terms: Distillation,
        scale: f32,
    ) {
        let gradients = Some(HeadGradients { dh, dw, scale });
        self.distill(head(h, w), head_of(teacher), targets, terms, gradients);
    }

    fn stream_distance_backward(&mut self, _: &mut GpuBuffer, _: [&GpuBuffer; 2], _: &[u32], _: f32) {
        unreachable!("a run with hidden_weight is refused before it begins");
    }

    fn sum_of_squares(&mut self, buffer: &GpuBuffer) {
        self.tally_squares(buffer);
    }

    fn adamw(&mut self, w: &mut GpuMatrix, grad: &mut GpuBuffer, moments: &mut [GpuBuffer], step: AdamW) {
        self.update_adamw(w, grad, moments, step);
    }

    fn muon(&mut self, w: &mut GpuMatrix, grad: &mut GpuBuffer, momentum: &mut [GpuBuffer], step: Muon) {
        self.update_muon(w, grad, momentum, step);
    }

    fn clear(&mut self, buffer: &mut GpuBuffer) {
        if let (Some(raw), None) = (&buffer.raw, self.fault.get()) {
            self.gpu.clear(raw.all());
        }
    }
}
