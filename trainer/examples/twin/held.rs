//! Held-out loss as the PyTorch twin measures it.

use bonsai_trainer::Result;
use bonsai_trainer::backend::Backend;
use bonsai_trainer::cpu::CpuBackend;
use bonsai_trainer::data::{Batch, Tokens};
use bonsai_trainer::model::{self, Activations};
use bonsai_trainer::train::Trainer;

/// Windows of the held-out text.
pub const WINDOWS: usize = 96;
/// Tokens of a window: one more than are scored.
pub const WINDOW: usize = 257;
/// Windows that are read at a time.
const ROWS: usize = 16;

/// Mean loss over `windows` evenly spaced windows of 256 targets, as the twin measures it.
pub fn evaluate(trainer: &mut Trainer<CpuBackend>, held: &Tokens, windows: usize) -> Result<f64> {
    // What would ship: ternary, wherever a ramp stands.
    for param in &mut trainer.params.list {
        trainer.backend.ramp(&mut param.value, 1.0);
    }
    let seq = WINDOW - 1;
    let mut activations = Activations::new(&trainer.backend, &trainer.params.config, ROWS, seq);
    let chosen: Vec<usize> = (0..windows).map(|i| i * (WINDOWS - 1) / (windows - 1)).collect();
    for rows in chosen.chunks(ROWS) {
        let mut batch = Batch { batch: ROWS, seq, tokens: vec![0; ROWS * seq], targets: vec![0; ROWS * seq] };
        for (i, &window) in rows.iter().enumerate() {
            let (start, at) = (window * WINDOW, i * seq..(i + 1) * seq);
            held.read(start..start + seq, &mut batch.tokens[at.clone()]);
            held.read(start + 1..start + 1 + seq, &mut batch.targets[at]);
        }
        model::forward(&mut trainer.backend, &trainer.params, &mut activations, &batch);
        model::loss(&mut trainer.backend, &trainer.params, &activations, &batch);
    }
    Ok(trainer.backend.tally()?.loss / (windows * seq) as f64)
}
