//! The learning rate of each step: linear warm-up, then flat and a linear decay at the end (WSD), or a cosine.

use serde::{Deserialize, Serialize};

/// Shape of the learning rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Flat, then linear to the floor over the last `decay` share of the steps.
    #[default]
    Linear,
    /// Cosine to the floor over all steps after warm-up (Loshchilov and Hutter, arXiv 1608.03983).
    Cosine,
    /// Flat to the end.
    Constant,
    /// From the floor up to the peak, by the same factor each step: for `lr-find`.
    Rising,
}

/// A learning rate for every step of a run, as a factor on its peak.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Steps of the run.
    pub steps: u64,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// Share of the steps that the final linear decay takes.
    pub decay: f64,
    /// Where the decay ends, as a share of the peak.
    pub floor: f64,
    /// Shape after warm-up.
    pub shape: Decay,
}

impl Schedule {
    /// Factor on the peak learning rate for step `step`, counted from 0.
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup {
            return (step + 1) as f64 / self.warmup as f64;
        }
        let blend = |u: f64| self.floor + (1.0 - self.floor) * u;
        match self.shape {
            Decay::Constant => 1.0,
            Decay::Rising => {
                let rest = 1.0
                    - (step - self.warmup) as f64
                        / (self.steps - self.warmup).max(2).saturating_sub(1) as f64;
                self.floor.powf(rest.max(0.0))
            }
            Decay::Cosine => {
                let span = (self.steps.saturating_sub(self.warmup)).max(1) as f64;
                let u = ((step - self.warmup) as f64 / span).min(1.0);
                blend(0.5 * (1.0 + (std::f64::consts::PI * u).cos()))
            }
            Decay::Linear => {
                let span = (self.decay * self.steps as f64).max(1.0);
                blend((self.steps.saturating_sub(step) as f64 / span).min(1.0))
            }
        }
    }
}

impl Schedule {
    /// `sqrt(sum factor^2)` over the steps from `step` on: how far a random walk goes in units of the peak learning rate.
    pub fn way(&self, step: u64) -> f64 {
        (step..self.steps).map(|t| self.factor(t).powi(2)).sum::<f64>().sqrt()
    }
}

/// How much of the projection the forward pass sees while a conversion begins: a linear rise from the dense weights to
/// the ternary ones.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ramp {
    /// Steps of the rise; 0: ternary from the first step on.
    pub steps: u64,
    /// Steps in which the embedding and the head rise, after the layers have; 0: together with them.
    pub embedding: u64,
}

impl Ramp {
    /// The first step that sees nothing but ternary weights.
    pub fn end(self) -> u64 {
        self.steps + self.embedding
    }

    /// Share of the projection in step `step`, counted from 0: of the layers, and of embedding and head.
    pub fn shares(self, step: u64) -> [f32; 2] {
        let share = |done: u64, steps: u64| if done >= steps { 1.0 } else { done as f32 / steps as f32 };
        let layers = share(step + 1, self.steps);
        match self.embedding {
            0 => [layers, layers],
            steps => [layers, share((step + 1).saturating_sub(self.steps), steps)],
        }
    }
}

/// How long a ramp rises, as a run file says it: `"auto"` or a number of steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "toml::Value", into = "toml::Value")]
pub enum RampSteps {
    /// As long as the start calls for, which is decided before the first step.
    #[default]
    Auto,
    /// So many steps.
    Steps(u64),
}

impl TryFrom<toml::Value> for RampSteps {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match &value {
            toml::Value::String(word) if word == "auto" => Ok(Self::Auto),
            toml::Value::Integer(steps) if *steps >= 0 => Ok(Self::Steps(*steps as u64)),
            _ => Err(format!("ramp = {value}: auto or a number of steps")),
        }
    }
}

impl From<RampSteps> for toml::Value {
    fn from(ramp: RampSteps) -> Self {
        match ramp {
            RampSteps::Auto => Self::String("auto".into()),
            RampSteps::Steps(steps) => Self::Integer(steps as i64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_flat_and_decay_meet_where_they_should() {
        let s = Schedule { steps: 100, warmup: 10, decay: 0.4, floor: 0.1, shape: Decay::Linear };
        assert_eq!(s.factor(0), 0.1);
        assert_eq!(s.factor(9), 1.0);
        assert_eq!(s.factor(60), 1.0);
        assert!((s.factor(80) - 0.55).abs() < 1e-12);
        assert!((s.factor(100) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn ramps_end_ternary_and_the_embedding_may_come_last() {
        assert_eq!(Ramp::default().shares(0), [1.0, 1.0]);
        let together = Ramp { steps: 4, embedding: 0 };
        assert_eq!([0, 1, 3, 9].map(|t| together.shares(t)), [[0.25; 2], [0.5; 2], [1.0; 2], [1.0; 2]]);
        let last = Ramp { steps: 2, embedding: 2 };
        let shares = [0, 1, 2, 3, 4].map(|t| last.shares(t));
        assert_eq!(shares, [[0.5, 0.0], [1.0, 0.0], [1.0, 0.5], [1.0, 1.0], [1.0, 1.0]]);
    }

    #[test]
    fn rising_goes_from_the_floor_to_the_peak() {
        let s = Schedule { steps: 101, warmup: 0, decay: 0.0, floor: 1e-4, shape: Decay::Rising };
        let near = |step, expected: f64| (s.factor(step) / expected - 1.0).abs() < 1e-9;
        assert!(near(0, 1e-4) && near(50, 1e-2) && near(100, 1.0));
    }

    #[test]
    fn cosine_is_that_of_the_pytorch_twin() {
        let s = Schedule { steps: 600, warmup: 50, decay: 0.0, floor: 0.1, shape: Decay::Cosine };
        assert_eq!(s.factor(50), 1.0);
        assert!((s.factor(325) - 0.55).abs() < 1e-12);
    }
}
