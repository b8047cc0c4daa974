//! The head of a model on a chunk of tokens: logits, and from their gradient those of `h` and of the weights.
//!
//! Logits of a whole batch are never held: at a vocabulary of 151,936 those of 4,096 tokens would be 2.5 GB.

use super::matmul::{Target, Threads, View, matmul_in};
use super::{CpuMatrix, Scratch};

/// Bytes of logits that are held at a time, and as many again of a teacher's, unless [`MIN_ROWS`] asks for more. Every
/// chunk unpacks the head and goes through its gradient anew: chunks of 512 tokens instead of 128 at a vocabulary of 49,152
/// took a third off the time of the loss (docs/training.md).
const LOGIT_BYTES: usize = 128 << 20;
/// Fewer rows would waste the matrix product.
const MIN_ROWS: usize = 128;
/// Rows of the head that are unpacked at a time.
const VOCAB_BLOCK: usize = 4096;

/// Tokens whose logits are held at a time: `tokens` in as few equal chunks as [`LOGIT_BYTES`] allows.
pub(super) fn chunk_rows(tokens: usize, vocab: usize) -> usize {
    let chunks = tokens.div_ceil((LOGIT_BYTES / (4 * vocab)).max(MIN_ROWS));
    tokens.div_ceil(chunks.max(1)).max(1)
}

/// Bytes of scratch that the loss of `tokens` needs, with a teacher's logits beside the student's or without; the memory
/// forecast asks.
pub fn head_scratch_bytes(tokens: usize, vocab: usize, hidden: usize, teacher: bool) -> usize {
    let copies = if teacher { 2 } else { 1 };
    4 * (copies * chunk_rows(tokens, vocab) * vocab + vocab.min(VOCAB_BLOCK) * hidden)
}

/// Numbers of the factors of the head's largest product, of which a backend that computes in bf16 holds packed copies.
pub fn head_factors(tokens: usize, vocab: usize, hidden: usize) -> usize {
    vocab.min(VOCAB_BLOCK) * (chunk_rows(tokens, vocab) + hidden)
}

/// Logits of a chunk of tokens, `[tokens, vocab]`, in `out`; `weights` is scratch.
pub(super) fn logits<'a>(
    h: &[f32],
    w: &CpuMatrix,
    weights: &mut Scratch,
    out: &'a mut Scratch,
) -> &'a mut [f32] {
    let (t, k, vocab) = (h.len() / w.cols, w.cols, w.rows);
    let logits = out.get(t * vocab);
    for first in (0..vocab).step_by(VOCAB_BLOCK) {
        let n = VOCAB_BLOCK.min(vocab - first);
        let block = View::new(w.weights(first, n, weights), n, k, k);
        matmul_in(
            w.compute,
            Target::new(&mut logits[first..], t, n, vocab),
            View::new(h, t, k, k),
            block.t(),
            1.0,
            Threads::All,
        );
    }
    logits
}

/// `dh = dl w`, `dw += dl^T h`, where `dl`, `[tokens, vocab]`, is the gradient of the logits.
pub(super) fn logits_backward(
    dh: &mut [f32],
    dw: &mut [f32],
    d_logits: &[f32],
    h: &[f32],
    w: &CpuMatrix,
    weights: &mut Scratch,
) {
    let (t, k, vocab) = (h.len() / w.cols, w.cols, w.rows);
    for first in (0..vocab).step_by(VOCAB_BLOCK) {
        let n = VOCAB_BLOCK.min(vocab - first);
        let d_block = View::new(&d_logits[first..], t, n, vocab);
        let block = View::new(w.weights(first, n, weights), n, k, k);
        matmul_in(
            w.compute,
            Target::new(dh, t, k, k).accumulate(first > 0),
            d_block,
            block,
            1.0,
            Threads::All,
        );
        let dw = &mut dw[first * k..(first + n) * k];
        matmul_in(
            w.compute,
            Target::new(dw, n, k, k).accumulate(true),
            d_block.t(),
            View::new(h, t, k, k),
            1.0,
            Threads::All,
        );
    }
}
