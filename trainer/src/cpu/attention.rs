//! `attention`: causal softmax(q k^T / sqrt(head_dim)) v, a block of query rows at a time.
//!
//! One task is one sequence and one key/value head with the query heads that share it. Scores of a block are made,
//! used and dropped; the backward pass makes them again from `lse`, the log-sum-exp of each row.

use bonsai_runtime::{cpu::ops, vectorized};
use rayon::prelude::*;

use super::matmul::{Target, Threads, View, matmul};
use crate::backend::AttentionShape;

/// Query rows whose scores are held at a time.
const BLOCK: usize = 64;

/// Where one (sequence, head) lies inside `[t, heads * head_dim]`.
struct Head<'a> {
    data: &'a [f32],
    stride: usize,
    width: usize,
}

impl<'a> Head<'a> {
    fn new(all: &'a [f32], heads: usize, shape: AttentionShape, sequence: usize, head: usize) -> Self {
        let stride = heads * shape.head_dim;
        let start = sequence * shape.seq * stride + head * shape.head_dim;
        Self { data: &all[start..(sequence + 1) * shape.seq * stride], stride, width: shape.head_dim }
    }

    fn rows(&self, first: usize, n: usize) -> View<'a> {
        View::new(&self.data[first * self.stride..], n, self.width, self.stride)
    }

    fn row(&self, i: usize) -> &'a [f32] {
        &self.data[i * self.stride..][..self.width]
    }
}

/// Results of one task: contiguous per head, put in place afterwards.
struct Task {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

/// Writes `out` (`[t, heads * head_dim]`) and `lse` (`[batch, heads, seq]`).
pub(super) fn attention(out: &mut [f32], lse: &mut [f32], [q, k, v]: [&[f32]; 3], shape: AttentionShape) {
    let AttentionShape { seq, heads, kv_heads, head_dim, .. } = shape;
    let share = heads / kv_heads;
    let tasks = lse.par_chunks_exact_mut(share * seq).enumerate();
    let outs: Vec<Vec<f32>> = tasks
        .map(|(task, lse)| {
            let (b, kv) = (task / kv_heads, task % kv_heads);
            let (k, v) = (Head::new(k, kv_heads, shape, b, kv), Head::new(v, kv_heads, shape, b, kv));
            let mut out = vec![0.0; share * seq * head_dim];
            let mut scores = vec![0.0; BLOCK * seq];
            for (j, (out, lse)) in
                out.chunks_exact_mut(seq * head_dim).zip(lse.chunks_exact_mut(seq)).enumerate()
            {
                let q = Head::new(q, heads, shape, b, kv * share + j);
                head_forward(out, lse, &q, &k, &v, &mut scores);
            }
            out
        })
        .collect();
    merge(out, heads, shape, |token, head| {
        let (b, row) = (token / seq, token % seq);
        &outs[b * kv_heads + head / share][((head % share) * seq + row) * head_dim..][..head_dim]
    });
}

fn head_forward(
    out: &mut [f32],
    lse: &mut [f32],
    q: &Head<'_>,
    k: &Head<'_>,
    v: &Head<'_>,
    scores: &mut [f32],
) {
    let (seq, width) = (lse.len(), q.width);
    for first in (0..seq).step_by(BLOCK) {
        let n = BLOCK.min(seq - first);
        let keys = first + n;
        let p = &mut scores[..n * keys];
        matmul(
            Target::new(p, n, keys, keys),
            q.rows(first, n),
            k.rows(0, keys).t(),
            scale(width),
            Threads::One,
        );
        vectorized!({
            for (i, p) in p.chunks_exact_mut(keys).enumerate() {
                lse[first + i] = softmax(p, first + i + 1);
            }
        });
        let out = &mut out[first * width..(first + n) * width];
        matmul(
            Target::new(out, n, width, width),
            View::new(p, n, keys, keys),
            v.rows(0, keys),
            1.0,
            Threads::One,
        );
    }
}

/// Softmax of the first `visible` scores in place, zero for the rest; returns their log-sum-exp.
#[inline(always)]
fn softmax(scores: &mut [f32], visible: usize) -> f32 {
    let (seen, hidden) = scores.split_at_mut(visible);
    hidden.fill(0.0);
    let max = ops::max(seen);
    seen.iter_mut().for_each(|s| *s = ops::exp(*s - max));
    let total = ops::sum(seen, |x| x);
    let inverse = 1.0 / total;
    seen.iter_mut().for_each(|s| *s *= inverse);
    max + total.ln()
}

/// Writes the gradients of q, k and v.
pub(super) fn attention_backward(
    [dq, dk, dv]: [&mut [f32]; 3],
    d_out: &[f32],
    out: &[f32],
    lse: &[f32],
    [q, k, v]: [&[f32]; 3],
    shape: AttentionShape,
) {
    let AttentionShape { batch, seq, heads, kv_heads, head_dim } = shape;
    let share = heads / kv_heads;
    let per_kv = |all, b, kv| Head::new(all, kv_heads, shape, b, kv);
    let per_q = |all, b, head| Head::new(all, heads, shape, b, head);
    let run = |task: usize| {
        let (b, kv) = (task / kv_heads, task % kv_heads);
        let size = seq * head_dim;
        let mut done = Task { q: vec![0.0; share * size], k: vec![0.0; size], v: vec![0.0; size] };
        let mut scratch = [vec![0.0; BLOCK * seq], vec![0.0; BLOCK * seq]];
        for j in 0..share {
            let head = kv * share + j;
            let [q, out, d_out] = [q, out, d_out].map(|all| per_q(all, b, head));
            let lse = &lse[(b * heads + head) * seq..][..seq];
            let kv_heads = [per_kv(k, b, kv), per_kv(v, b, kv)];
            let d_head = [&mut done.q[j * size..(j + 1) * size], &mut done.k[..], &mut done.v[..]];
            head_backward(d_head, [&q, &out, &d_out], lse, &kv_heads, &mut scratch);
        }
        done
    };
    let done: Vec<Task> = (0..batch * kv_heads).into_par_iter().map(run).collect();
    let at = |token: usize, task_head: usize| {
        (&done[token / seq * kv_heads + task_head], (token % seq) * head_dim)
    };
    merge(dq, heads, shape, |token, head| {
        let (task, row) = at(token, head / share);
        &task.q[(head % share) * seq * head_dim + row..][..head_dim]
    });
    merge(dk, kv_heads, shape, |token, head| {
        let (task, row) = at(token, head);
        &task.k[row..][..head_dim]
    });
    merge(dv, kv_heads, shape, |token, head| {
        let (task, row) = at(token, head);
        &task.v[row..][..head_dim]
    });
}

/// `p = exp(s - lse)`; `dv += p^T do`; `ds = p (do v^T - rowsum(do o)) / sqrt(d)`; `dq = ds k`; `dk += ds^T q`.
fn head_backward(
    [dq, dk, dv]: [&mut [f32]; 3],
    [q, out, d_out]: [&Head<'_>; 3],
    lse: &[f32],
    [k, v]: &[Head<'_>; 2],
    [p, ds]: &mut [Vec<f32>; 2],
) {
    let (seq, width) = (lse.len(), q.width);
    for first in (0..seq).step_by(BLOCK) {
        let n = BLOCK.min(seq - first);
        let keys = first + n;
        let (p, ds) = (&mut p[..n * keys], &mut ds[..n * keys]);
        matmul(
            Target::new(p, n, keys, keys),
            q.rows(first, n),
            k.rows(0, keys).t(),
            scale(width),
            Threads::One,
        );
        matmul(Target::new(ds, n, keys, keys), d_out.rows(first, n), v.rows(0, keys).t(), 1.0, Threads::One);
        for (i, (p, ds)) in p.chunks_exact_mut(keys).zip(ds.chunks_exact_mut(keys)).enumerate() {
            let row = first + i;
            let (d_out, out) = (d_out.row(row), out.row(row));
            vectorized!(scores_backward(p, ds, row + 1, lse[row], ops::dot(d_out, out), scale(width)));
        }
        let (p, ds) = (View::new(p, n, keys, keys), View::new(ds, n, keys, keys));
        matmul(
            Target::new(dv, keys, width, width).accumulate(true),
            p.t(),
            d_out.rows(first, n),
            1.0,
            Threads::One,
        );
        matmul(
            Target::new(dk, keys, width, width).accumulate(true),
            ds.t(),
            q.rows(first, n),
            1.0,
            Threads::One,
        );
        let dq = &mut dq[first * width..keys * width];
        matmul(Target::new(dq, n, width, width), ds, k.rows(0, keys), 1.0, Threads::One);
    }
}

#[inline(always)]
fn scores_backward(p: &mut [f32], ds: &mut [f32], visible: usize, lse: f32, shift: f32, scale: f32) {
    p[visible..].fill(0.0);
    ds[visible..].fill(0.0);
    for (p, ds) in p[..visible].iter_mut().zip(&mut ds[..visible]) {
        *p = ops::exp(*p - lse);
        *ds = *p * (*ds - shift) * scale;
    }
}

fn scale(width: usize) -> f32 {
    1.0 / (width as f32).sqrt()
}

/// Puts the results of the tasks back into `[t, heads * head_dim]`.
fn merge<'a>(
    all: &mut [f32],
    heads: usize,
    shape: AttentionShape,
    part: impl Fn(usize, usize) -> &'a [f32] + Sync,
) {
    all.par_chunks_exact_mut(heads * shape.head_dim).enumerate().for_each(|(token, row)| {
        for (head, out) in row.chunks_exact_mut(shape.head_dim).enumerate() {
            out.copy_from_slice(part(token, head));
        }
    });
}
