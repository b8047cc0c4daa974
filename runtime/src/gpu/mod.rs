//! The GPU as a backend: by wgpu, on Vulkan, Metal, Direct3D 12 and in browsers.

pub mod device;
pub mod shader;

use shader::Shader;

/// `x += y`.
pub const ADD: Shader = crate::shader!("add", [Write, Read], [&[]]);

/// Every shader of this crate: tests translate each for every system.
pub const SHADERS: &[Shader] = &[ADD];
