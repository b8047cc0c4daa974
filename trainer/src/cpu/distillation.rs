//! `distillation`: how far the student's next-token distribution is from the teacher's, a chunk of tokens at a time.

use bonsai_runtime::{cpu::ops, vectorized};
use rayon::prelude::*;

use super::head::{chunk_rows, logits, logits_backward};
use super::likeliest::from_likeliest;
use super::{CpuMatrix, Scratch};
use crate::backend::{Distillation, Losses, Teaching};
use crate::data::IGNORE;

/// Summed losses of the student's `h w^T` against the teacher's and `targets`.
pub(super) fn distillation(
    (h, w): (&[f32], &CpuMatrix),
    teacher: Teaching<'_, Vec<f32>, CpuMatrix>,
    targets: &[u32],
    terms: Distillation,
    scratch: &mut [Scratch; 3],
) -> Losses {
    each_chunk((h, w), teacher, targets, (terms, 0.0), scratch, |_, _, _| ())
}

/// The same, and the gradients of `scale * loss`: writes `dh`, adds to `dw`.
pub(super) fn distillation_backward(
    (dh, dw): (&mut [f32], &mut [f32]),
    (h, w): (&[f32], &CpuMatrix),
    teacher: Teaching<'_, Vec<f32>, CpuMatrix>,
    targets: &[u32],
    (terms, scale): (Distillation, f32),
    scratch: &mut [Scratch; 3],
) -> Losses {
    let mut dh = dh.chunks_mut(chunk_rows(targets.len(), w.rows) * w.cols);
    each_chunk((h, w), teacher, targets, (terms, scale), scratch, |d_logits, h, weights| {
        let dh = dh.next().expect("as many chunks as h has");
        logits_backward(dh, dw, d_logits, h, w, weights);
    })
}

/// Sums the losses over chunks of tokens, and calls `chunk(gradient of the logits, h, scratch)` for each.
fn each_chunk(
    (h, w): (&[f32], &CpuMatrix),
    teacher: Teaching<'_, Vec<f32>, CpuMatrix>,
    targets: &[u32],
    constants: (Distillation, f32),
    [weights, student, theirs]: &mut [Scratch; 3],
    mut chunk: impl FnMut(&[f32], &[f32], &mut Scratch),
) -> Losses {
    let rows = chunk_rows(targets.len(), w.rows);
    let mut total = Losses::default();
    for (n, (h, targets)) in h.chunks(rows * w.cols).zip(targets.chunks(rows)).enumerate() {
        let student = logits(h, w, weights, student);
        let losses = match teacher {
            Teaching::Head(teacher_h, teacher_w) => {
                assert_eq!(w.rows, teacher_w.rows, "student and teacher know the same tokens");
                let teacher_h = teacher_h.chunks(rows * teacher_w.cols).nth(n).expect("as many as students");
                from_logits(student, logits(teacher_h, teacher_w, weights, theirs), targets, constants)
            }
            Teaching::Likeliest(likeliest) => {
                from_likeliest(student, likeliest.rows(n * rows, targets.len()), targets, constants)
            }
        };
        total = losses.into_iter().fold(total, std::ops::Add::add); // in token order
        chunk(student, h, weights);
    }
    total
}

/// Losses of each token against a teacher's logits, which are used up; the student's become their gradients.
fn from_logits(
    student: &mut [f32],
    teacher: &mut [f32],
    targets: &[u32],
    (terms, scale): (Distillation, f32),
) -> Vec<Losses> {
    let vocab = student.len() / targets.len();
    let pairs = student.par_chunks_exact_mut(vocab).zip(teacher.par_chunks_exact_mut(vocab));
    let row = |((z, y), &target): ((&mut [f32], &mut [f32]), &u32)| {
        vectorized!(row_losses(z, y, target, terms, scale))
    };
    pairs.zip(targets).map(row).collect()
}

/// Losses of one token; `z` becomes the gradient of its logits. `y`, the teacher's logits, is used up.
///
/// With p and q the teacher's and the student's softmax at temperature T, the gradient of `T^2 KL(p, q)` is `T (q - p)`.
#[inline(always)]
fn row_losses(z: &mut [f32], y: &mut [f32], target: u32, terms: Distillation, scale: f32) -> Losses {
    if target == IGNORE {
        z.fill(0.0);
        return Losses::default();
    }
    let inverse = 1.0 / terms.temperature;
    let of_target = z[target as usize];
    let lse = log_sum_exp(z, 1.0);
    let soft = if terms.temperature == 1.0 { lse } else { log_sum_exp(z, inverse) };
    let teacher = log_sum_exp(y, inverse);
    let (kl, ce) = (scale * terms.kl * terms.temperature, scale * terms.cross_entropy);
    for (z, y) in z.iter_mut().zip(y.iter_mut()) {
        let (log_p, log_q) = (*y * inverse - teacher, *z * inverse - soft);
        let p = ops::exp(log_p);
        *z = kl * (ops::exp(log_q) - p) + ce * ops::exp(*z - lse);
        *y = p * (log_p - log_q);
    }
    z[target as usize] -= ce;
    Losses { cross_entropy: f64::from(lse - of_target), kl: f64::from(ops::sum(y, |x| x)) }
}

/// `ln sum exp(x / T)`, with `inverse = 1 / T`.
#[inline(always)]
pub(super) fn log_sum_exp(x: &[f32], inverse: f32) -> f32 {
    let max = ops::max(x) * inverse;
    max + ops::sum(x, |x| ops::exp(x * inverse - max)).ln()
}

/// Adds the gradient of `scale * |x - teacher|^2 / |teacher|^2` to `dx`, for the tokens that have a target.
pub(super) fn stream_distance_backward(
    dx: &mut [f32],
    [x, teacher]: [&[f32]; 2],
    targets: &[u32],
    scale: f32,
) {
    let width = dx.len() / targets.len();
    let rows = dx.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width));
    rows.zip(teacher.par_chunks_exact(width)).zip(targets).for_each(|(((dx, x), teacher), &target)| {
        if target == IGNORE {
            return;
        }
        vectorized!({
            let factor = 2.0 * scale / ops::sum(teacher, |t| t * t).max(f32::MIN_POSITIVE);
            dx.iter_mut().zip(x).zip(teacher).for_each(|((dx, x), t)| *dx += factor * (x - t));
        });
    });
}
