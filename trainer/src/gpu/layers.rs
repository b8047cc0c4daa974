//! Norms, rope, attention and embedding.

use bonsai_runtime::gpu::shader::Shader;

use super::GpuBackend;
use super::memory::{GpuBuffer, GpuMatrix, parts, row_parts};
use super::shaders::{
    ADD_ROWS, ATTENTION, ATTENTION_BACKWARD_KV, ATTENTION_BACKWARD_Q, ATTENTION_SHIFT, EMBED, EMBED_BACKWARD,
    RMS_NORM, RMS_NORM_BACKWARD, RMS_NORM_GAIN, ROPE,
};
use crate::backend::AttentionShape;

/// Rows of a head that a workgroup of attention has.
const ROWS: usize = 16;

/// Threads to a run of `n` numbers: about four numbers each.
fn lanes(n: usize) -> f64 {
    (n / 4).next_power_of_two().clamp(8, 256) as f64
}

impl GpuBackend {
    /// See [`crate::backend::Backend::rms_norm`].
    pub(super) fn norm(&self, out: &GpuBuffer, x: &GpuBuffer, gain: &GpuBuffer, eps: f32) {
        let (n, lanes) = (gain.len, lanes(gain.len));
        for runs in row_parts(x.len / n, n, self.tuning.span) {
            let params = [runs.len() as u32, n as u32 / 4, eps.to_bits()];
            let groups = self.gpu.grid(runs.len().div_ceil(256 / lanes as usize));
            let [out, x] = [out, x].map(|buffer| buffer.rows(n).some(runs.clone()).piece());
            self.run(&RMS_NORM, &[("LANES", lanes)], &[&out, &x, &gain.all()], &params, groups);
        }
    }

    /// See [`crate::backend::Backend::rms_norm_backward`].
    pub(super) fn norm_backward(
        &mut self,
        (dx, accumulate): (&GpuBuffer, bool),
        d_gain: &GpuBuffer,
        [dy, x]: [&GpuBuffer; 2],
        gain: &GpuBuffer,
        eps: f32,
    ) {
        let (n, lanes) = (gain.len, lanes(gain.len));
        let runs = x.len / n;
        let chunk = (runs / 256).next_multiple_of(64).max(64);
        let partial = self.scratch("gain", runs.div_ceil(chunk) * n);
        // Parts are whole chunks.
        for some in parts(runs, (self.tuning.span / n / chunk).max(1) * chunk) {
            let scales = self.scratch("norm scales", some.len());
            let chunks = some.len().div_ceil(chunk);
            let [dx, dy, x] = [dx, dy, x].map(|buffer| buffer.rows(n).some(some.clone()).piece());
            let (count, quads) = (some.len() as u32, n as u32 / 4);
            let params = [count, quads, eps.to_bits(), u32::from(accumulate)];
            let groups = self.gpu.grid(some.len().div_ceil(256 / lanes as usize));
            let pieces = [&dx, &scales.all(), &dy, &x, &gain.all()];
            self.run(&RMS_NORM_BACKWARD, &[("LANES", lanes)], &pieces, &params, groups);
            let params = [count, quads, chunk as u32, (some.start / chunk) as u32];
            let groups = self.gpu.grid((chunks * n / 4).div_ceil(64));
            self.run(&RMS_NORM_GAIN, &[], &[&partial.all(), &scales.all(), &dy, &x], &params, groups);
        }
        let params = [runs.div_ceil(chunk) as u32, n as u32 / 4];
        self.run(&ADD_ROWS, &[], &[&d_gain.all(), &partial.all()], &params, [n.div_ceil(256) as u32, 1, 1]);
    }

    /// Rotates each head; `direction` 1 forward, -1 backward.
    pub(super) fn rotate(&self, x: &GpuBuffer, shape: AttentionShape, direction: f32) {
        let (width, half) = (x.len / (shape.batch * shape.seq), shape.head_dim / 2);
        assert!(shape.seq <= self.seq, "angles were made for {} positions", self.seq);
        for tokens in row_parts(shape.batch * shape.seq, width, self.tuning.span) {
            let pairs = tokens.len() * width / 2;
            let numbers = [pairs, width / 2, half, shape.seq, tokens.start].map(|n| n as u32);
            let mut params = [direction.to_bits(); 6];
            params[..5].copy_from_slice(&numbers);
            let x = x.rows(width).some(tokens).piece();
            self.run(&ROPE, &[], &[&x, &self.angles.all()], &params, self.gpu.grid(pairs.div_ceil(256)));
        }
    }

    /// See [`crate::backend::Backend::attention`].
    pub(super) fn attend(
        &self,
        out: &GpuBuffer,
        lse: &GpuBuffer,
        qkv: [&GpuBuffer; 3],
        shape: AttentionShape,
    ) {
        let kernel = Heads { shader: &ATTENTION, block: 16, rows: ROWS, heads: shape.heads };
        let [q, k, v] = qkv;
        self.heads(kernel, &[out, lse, q, k, v], shape);
    }

    /// See [`crate::backend::Backend::attention_backward`].
    pub(super) fn attend_backward(
        &mut self,
        [dq, dk, dv]: [&GpuBuffer; 3],
        [d_out, out, lse]: [&GpuBuffer; 3],
        [q, k, v]: [&GpuBuffer; 3],
        shape: AttentionShape,
    ) {
        let (heads, kv) = (shape.heads, shape.kv_heads);
        let shift = &self.scratch("attention shift", lse.len);
        let kernel = Heads { shader: &ATTENTION_SHIFT, block: 8, rows: 64, heads };
        self.heads(kernel, &[shift, d_out, out], shape);
        let block = if shape.head_dim > 128 { 4 } else { 8 };
        let read = [d_out, lse, shift, q, k, v];
        let kernel = Heads { shader: &ATTENTION_BACKWARD_Q, block, rows: ROWS, heads };
        self.heads(kernel, &[&[dq], &read[..]].concat(), shape);
        let kernel = Heads { shader: &ATTENTION_BACKWARD_KV, block, rows: ROWS, heads: kv };
        self.heads(kernel, &[&[dk, dv], &read[..]].concat(), shape);
    }

    /// Runs an attention kernel on as many sequences at a time as bindings hold.
    fn heads(&self, kernel: Heads, buffers: &[&GpuBuffer], shape: AttentionShape) {
        let AttentionShape { batch, seq, heads, kv_heads, head_dim } = shape;
        let slices = head_dim.div_ceil(16);
        let constants =
            [("HEAD_DIM", head_dim as f64), ("SLICES", slices as f64), ("BLOCK", kernel.block as f64)];
        let scale = 1.0 / (head_dim as f32).sqrt();
        let params = [seq as u32, heads as u32, kv_heads as u32, scale.to_bits()];
        let largest = seq * heads * head_dim;
        assert!(largest <= self.tuning.span, "a sequence of {seq} tokens does not fit into a binding");
        // Pieces begin at multiples of 64 numbers.
        let fits = |n: &usize| [heads, kv_heads * head_dim].iter().all(|w| (n * seq * w).is_multiple_of(64));
        let step = (1..=64).find(fits).unwrap_or(64);
        let most = if batch * largest <= self.tuning.span {
            batch
        } else {
            (self.tuning.span / largest / step * step).max(step)
        };
        for sequences in parts(batch, most) {
            let pieces =
                buffers.iter().map(|buffer| buffer.rows(buffer.len / batch).some(sequences.clone()).piece());
            let pieces: Vec<_> = pieces.collect();
            let groups = [seq.div_ceil(kernel.rows) as u32, kernel.heads as u32, sequences.len() as u32];
            self.run(kernel.shader, &constants, &pieces.iter().collect::<Vec<_>>(), &params, groups);
        }
    }

    /// See [`crate::backend::Backend::embed`].
    pub(super) fn look_up(&mut self, out: &GpuBuffer, table: &GpuMatrix, tokens: &[u32]) {
        let ids = self.ids("tokens", tokens);
        let w = table.weights();
        let (constants, share) = w.reader();
        for rows in w.parts(self.tuning.span) {
            let [numbers, scales, latents] = w.pieces(&rows);
            // Tokens are few enough for one binding: their activations are.
            let sizes = [w.cols / 4, tokens.len(), rows.start, rows.len()].map(|n| n as u32);
            let mut params = [share.to_bits(); 5];
            params[..4].copy_from_slice(&sizes);
            let groups = self.gpu.grid((tokens.len() * w.cols / 4).div_ceil(256));
            let pieces = [&out.all(), &numbers, &scales, &ids.all(), &latents];
            self.run(&EMBED, &constants, &pieces, &params, groups);
        }
    }

    /// See [`crate::backend::Backend::embed_backward`].
    pub(super) fn look_up_backward(&mut self, d_table: &GpuBuffer, d_out: &GpuBuffer, tokens: &[u32]) {
        let cols = d_out.len / tokens.len();
        let (list, ids) = sorted(tokens);
        let room = self.scratch("token list", 4 * tokens.len()); // however many tokens are the same
        self.upload(&room, 0, &list);
        for rows in row_parts(d_table.len / cols, cols, self.tuning.span) {
            let [first, end] =
                [rows.start, rows.end].map(|row| ids.partition_point(|&id| (id as usize) < row));
            let params = [cols / 4, first, end - first, rows.start].map(|n| n as u32);
            let table = d_table.rows(cols).some(rows).piece();
            let groups = self.gpu.grid(end - first);
            self.run(&EMBED_BACKWARD, &[], &[&table, &d_out.all(), &room.all()], &params, groups);
        }
    }

    /// A list of ids on the device.
    pub(super) fn ids(&mut self, name: &'static str, ids: &[u32]) -> GpuBuffer {
        let buffer = self.scratch(name, ids.len());
        self.upload(&buffer, 0, ids);
        buffer
    }
}

/// An attention kernel and its grid.
struct Heads {
    shader: &'static Shader,
    block: usize,
    rows: usize,
    heads: usize,
}

/// The list of `embed_backward.wgsl`, and the ids in it: those that occur, in order, each with its tokens in order.
fn sorted(tokens: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let mut order: Vec<u32> = (0..tokens.len() as u32).collect();
    order.sort_by_key(|&i| tokens[i as usize]); // stable
    let mut ids: Vec<u32> = order.iter().map(|&i| tokens[i as usize]).collect();
    ids.dedup();
    let first = 3 * ids.len();
    let mut list = Vec::with_capacity(first + tokens.len());
    let mut begin = 0;
    for &id in &ids {
        let end = begin + order[begin..].iter().take_while(|&&i| tokens[i as usize] == id).count();
        list.extend([id, (first + begin) as u32, (first + end) as u32]);
        begin = end;
    }
    list.extend(order);
    (list, ids)
}
