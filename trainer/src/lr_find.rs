//! `lr-find`: one short run whose learning rate rises exponentially, and where in it the loss fell (Smith, arXiv 1506.01186).

use std::path::PathBuf;

use bonsai_runtime::Error as RuntimeError;
use serde::Serialize;
use serde_json::Value;

use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::run::{self, Watch};
use crate::schedule::{Decay, RampSteps};
use crate::{checkpoint, metrics, plot};

const DIRECTORY: &str = "runs/lr-find";

/// Each point is averaged with both of its neighbours.
const FEWEST_STEPS: u64 = 3;

/// What the run showed.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// Learning rate and mean loss of each stretch of steps.
    pub points: Vec<(f64, f64)>,
    /// The rate at which the loss fell most for a factor of the rate.
    pub steepest: f64,
    /// The rate at which it was lowest: beyond it, it rose.
    pub lowest: f64,
    /// Picture of the run.
    pub picture: PathBuf,
}

/// Where a run goes that was given no place: nothing is replaced, nor taken for a run of training.
pub fn free_directory() -> PathBuf {
    let numbered = (2..).map(|number| PathBuf::from(format!("{DIRECTORY}-{number}")));
    let mut names = std::iter::once(PathBuf::from(DIRECTORY)).chain(numbered);
    names.find(|name| !name.exists()).unwrap_or_else(|| DIRECTORY.into())
}

/// Trains from `from` to `to`. Muon's rate rises by the same factor, to its own peak.
pub fn lr_find(config: RunConfig, (from, to): (f64, f64), watch: &Watch<'_>) -> Result<Found> {
    if !(from > 0.0 && to > from && to.is_finite()) {
        return Err(Error::Config("--from must be above zero and --to above --from".into()));
    }
    if config.steps < FEWEST_STEPS {
        return Err(Error::Config(format!(
            "--steps is {}, too few to read anything from: it must be at least {FEWEST_STEPS}",
            config.steps
        )));
    }
    if checkpoint::exists(&config.out) {
        let out = config.out.display();
        return Err(Error::Config(format!("{out}: holds a run already: choose another --out")));
    }
    let log_every = (config.steps / 40).max(1);
    let config = RunConfig {
        lr: to,
        lr_floor: from / to,
        schedule: Decay::Rising,
        warmup: 0,
        ramp: RampSteps::Steps(0), // what rises by itself would hide what the rate does
        eval_every: 0,
        eval_sequences: 1,
        sample_every: 0,
        save_every: 0,
        spike: 1e9, // that the loss jumps is what is looked for
        log_every,
        ..config
    };
    let out = config.out.clone();
    let ended = match run::start(config, watch) {
        Ok(outcome) if outcome.interrupted => return Err(RuntimeError::Cancelled.into()),
        Err(error) if !matches!(error, Error::Diverged { .. }) => return Err(error),
        ended => ended, // the end may well be beyond what training bears
    };
    let path = out.join(metrics::FILE);
    let text = std::fs::read_to_string(&path).map_err(RuntimeError::io(&path))?;
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let points: Vec<_> = lines.filter_map(|line| line["lr"].as_f64().zip(line["loss"].as_f64())).collect();
    let picture = out.join("loss.svg");
    plot::plot(&[("lr-find".into(), path.clone())], &picture)?;
    let Some((steepest, lowest)) = read(&points) else {
        // Enough steps were asked for: the run diverged before it took them.
        return Err(ended.err().unwrap_or_else(|| Error::Data { path, message: "has too few steps".into() }));
    };
    Ok(Found { points, steepest, lowest, picture })
}

/// The rates of the steepest fall and of the lowest loss, each point averaged with its neighbours.
fn read(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let smooth: Vec<(f64, f64)> =
        points.windows(3).map(|w| (w[1].0, w.iter().map(|point| point.1).sum::<f64>() / 3.0)).collect();
    let lowest = (0..smooth.len()).min_by(|&a, &b| smooth[a].1.total_cmp(&smooth[b].1))?;
    let slope = |w: &[(f64, f64)]| (w[1].1 - w[0].1) / (w[1].0 / w[0].0).ln();
    let falls = smooth[..=lowest].windows(2);
    let steepest = falls.min_by(|a, b| slope(a).total_cmp(&slope(b))).map_or(smooth[lowest].0, |w| w[0].0);
    Some((steepest, smooth[lowest].0))
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (lr, loss) in &self.points {
            writeln!(f, "lr {lr:>9.2e}  loss {loss:.4}")?;
        }
        write!(
            f,
            "steepest at {:.1e}, lowest at {:.1e} ({}). A constant rate must be lower than where a rising one does best:\ntry {:.1e} to {:.1e} with ablate, and several seeds",
            self.steepest,
            self.lowest,
            self.picture.display(),
            self.lowest / 10.0,
            self.lowest / 2.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fall_and_the_bottom_are_found() {
        // Flat at 8 up to 1e-3, a fall to 5 at 1e-2, then up again.
        let loss = |lr: f64| match lr.log10() {
            x if x < -3.0 => 8.0,
            x if x < -2.0 => 8.0 - 3.0 * (x + 3.0),
            x => 5.0 + 9.0 * (x + 2.0),
        };
        let points: Vec<_> =
            (0..=40).map(|i| 10f64.powf(-5.0 + 0.1 * f64::from(i))).map(|lr| (lr, loss(lr))).collect();
        let (steepest, lowest) = read(&points).unwrap();
        assert!((-3.1..-2.0).contains(&steepest.log10()), "{steepest}");
        assert!((-2.15..-1.95).contains(&lowest.log10()), "{lowest}");
        assert!(read(&points[..2]).is_none());
    }
}
