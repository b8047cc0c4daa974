//! A backend that knows how long each of its operations took.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Instant;

use bonsai_runtime::ternary::TernaryMatrix;

use crate::backend::{
    AdamW, AttentionShape, Backend, Distillation, Likeliest, Muon, Projection, Tally, Teaching,
};
use crate::communicator::Communicator;
use crate::error::Result;
use crate::formats::{Latents, Moment, MomentFormat};

/// Another backend and a clock. On a device that works behind the program's back the clock sees what the program waits for.
pub struct Timed<B> {
    inner: B,
    seconds: BTreeMap<&'static str, f64>,
}

impl<B> Timed<B> {
    /// A backend with a clock at zero.
    pub fn new(inner: B) -> Self {
        Self { inner, seconds: BTreeMap::new() }
    }

    /// Seconds of each operation since the last call.
    pub fn take(&mut self) -> BTreeMap<&'static str, f64> {
        std::mem::take(&mut self.seconds)
    }

    fn time<R>(&mut self, op: &'static str, work: impl FnOnce(&mut B) -> R) -> R {
        let clock = Instant::now();
        let result = work(&mut self.inner);
        *self.seconds.entry(op).or_default() += clock.elapsed().as_secs_f64();
        result
    }
}

impl<B: Backend> Backend for Timed<B> {
    type Buffer = B::Buffer;
    type Matrix = B::Matrix;
    type Moment = B::Moment;

    fn buffer(&self, len: usize) -> B::Buffer {
        self.inner.buffer(len)
    }

    fn matrix(
        &self,
        rows: usize,
        cols: usize,
        latent: impl Into<Latents>,
        projection: Option<Projection>,
    ) -> B::Matrix {
        self.inner.matrix(rows, cols, latent, projection)
    }

    fn read<'a>(&self, buffer: &'a B::Buffer) -> Result<Cow<'a, [f32]>> {
        self.inner.read(buffer)
    }

    fn write(&self, buffer: &mut B::Buffer, values: &[f32]) {
        self.inner.write(buffer, values);
    }

    fn moment(&self, len: usize, format: MomentFormat) -> B::Moment {
        self.inner.moment(len, format)
    }

    fn read_moment<'a>(&self, moment: &'a B::Moment) -> Result<Moment<'a>> {
        self.inner.read_moment(moment)
    }

    fn write_moment(&self, moment: &mut B::Moment, values: &Moment<'_>) {
        self.inner.write_moment(moment, values);
    }

    fn all_reduce(&mut self, buffer: &mut B::Buffer, world: &dyn Communicator) -> Result<()> {
        self.time("all_reduce", |b| b.all_reduce(buffer, world))
    }

    fn latents<'a>(&self, matrix: &'a B::Matrix) -> Result<Cow<'a, Latents>> {
        self.inner.latents(matrix)
    }

    fn ternary<'a>(&self, matrix: &'a B::Matrix) -> Result<Option<Cow<'a, TernaryMatrix>>> {
        self.inner.ternary(matrix)
    }

    fn tally(&mut self) -> Result<Tally> {
        if self.inner.immediate() {
            return self.inner.tally();
        }
        self.time("wait", B::tally)
    }

    fn tally_for(&mut self, parameter: usize) {
        self.inner.tally_for(parameter);
    }

    fn tallies(&mut self) -> BTreeMap<usize, Tally> {
        self.inner.tallies()
    }

    fn immediate(&self) -> bool {
        self.inner.immediate()
    }

    fn ramp(&self, matrix: &mut B::Matrix, share: f32) {
        self.inner.ramp(matrix, share);
    }

    fn seconds(&mut self) -> BTreeMap<&'static str, f64> {
        self.take()
    }

    fn embed(&mut self, out: &mut B::Buffer, table: &B::Matrix, tokens: &[u32]) {
        self.time("embed", |b| b.embed(out, table, tokens));
    }

    fn embed_backward(&mut self, d_table: &mut B::Buffer, d_out: &B::Buffer, tokens: &[u32]) {
        self.time("embed", |b| b.embed_backward(d_table, d_out, tokens));
    }

    fn rms_norm(&mut self, out: &mut B::Buffer, x: &B::Buffer, gain: &B::Matrix, eps: f32) {
        self.time("rms_norm", |b| b.rms_norm(out, x, gain, eps));
    }

    fn rms_norm_backward(
        &mut self,
        dx: &mut B::Buffer,
        accumulate: bool,
        d_gain: &mut B::Buffer,
        dy_and_x: [&B::Buffer; 2],
        gain: &B::Matrix,
        eps: f32,
    ) {
        self.time("rms_norm", |b| b.rms_norm_backward(dx, accumulate, d_gain, dy_and_x, gain, eps));
    }

    fn linear(&mut self, y: &mut B::Buffer, x: &B::Buffer, w: &B::Matrix) {
        self.time("linear", |b| b.linear(y, x, w));
    }

    fn linear_backward(
        &mut self,
        dx: &mut B::Buffer,
        accumulate: bool,
        dw: &mut B::Buffer,
        dy: &B::Buffer,
        x: &B::Buffer,
        w: &B::Matrix,
    ) {
        self.time("linear_backward", |b| b.linear_backward(dx, accumulate, dw, dy, x, w));
    }

    fn rope(&mut self, x: &mut B::Buffer, shape: AttentionShape) {
        self.time("rope", |b| b.rope(x, shape));
    }

    fn rope_backward(&mut self, dx: &mut B::Buffer, shape: AttentionShape) {
        self.time("rope", |b| b.rope_backward(dx, shape));
    }

    fn attention(
        &mut self,
        out: &mut B::Buffer,
        lse: &mut B::Buffer,
        qkv: [&B::Buffer; 3],
        shape: AttentionShape,
    ) {
        self.time("attention", |b| b.attention(out, lse, qkv, shape));
    }

    fn attention_backward(
        &mut self,
        d_qkv: [&mut B::Buffer; 3],
        d_out: &B::Buffer,
        out: &B::Buffer,
        lse: &B::Buffer,
        qkv: [&B::Buffer; 3],
        shape: AttentionShape,
    ) {
        self.time("attention_backward", |b| b.attention_backward(d_qkv, d_out, out, lse, qkv, shape));
    }

    fn swiglu(&mut self, out: &mut B::Buffer, gate: &B::Buffer, up: &B::Buffer) {
        self.time("swiglu", |b| b.swiglu(out, gate, up));
    }

    fn swiglu_backward(&mut self, gate: &mut B::Buffer, up: &mut B::Buffer, d_out: &B::Buffer) {
        self.time("swiglu", |b| b.swiglu_backward(gate, up, d_out));
    }

    fn copy(&mut self, out: &mut B::Buffer, x: &B::Buffer) {
        self.time("add", |b| b.copy(out, x));
    }

    fn add(&mut self, x: &mut B::Buffer, y: &B::Buffer) {
        self.time("add", |b| b.add(x, y));
    }

    fn cross_entropy(&mut self, h: &B::Buffer, w: &B::Matrix, targets: &[u32]) {
        self.time("cross_entropy", |b| b.cross_entropy(h, w, targets));
    }

    fn cross_entropy_backward(
        &mut self,
        dh: &mut B::Buffer,
        dw: &mut B::Buffer,
        h: &B::Buffer,
        w: &B::Matrix,
        targets: &[u32],
        scale: f32,
        z_loss: f32,
    ) {
        self.time("cross_entropy", |b| b.cross_entropy_backward(dh, dw, h, w, targets, scale, z_loss));
    }

    fn likeliest(&mut self, teacher: (&B::Buffer, &B::Matrix), k: usize, temperature: f32) -> Likeliest {
        self.time("distillation", |b| b.likeliest(teacher, k, temperature))
    }

    fn distillation(
        &mut self,
        student: (&B::Buffer, &B::Matrix),
        teacher: Teaching<'_, B::Buffer, B::Matrix>,
        targets: &[u32],
        terms: Distillation,
    ) {
        self.time("distillation", |b| b.distillation(student, teacher, targets, terms));
    }

    fn distillation_backward(
        &mut self,
        d_student: (&mut B::Buffer, &mut B::Buffer),
        student: (&B::Buffer, &B::Matrix),
        teacher: Teaching<'_, B::Buffer, B::Matrix>,
        targets: &[u32],
        terms: Distillation,
        scale: f32,
    ) {
        self.time("distillation", |b| {
            b.distillation_backward(d_student, student, teacher, targets, terms, scale);
        });
    }

    fn stream_distance_backward(
        &mut self,
        dx: &mut B::Buffer,
        streams: [&B::Buffer; 2],
        targets: &[u32],
        scale: f32,
    ) {
        self.time("distillation", |b| b.stream_distance_backward(dx, streams, targets, scale));
    }

    fn sum_of_squares(&mut self, buffer: &B::Buffer) {
        self.time("sum_of_squares", |b| b.sum_of_squares(buffer));
    }

    fn adamw(&mut self, w: &mut B::Matrix, grad: &mut B::Buffer, moments: &mut [B::Moment], step: AdamW) {
        self.time("adamw", |b| b.adamw(w, grad, moments, step));
    }

    fn muon(&mut self, w: &mut B::Matrix, grad: &mut B::Buffer, momentum: &mut [B::Moment], step: Muon) {
        self.time("muon", |b| b.muon(w, grad, momentum, step));
    }

    fn clear(&mut self, buffer: &mut B::Buffer) {
        self.time("add", |b| b.clear(buffer));
    }
}
