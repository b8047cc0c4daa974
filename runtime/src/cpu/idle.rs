//! How long a worker without work stays awake: longer than the serial code between two loops of a token and the sampling
//! between two tokens, short against what a user would notice on a battery.

#[cfg(not(target_family = "wasm"))]
use std::time::{Duration, Instant};

#[cfg(not(target_family = "wasm"))]
const AWAKE: Duration = Duration::from_micros(200);

/// Time without work.
#[cfg(not(target_family = "wasm"))]
pub(super) struct Idle(Instant);

#[cfg(not(target_family = "wasm"))]
impl Default for Idle {
    fn default() -> Self {
        Self(Instant::now())
    }
}

#[cfg(not(target_family = "wasm"))]
impl Idle {
    /// Whether to sleep now.
    pub(super) fn long(&mut self) -> bool {
        self.0.elapsed() > AWAKE
    }
}

/// Looks for work that found none: WebAssembly has no clock, and a look takes about two nanoseconds.
#[cfg(target_family = "wasm")]
#[derive(Default)]
pub(super) struct Idle(u32);

#[cfg(target_family = "wasm")]
impl Idle {
    /// Whether to sleep now.
    pub(super) fn long(&mut self) -> bool {
        self.0 += 1;
        self.0 > 100_000
    }
}
