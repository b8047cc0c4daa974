//! What a run that goes on may change, and what was decided when it began.

use std::path::Path;

use super::RunConfig;
use crate::checkpoint;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::import::Import;
use crate::schedule::RampSteps;

/// Settings of how a run begins: its weights, their shape, its vocabulary. Later they would change nothing, or not fit.
const DECIDED: [&str; 7] = ["init", "preset", "tokenizer", "vocab_size", "import", "rotation", "group"];
/// Settings that made the shards of text.
const TEXT: [&str; 4] = ["data", "valid", "valid_fraction", "text_column"];

impl RunConfig {
    /// Makes sure that what differs from `old`, the settings of a run so far, can take effect in what is left of it.
    pub fn check_changes(&self, old: &Self) -> Result<()> {
        let (now, before) = (self.table(), old.table());
        let changed = |keys: &[&'static str]| keys.iter().copied().find(|&key| now[key] != before[key]);
        if let Some(key) = changed(&DECIDED) {
            return Err(Error::Config(format!(
                "{key} was decided when the run began ({}) and cannot become {} now: begin another run (--out)",
                before[key], now[key]
            )));
        }
        let prepared = matches!(self.data.as_slice(), [dir] if Dataset::is_prepared(dir));
        match changed(&TEXT) {
            Some(key) if !prepared => {
                let run = old.out.display();
                Err(Error::Config(format!(
                    "{key}: a run that goes on takes other text only as prepared tokens: bonsai-trainer prepare --data TEXT \
                     --tokenizer {run}/tokenizer.json --out TOKENS, then train --resume {run} --data TOKENS"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Whether a run that was begun with these settings has `saved` in its directory: what they left to the program, the
    /// learning rate of a conversion, `ramp = auto`, and the rounding of a ternary start, was settled as it began.
    pub fn became(&self, saved: &Self) -> bool {
        let lr = if self.lr == 0.0 { saved.lr } else { self.lr };
        let ramp = if self.ramp == RampSteps::Auto { saved.ramp } else { self.ramp };
        let rule = if self.scale_rule.is_empty() { &saved.scale_rule } else { &self.scale_rule };
        let gained = self.import == Import::Plain
            && saved.import == Import::Gain
            && matches!(checkpoint::ternary_group(Path::new(&self.init)), Ok(Some(_)));
        let import = if gained { saved.import } else { self.import };
        Self { lr, ramp, scale_rule: rule.clone(), import, ..self.clone() } == *saved
    }

    fn table(&self) -> toml::Table {
        toml::Table::try_from(self).expect("a flat table of numbers and texts")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_still_take_effect_may_change() {
        let old = RunConfig { data: vec!["text.txt".into()], out: "mine".into(), ..RunConfig::default() };
        let refused = |new: RunConfig| new.check_changes(&old).map_err(|error| error.to_string());
        assert_eq!(refused(old.clone()), Ok(()));
        assert_eq!(
            refused(RunConfig { steps: 9, lr: 1.0, ramp: RampSteps::Steps(3), seq_len: 8, ..old.clone() }),
            Ok(())
        );
        let group = refused(RunConfig { group: 64, ..old.clone() }).unwrap_err();
        assert!(
            group.contains("group was decided") && group.contains("128") && group.contains("64"),
            "{group}"
        );
        let text = refused(RunConfig { data: vec!["other.txt".into()], ..old.clone() }).unwrap_err();
        assert!(text.contains("prepare --data") && text.contains("mine/tokenizer.json"), "{text}");
        // Every name is a setting: a missing one would panic here.
        let table = old.table();
        DECIDED.iter().chain(&TEXT).for_each(|&key| assert!(table.contains_key(key), "{key}"));
    }

    #[test]
    fn what_was_left_to_the_program_is_settled_as_a_run_begins() {
        let asked = RunConfig::default();
        let saved = RunConfig { lr: 1.4e-3, ramp: RampSteps::Steps(34), ..asked.clone() };
        assert!(asked.became(&asked) && asked.became(&saved));
        for other in [
            RunConfig { lr: 1e-3, ..asked.clone() },
            RunConfig { ramp: RampSteps::Steps(0), ..asked.clone() },
            RunConfig { group: 64, ..asked },
        ] {
            assert!(!other.became(&saved), "{other:?}");
        }
    }
}
