//! Losses: logits of a chunk of tokens, how good they are, and back. Those of a whole batch are never held.

use std::ops::Range;

use super::GpuBackend;
use super::memory::{GpuBuffer, Rows, Weights, parts};
use super::shaders::{CROSS_ENTROPY, DISTILLATION};
use super::tally::Kind;
use crate::backend::Distillation;

/// A head, and what it reads: `[t, hidden]`.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) h: &'a GpuBuffer,
    pub(super) w: Weights<'a>,
}

/// Where the gradients of a head go, and their factor.
#[derive(Clone, Copy)]
pub(super) struct HeadGradients<'a> {
    pub(super) dh: &'a GpuBuffer,
    pub(super) dw: &'a GpuBuffer,
    pub(super) scale: f32,
}

impl<'a> Head<'a> {
    /// Numbers from the logits of one token to those of the next.
    fn stride(self) -> usize {
        self.w.rows.next_multiple_of(64)
    }

    fn rows(self, tokens: &Range<usize>) -> Rows<'a> {
        self.h.rows(self.w.cols).some(tokens.clone())
    }
}

/// Tokens whose logits are held at a time: a binding of `span` numbers, but 16 at least.
fn logit_rows(vocab: usize, span: usize, tokens: usize) -> usize {
    let stride = vocab.next_multiple_of(64);
    let most = (span / stride / 16 * 16).clamp(16, 1 << 15).min(tokens);
    assert!(most * stride <= span, "16 rows of {vocab} logits do not fit into a binding");
    most
}

impl GpuBackend {
    /// See [`crate::backend::Backend::cross_entropy_backward`]; without gradients the loss alone.
    pub(super) fn head_loss(
        &mut self,
        head: Head,
        targets: &[u32],
        gradients: Option<HeadGradients>,
        z_loss: f32,
    ) {
        let most = logit_rows(head.w.rows, self.tuning.span, targets.len());
        let ids = self.ids("targets", targets);
        let losses = self.place(Kind::Losses, targets.len());
        let room = self.scratch("logits", most * head.stride());
        for tokens in parts(targets.len(), most) {
            let logits = self.logits(head, &room, &tokens);
            let first = losses + tokens.start;
            let floats = [gradients.map_or(0.0, |g| g.scale), z_loss].map(f32::to_bits);
            let params = row_params(head, &tokens, &[first], gradients.is_some(), &floats);
            let pieces = [&logits.piece(), &self.sums.all(), &ids.all()];
            self.run(&CROSS_ENTROPY, &[], &pieces, &params, [tokens.len() as u32, 1, 1]);
            self.head_gradients(head, logits, &tokens, gradients);
        }
    }

    /// See [`crate::backend::Backend::distillation_backward`]; without gradients the losses alone.
    pub(super) fn distill(
        &mut self,
        student: Head,
        teacher: Head,
        targets: &[u32],
        terms: Distillation,
        gradients: Option<HeadGradients>,
    ) {
        assert_eq!(student.w.rows, teacher.w.rows, "student and teacher know the same tokens");
        let most = logit_rows(student.w.rows, self.tuning.span, targets.len());
        let ids = self.ids("targets", targets);
        self.make_room(2 * targets.len());
        let [losses, kl] = [Kind::Losses, Kind::Divergences].map(|kind| self.place(kind, targets.len()));
        let rooms = ["logits", "teacher's logits"].map(|name| self.scratch(name, most * student.stride()));
        let scale = gradients.map_or(0.0, |g| g.scale);
        let factors = [scale * terms.kl * terms.temperature, scale * terms.cross_entropy];
        let floats = [1.0 / terms.temperature, factors[0], factors[1]].map(f32::to_bits);
        for tokens in parts(targets.len(), most) {
            let logits = self.logits(student, &rooms[0], &tokens);
            let others = self.logits(teacher, &rooms[1], &tokens);
            let firsts = [losses, kl].map(|first| first + tokens.start);
            let params = row_params(student, &tokens, &firsts, gradients.is_some(), &floats);
            let pieces = [&logits.piece(), &self.sums.all(), &others.piece(), &ids.all()];
            self.run(&DISTILLATION, &[], &pieces, &params, [tokens.len() as u32, 1, 1]);
            self.head_gradients(student, logits, &tokens, gradients);
        }
    }

    /// Logits of some tokens.
    fn logits<'a>(&self, head: Head, room: &'a GpuBuffer, tokens: &Range<usize>) -> Rows<'a> {
        let logits = Rows { rows: tokens.len(), ..room.rows(head.stride()) };
        self.nt(logits, head.rows(tokens), head.w, 1.0);
        logits
    }

    /// `dh = dl w`, `dw += dl^T h`, where `dl` is the gradient of some tokens' logits.
    fn head_gradients(&self, head: Head, dl: Rows, tokens: &Range<usize>, gradients: Option<HeadGradients>) {
        let Some(HeadGradients { dh, dw, .. }) = gradients else { return };
        self.nn(dh.rows(head.w.cols).some(tokens.clone()), dl, head.w, false, 1.0);
        self.tn(dw.rows(head.w.cols), dl, head.rows(tokens), true);
    }
}

/// Parameters of a kernel that has a row of logits for each workgroup; `places` in the tally.
fn row_params(
    head: Head,
    tokens: &Range<usize>,
    places: &[usize],
    backward: bool,
    floats: &[u32],
) -> [u32; 9] {
    let sizes = [head.w.rows, head.stride(), tokens.start].into_iter();
    let numbers = sizes.chain(places.iter().copied()).chain([usize::from(backward)]).map(|n| n as u32);
    let mut params = [0; 9];
    params.iter_mut().zip(numbers.chain(floats.iter().copied())).for_each(|(p, n)| *p = n);
    params
}
