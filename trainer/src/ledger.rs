//! Sums that operations leave behind: of all parameters together, and of each.

use std::collections::BTreeMap;

use crate::backend::Tally;

/// A backend's books: what was added up, and on behalf of which parameter.
#[derive(Default)]
pub(crate) struct Ledger {
    all: Tally,
    each: BTreeMap<usize, Tally>,
    /// As it was when all was last taken.
    taken: BTreeMap<usize, Tally>,
    parameter: Option<usize>,
}

impl Ledger {
    /// Adds to the whole, and to what belongs to the parameter of the moment.
    pub(crate) fn add(&mut self, tally: Tally) {
        self.add_for(self.parameter, tally);
    }

    /// The same for any parameter, or none.
    pub(crate) fn add_for(&mut self, parameter: Option<usize>, tally: Tally) {
        self.all = self.all + tally;
        if let Some(sum) = parameter.map(|index| self.each.entry(index).or_default()) {
            *sum = *sum + tally;
        }
    }

    /// The parameter of the moment, if there is one.
    #[cfg_attr(not(feature = "gpu"), expect(dead_code, reason = "devices that answer late ask"))]
    pub(crate) fn parameter(&self) -> Option<usize> {
        self.parameter
    }

    /// From now on sums are those of this parameter.
    pub(crate) fn tally_for(&mut self, parameter: usize) {
        self.parameter = Some(parameter);
    }

    /// The whole since the last call; from now on sums belong to nobody.
    pub(crate) fn take(&mut self) -> Tally {
        self.parameter = None;
        self.taken = std::mem::take(&mut self.each);
        std::mem::take(&mut self.all)
    }

    /// Each parameter's part of what was last taken.
    pub(crate) fn taken(&mut self) -> BTreeMap<usize, Tally> {
        std::mem::take(&mut self.taken)
    }
}
