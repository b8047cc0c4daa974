//! Shaders as the door takes them: plain WGSL from a file, behind one shared prelude.

/// What is put in front of every shader.
pub const PRELUDE: &str = include_str!("wgsl/prelude.wgsl");

/// Values of `override` constants.
pub type Constants = &'static [(&'static str, f64)];

/// How a kernel uses a storage buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    Write,
}

/// A shader: one entry point, storage buffers at `@group(0)` from binding 0 on, and one uniform struct at `@group(1)
/// @binding(0)`. Made by [`crate::shader!`].
#[derive(Debug, Clone, Copy)]
pub struct Shader {
    /// The operation, and the name of the file.
    pub name: &'static str,
    /// The file.
    pub source: &'static str,
    /// Of the bindings, in order.
    pub bindings: &'static [Access],
    /// The sets of constants that it is used with; tests translate each for every system.
    pub variants: &'static [Constants],
}

impl Shader {
    /// Whether it needs a device that computes across subgroups.
    pub fn needs_subgroups(&self) -> bool {
        self.source.contains("subgroupAdd")
    }

    /// What the compiler gets.
    pub fn text(&self) -> String {
        [PRELUDE, self.source].concat()
    }
}

/// The [`Shader`] of `wgsl/NAME.wgsl` beside the calling file: `shader!("add", [Write, Read], [&[], &[("WIDE", 4.0)]])`.
#[macro_export]
macro_rules! shader {
    ($name:literal, [$($access:ident),*], [$($constants:expr),*]) => {
        $crate::gpu::shader::Shader {
            name: $name,
            source: include_str!(concat!("wgsl/", $name, ".wgsl")),
            bindings: &[$($crate::gpu::shader::Access::$access),*],
            variants: &[$($constants),*],
        }
    };
}
