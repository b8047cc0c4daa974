//! Ways to compute the product of one token, and which is taken for which shape.
//!
//! All ways give nearly the same: they differ in the order of a sum, or not at all. Without a measurement it is the
//! portable one; `bonsai bench --device gpu --autotune` measures and remembers (see `super::choices`).

use serde::{Deserialize, Serialize};

use super::device::Gpu;
use super::shader::Shader;
use super::shaders::{MATVEC, MATVEC_SUBGROUPS};

/// Threads of a workgroup that the shaders can be compiled for.
const THREADS: [u32; 3] = [32, 64, 128];

/// A way to compute the product of one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Codes are read as subnormal halves, which the device must keep.
    pub halves: bool,
    /// Threads add up across their subgroup, which the device must be able to.
    pub subgroups: bool,
    /// Threads that share eight rows: 32, 64 or 128.
    pub threads: u32,
}

/// What a way is chosen by: a stack of matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Of all matrices of the stack.
    pub rows: usize,
    /// Of each.
    pub cols: usize,
    /// Weights that share a scale; 0 for dense ones.
    pub group: usize,
    /// How many there are.
    pub matrices: usize,
}

/// The way for each shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ways {
    /// Of shapes that are not listed.
    pub default: Way,
    /// What was chosen.
    pub chosen: Vec<(Shape, Way)>,
}

impl Way {
    /// What every device can.
    pub const PORTABLE: Self = Self { halves: false, subgroups: false, threads: 64 };

    /// Every way that a device can go; `halves`: whether it keeps them.
    pub fn all(gpu: &Gpu, halves: bool) -> Vec<Self> {
        let threads = THREADS.into_iter().filter(|&n| n <= gpu.limits().threads);
        let ways = threads.flat_map(|threads| {
            let way = move |subgroups, halves| Self { halves, subgroups, threads };
            [way(false, false), way(false, true), way(true, false), way(true, true)]
        });
        ways.filter(|way| way.possible(gpu, halves)).collect()
    }

    /// Whether a device can go it.
    pub fn possible(self, gpu: &Gpu, halves: bool) -> bool {
        let subgroups = gpu.adapter().subgroups.is_some();
        THREADS.contains(&self.threads)
            && self.threads <= gpu.limits().threads
            && (halves || !self.halves)
            && (subgroups || !self.subgroups)
    }

    /// For people.
    pub fn name(self) -> String {
        let codes = if self.halves { "halves" } else { "masks" };
        let sums = if self.subgroups { "subgroups" } else { "shared" };
        format!("{codes}, {sums}, {} threads", self.threads)
    }

    pub(super) fn shader(self) -> &'static Shader {
        if self.subgroups { &MATVEC_SUBGROUPS } else { &MATVEC }
    }

    pub(super) fn constants(self) -> [(&'static str, f64); 2] {
        [("HALVES", f64::from(u8::from(self.halves))), ("THREADS", f64::from(self.threads))]
    }
}

impl Ways {
    /// The portable way, by way of halves where the device keeps them: that gives the same bits.
    pub fn untuned(halves: bool) -> Self {
        Self { default: Way { halves, ..Way::PORTABLE }, chosen: Vec::new() }
    }

    /// The way for a shape.
    pub fn of(&self, shape: Shape) -> Way {
        let chosen = self.chosen.iter().find(|(of, _)| *of == shape);
        chosen.map_or(self.default, |(_, way)| *way)
    }
}
