//! The CPU: f32, matrix products by `gemm`, everything parallel, every sum in an order that no thread count changes.

mod adamw;
mod attention;
mod cross_entropy;
mod distillation;
mod embed;
mod head;
mod latents;
mod likeliest;
mod linear;
mod matmul;
mod moment;
mod muon;
mod noise;
mod project;
mod rms_norm;
mod rope;
mod swiglu;

use std::borrow::Cow;
use std::collections::BTreeMap;

use bonsai_runtime::Config;
use bonsai_runtime::ternary::TernaryMatrix;
use bonsai_runtime::vectorized;
use rayon::prelude::*;

use crate::backend::{
    AdamW, AttentionShape, Backend, Clip, Codes, Distillation, Likeliest, Losses, Muon, Projection, Tally,
    Teaching, clip_factor,
};
use crate::communicator::Communicator;
use crate::error::Result;
use crate::formats::{Compute, Latents, Moment, MomentFormat};
use crate::ledger::Ledger;

pub use head::{head_factors, head_scratch_bytes};
pub use moment::CpuMoment;

/// A parameter in memory.
pub struct CpuMatrix {
    rows: usize,
    cols: usize,
    latent: Latents,
    projection: Option<Projection>,
    ternary: Option<TernaryMatrix>,
    /// What products with it multiply.
    compute: Compute,
    /// Share of the projection in what the forward pass sees.
    ramp: f32,
}

/// Memory that ops use while they run and that survives only to be used again.
#[derive(Default)]
struct Scratch(Vec<f32>);

impl Scratch {
    /// `len` numbers of any value.
    fn get(&mut self, len: usize) -> &mut [f32] {
        if self.0.len() < len {
            self.0 = Vec::new(); // freed before the larger one is made
            self.0.resize(len, 0.0);
        }
        &mut self.0[..len]
    }
}

/// The CPU backend.
pub struct CpuBackend {
    angles: rope::Angles,
    scratch: [Scratch; 3],
    sums: Ledger,
    compute: Compute,
}

impl CpuBackend {
    /// A backend for models of this shape and sequences of up to `seq` tokens.
    pub fn new(config: &Config, seq: usize) -> Self {
        let angles = rope::Angles::new(config.rope, seq, config.head_dim);
        Self { angles, scratch: Default::default(), sums: Ledger::default(), compute: Compute::F32 }
    }

    /// The same, with products of the matrices that it makes from now on in this format.
    pub fn computing_in(self, compute: Compute) -> Self {
        Self { compute, ..self }
    }

    fn tally_losses(&mut self, losses: Losses) {
        self.sums.add(Tally { loss: losses.cross_entropy, kl: losses.kl, ..Tally::default() });
    }

    /// Updates with the factor on the gradient that clipping asks for, or not at all.
    fn clipped(&mut self, grad: &mut [f32], clip: Clip, update: impl FnOnce(&mut [f32], f32) -> Codes) {
        let factor = match clip {
            Clip::Factor(factor) => Some(factor),
            Clip::Own(limit) => {
                let squares = sum_of_squares(grad);
                self.sums.add(Tally { squares, ..Tally::default() });
                squares.is_finite().then(|| clip_factor(limit, squares.sqrt()))
            }
        };
        match factor {
            Some(factor) => {
                let codes = update(grad, factor);
                self.sums.add(Tally { codes, ..Tally::default() });
            }
            None => grad.fill(0.0),
        }
    }
}

impl Backend for CpuBackend {
    type Buffer = Vec<f32>;
    type Matrix = CpuMatrix;
    type Moment = CpuMoment;

    fn buffer(&self, len: usize) -> Vec<f32> {
        vec![0.0; len]
    }

    fn matrix(
        &self,
        rows: usize,
        cols: usize,
        latent: impl Into<Latents>,
        projection: Option<Projection>,
    ) -> CpuMatrix {
        let latent = latent.into();
        assert_eq!(latent.len(), rows * cols, "latent weights of a {rows} x {cols} matrix");
        let ternary = projection.map(|projection| project::project(&latent, rows, cols, projection));
        CpuMatrix { rows, cols, latent, projection, ternary, compute: self.compute, ramp: 1.0 }
    }

    fn read<'a>(&self, buffer: &'a Vec<f32>) -> Result<Cow<'a, [f32]>> {
        Ok(Cow::Borrowed(buffer))
    }

    fn write(&self, buffer: &mut Vec<f32>, values: &[f32]) {
        buffer.copy_from_slice(values);
    }

    fn moment(&self, len: usize, format: MomentFormat) -> CpuMoment {
        CpuMoment::zeros(len, format)
    }

    fn read_moment<'a>(&self, moment: &'a CpuMoment) -> Result<Moment<'a>> {
        Ok(moment.read())
    }

    fn write_moment(&self, moment: &mut CpuMoment, values: &Moment<'_>) {
        moment.write(values);
    }

    fn all_reduce(&mut self, buffer: &mut Vec<f32>, world: &dyn Communicator) -> Result<()> {
        world.all_reduce_sum(buffer);
        Ok(())
    }

    fn latents<'a>(&self, matrix: &'a CpuMatrix) -> Result<Cow<'a, Latents>> {
        Ok(Cow::Borrowed(&matrix.latent))
    }

    fn ternary<'a>(&self, matrix: &'a CpuMatrix) -> Result<Option<Cow<'a, TernaryMatrix>>> {
        Ok(matrix.ternary.as_ref().map(Cow::Borrowed))
    }

    fn tally(&mut self) -> Result<Tally> {
        Ok(self.sums.take())
    }

    fn tally_for(&mut self, parameter: usize) {
        self.sums.tally_for(parameter);
    }

    fn tallies(&mut self) -> BTreeMap<usize, Tally> {
        self.sums.taken()
    }

    fn immediate(&self) -> bool {
        true
    }

    fn ramp(&self, matrix: &mut CpuMatrix, share: f32) {
        matrix.ramp = share;
    }

    fn embed(&mut self, out: &mut Vec<f32>, table: &CpuMatrix, tokens: &[u32]) {
        embed::embed(out, table, tokens);
    }

    fn embed_backward(&mut self, d_table: &mut Vec<f32>, d_out: &Vec<f32>, tokens: &[u32]) {
        embed::embed_backward(d_table, d_out, tokens);
    }

    fn rms_norm(&mut self, out: &mut Vec<f32>, x: &Vec<f32>, gain: &CpuMatrix, eps: f32) {
        rms_norm::rms_norm(out, x, gain.latent.gains(), eps);
    }

    fn rms_norm_backward(
        &mut self,
        dx: &mut Vec<f32>,
        accumulate: bool,
        d_gain: &mut Vec<f32>,
        [dy, x]: [&Vec<f32>; 2],
        gain: &CpuMatrix,
        eps: f32,
    ) {
        if !accumulate {
            self.clear(dx);
        }
        rms_norm::rms_norm_backward(dx, d_gain, dy, x, gain.latent.gains(), eps);
    }

    fn linear(&mut self, y: &mut Vec<f32>, x: &Vec<f32>, w: &CpuMatrix) {
        linear::linear(y, x, w, &mut self.scratch[0]);
    }

    fn linear_backward(
        &mut self,
        dx: &mut Vec<f32>,
        accumulate: bool,
        dw: &mut Vec<f32>,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        w: &CpuMatrix,
    ) {
        linear::linear_backward(dx, accumulate, dw, dy, x, w, &mut self.scratch[0]);
    }

    fn rope(&mut self, x: &mut Vec<f32>, shape: AttentionShape) {
        self.angles.rotate(x, shape, 1.0);
    }

    fn rope_backward(&mut self, dx: &mut Vec<f32>, shape: AttentionShape) {
        self.angles.rotate(dx, shape, -1.0);
    }

    fn attention(
        &mut self,
        out: &mut Vec<f32>,
        lse: &mut Vec<f32>,
        [q, k, v]: [&Vec<f32>; 3],
        shape: AttentionShape,
    ) {
        attention::attention(out, lse, [q, k, v], shape);
    }

    fn attention_backward(
        &mut self,
        [dq, dk, dv]: [&mut Vec<f32>; 3],
        d_out: &Vec<f32>,
        out: &Vec<f32>,
        lse: &Vec<f32>,
        [q, k, v]: [&Vec<f32>; 3],
        shape: AttentionShape,
    ) {
        attention::attention_backward([dq, dk, dv], d_out, out, lse, [q, k, v], shape);
    }

    fn swiglu(&mut self, out: &mut Vec<f32>, gate: &Vec<f32>, up: &Vec<f32>) {
        swiglu::swiglu(out, gate, up);
    }

    fn swiglu_backward(&mut self, gate: &mut Vec<f32>, up: &mut Vec<f32>, d_out: &Vec<f32>) {
        swiglu::swiglu_backward(gate, up, d_out);
    }

    fn copy(&mut self, out: &mut Vec<f32>, x: &Vec<f32>) {
        out.copy_from_slice(x);
    }

    fn add(&mut self, x: &mut Vec<f32>, y: &Vec<f32>) {
        x.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).for_each(|(x, y)| {
            vectorized!(x.iter_mut().zip(y).for_each(|(x, y)| *x += y));
        });
    }

    fn cross_entropy(&mut self, h: &Vec<f32>, w: &CpuMatrix, targets: &[u32]) {
        let loss = cross_entropy::cross_entropy(h, w, targets, &mut self.scratch);
        self.sums.add(Tally { loss, ..Tally::default() });
    }

    fn cross_entropy_backward(
        &mut self,
        dh: &mut Vec<f32>,
        dw: &mut Vec<f32>,
        h: &Vec<f32>,
        w: &CpuMatrix,
        targets: &[u32],
        scale: f32,
        z_loss: f32,
    ) {
        let scratch = &mut self.scratch;
        let loss = cross_entropy::cross_entropy_backward((dh, dw), h, w, targets, (scale, z_loss), scratch);
        self.sums.add(Tally { loss, ..Tally::default() });
    }

    fn likeliest(&mut self, (h, w): (&Vec<f32>, &CpuMatrix), k: usize, temperature: f32) -> Likeliest {
        likeliest::likeliest((h, w), k, temperature, &mut self.scratch)
    }

    fn distillation(
        &mut self,
        (h, w): (&Vec<f32>, &CpuMatrix),
        teacher: Teaching<'_, Vec<f32>, CpuMatrix>,
        targets: &[u32],
        terms: Distillation,
    ) {
        let scratch = &mut self.scratch;
        let losses = distillation::distillation((h, w), teacher, targets, terms, scratch);
        self.tally_losses(losses);
    }

    fn distillation_backward(
        &mut self,
        (dh, dw): (&mut Vec<f32>, &mut Vec<f32>),
        (h, w): (&Vec<f32>, &CpuMatrix),
        teacher: Teaching<'_, Vec<f32>, CpuMatrix>,
        targets: &[u32],
        terms: Distillation,
        scale: f32,
    ) {
        let (d_student, scratch) = ((dh.as_mut_slice(), dw.as_mut_slice()), &mut self.scratch);
        let losses =
            distillation::distillation_backward(d_student, (h, w), teacher, targets, (terms, scale), scratch);
        self.tally_losses(losses);
    }

    fn stream_distance_backward(
        &mut self,
        dx: &mut Vec<f32>,
        [x, teacher]: [&Vec<f32>; 2],
        targets: &[u32],
        scale: f32,
    ) {
        distillation::stream_distance_backward(dx, [x, teacher], targets, scale);
    }

    fn sum_of_squares(&mut self, buffer: &Vec<f32>) {
        let squares = sum_of_squares(buffer);
        self.sums.add(Tally { squares, ..Tally::default() });
    }

    fn adamw(&mut self, w: &mut CpuMatrix, grad: &mut Vec<f32>, moments: &mut [CpuMoment], step: AdamW) {
        let [m, v] = moments else { panic!("AdamW keeps two moments") };
        self.clipped(grad, step.clip, |grad, factor| adamw::adamw(w, grad, [m, v], factor, step));
    }

    fn muon(&mut self, w: &mut CpuMatrix, grad: &mut Vec<f32>, momentum: &mut [CpuMoment], step: Muon) {
        let [momentum] = momentum else { panic!("Muon keeps one moment") };
        self.clipped(grad, step.clip, |grad, factor| muon::muon(w, grad, momentum, factor, step));
    }

    fn clear(&mut self, buffer: &mut Vec<f32>) {
        buffer.par_chunks_mut(CHUNK).for_each(|chunk| chunk.fill(0.0));
    }
}

/// Numbers that one task of an elementwise op takes; fixed, so that sums have one order. A multiple of every group size.
const CHUNK: usize = 1 << 16;
/// Numbers that an update has in hand at a time; a multiple of every group size and of a block of 8-bit state.
const PIECE: usize = 256;

/// Sum of squares in f64: eight lanes within a chunk, chunks in order.
fn sum_of_squares(values: &[f32]) -> f64 {
    let chunks = values.par_chunks(CHUNK).map(|values| vectorized!(squares_of_chunk(values)));
    chunks.collect::<Vec<_>>().iter().sum()
}

#[inline(always)]
fn squares_of_chunk(values: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let (eights, rest) = values.as_chunks::<8>();
    for eight in eights {
        lanes.iter_mut().zip(eight).for_each(|(lane, &x)| *lane += f64::from(x) * f64::from(x));
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
}
