//! The shaders, with the constants that tests translate them with.

use bonsai_runtime::gpu::shader::{Access::Read, Access::Write, Shader};
use bonsai_runtime::shader;

pub(super) const RMS_NORM: Shader =
    shader!("rms_norm", [Write, Read, Read], [&[("LANES", 8.0)], &[("LANES", 256.0)]]);
pub(super) const RMS_NORM_BACKWARD: Shader =
    shader!("rms_norm_backward", [Write, Write, Read, Read, Read], [&[("LANES", 8.0)], &[("LANES", 256.0)]]);
pub(super) const RMS_NORM_GAIN: Shader = shader!("rms_norm_gain", [Write, Read, Read, Read], [&[]]);
pub(super) const ADD_ROWS: Shader = shader!("add_rows", [Write, Read], [&[]]);
pub(super) const ROPE: Shader = shader!("rope", [Write, Read], [&[]]);
pub(super) const SWIGLU: Shader = shader!("swiglu", [Write, Read, Read], [&[]]);
pub(super) const SWIGLU_BACKWARD: Shader = shader!("swiglu_backward", [Write, Write, Read], [&[]]);
pub(super) const COPY: Shader = shader!("copy", [Write, Read], [&[]]);
pub(super) const ADD: Shader = shader!("add", [Write, Read], [&[]]);
pub(super) const EMBED: Shader = shader!(
    "embed",
    [Write, Read, Read, Read, Read],
    [&[], &[("GROUP", 64.0)], &[("TERNARY", 0.0)], &[("GROUP", 256.0), ("MIXED", 1.0)]]
);
pub(super) const EMBED_BACKWARD: Shader = shader!("embed_backward", [Write, Read, Read], [&[]]);
pub(super) const CROSS_ENTROPY: Shader = shader!("cross_entropy", [Write, Write, Read], [&[]]);
pub(super) const DISTILLATION: Shader = shader!("distillation", [Write, Write, Read, Read], [&[]]);
pub(super) const SUM_OF_SQUARES: Shader = shader!("sum_of_squares", [Write, Read], [&[]]);
pub(super) const CLIP: Shader = shader!("clip", [Write, Read], [&[]]);
pub(super) const NORMALIZE: Shader = shader!("normalize", [Write, Read, Read], [&[]]);
pub(super) const MUON_MOMENTUM: Shader = shader!("muon_momentum", [Write, Write, Read], [&[]]);

/// A shader behind another file's functions.
macro_rules! behind {
    ($front:literal, $name:literal, [$($access:ident),*], $variants:expr) => {
        Shader {
            name: $name,
            source: concat!(
                include_str!(concat!("wgsl/", $front, ".wgsl")),
                include_str!(concat!("wgsl/", $name, ".wgsl"))
            ),
            bindings: &[$($access),*],
            variants: $variants,
        }
    };
}

pub(super) const MATMUL: Shader =
    behind!("matmul_blocks", "matmul", [Write, Read, Read, Read, Read], PRODUCTS);
pub(super) const MATMUL_TILE: Shader =
    behind!("matmul_blocks", "matmul_tile", [Write, Read, Read, Read, Read], PRODUCTS);
pub(super) const ADAMW: Shader =
    behind!("rounding", "adamw", [Write, Write, Write, Write, Write, Write, Write, Read], UPDATES);
pub(super) const MUON: Shader =
    behind!("rounding", "muon", [Write, Write, Read, Write, Write, Write, Read], UPDATES);
pub(super) const PROJECT: Shader = behind!("rounding", "project", [Write, Write, Read], ROUNDINGS);
pub(super) const ATTENTION_SHIFT: Shader =
    behind!("attention_slices", "attention_shift", [Write, Read, Read], HEADS);

/// `load_BUFFER`: a thread's slice of a row of that buffer, which begins at vector `at`.
#[rustfmt::skip]
macro_rules! load {
    ($buffer:literal) => {
        concat!(
            "fn load_", $buffer, "(at: u32, slice: u32) -> Slice {\n",
            "    let none = vec4<f32>(0.0);\n",
            "    var x = Slice(", $buffer, "[at], none, none, none);\n",
            "    if inside(slice, 1u) {\n        x[1] = ", $buffer, "[at + 1u];\n    }\n",
            "    if inside(slice, 2u) {\n        x[2] = ", $buffer, "[at + 2u];\n    }\n",
            "    if inside(slice, 3u) {\n        x[3] = ", $buffer, "[at + 3u];\n    }\n",
            "    return x;\n}\n"
        )
    };
}

/// `store_BUFFER`: the way back.
#[rustfmt::skip]
macro_rules! store {
    ($buffer:literal) => {
        concat!(
            "fn store_", $buffer, "(at: u32, slice: u32, value: Slice) {\n",
            "    ", $buffer, "[at] = value[0];\n",
            "    if inside(slice, 1u) {\n        ", $buffer, "[at + 1u] = value[1];\n    }\n",
            "    if inside(slice, 2u) {\n        ", $buffer, "[at + 2u] = value[2];\n    }\n",
            "    if inside(slice, 3u) {\n        ", $buffer, "[at + 3u] = value[3];\n    }\n",
            "}\n"
        )
    };
}

/// An attention kernel, and which of its buffers it reads and writes in slices.
macro_rules! attention {
    ($name:literal, [$($loaded:literal),*], [$($stored:literal),*], [$($access:ident),*]) => {
        Shader {
            name: $name,
            source: concat!(
                include_str!("wgsl/attention_slices.wgsl"),
                $(load!($loaded),)*
                $(store!($stored),)*
                include_str!(concat!("wgsl/", $name, ".wgsl"))
            ),
            bindings: &[$($access),*],
            variants: HEADS,
        }
    };
}

pub(super) const ATTENTION: Shader =
    attention!("attention", ["q", "k", "v"], ["out"], [Write, Write, Read, Read, Read]);
pub(super) const ATTENTION_BACKWARD_Q: Shader = attention!(
    "attention_backward_q",
    ["q", "k", "v", "d_out"],
    ["dq"],
    [Write, Read, Read, Read, Read, Read, Read]
);
pub(super) const ATTENTION_BACKWARD_KV: Shader = attention!(
    "attention_backward_kv",
    ["q", "k", "v", "d_out"],
    ["dk", "dv"],
    [Write, Write, Read, Read, Read, Read, Read, Read]
);

/// Constants of the products: forward, gradient of the input, gradient of the weights; dense and ternary.
const PRODUCTS: &[&[(&str, f64)]] = &[
    &[("A_K_MAJOR", 0.0), ("B_N_MAJOR", 1.0), ("TERNARY", 1.0), ("GROUP", 128.0)],
    &[("A_K_MAJOR", 0.0), ("B_N_MAJOR", 1.0), ("TERNARY", 0.0), ("GROUP", 128.0)],
    &[("A_K_MAJOR", 0.0), ("B_N_MAJOR", 0.0), ("TERNARY", 1.0), ("GROUP", 64.0)],
    &[("A_K_MAJOR", 0.0), ("B_N_MAJOR", 0.0), ("TERNARY", 0.0), ("GROUP", 256.0)],
    &[("A_K_MAJOR", 1.0), ("B_N_MAJOR", 0.0), ("TERNARY", 0.0), ("GROUP", 128.0)],
    &[("A_K_MAJOR", 0.0), ("B_N_MAJOR", 1.0), ("TERNARY", 1.0), ("GROUP", 128.0), ("MIXED", 1.0)],
    &[("A_K_MAJOR", 0.0), ("B_N_MAJOR", 0.0), ("TERNARY", 1.0), ("GROUP", 64.0), ("MIXED", 1.0)],
];
const ROUNDINGS: &[&[(&str, f64)]] = &[
    &[("GROUP", 64.0), ("RULE", 0.0)],
    &[("GROUP", 128.0), ("RULE", 1.0)],
    &[("GROUP", 256.0), ("RULE", 2.0)],
    &[("GROUP", 64.0), ("RULE", 3.0), ("SORTED", 2048.0)],
    &[("GROUP", 256.0), ("RULE", 3.0), ("SORTED", 2048.0)],
    &[("GROUP", 128.0), ("RULE", 4.0)],
];
const UPDATES: &[&[(&str, f64)]] = &[
    &[("PROJECT", 0.0)],
    &[("PROJECT", 1.0), ("GROUP", 64.0), ("RULE", 0.0)],
    &[("PROJECT", 1.0), ("GROUP", 256.0), ("RULE", 1.0)],
    &[("PROJECT", 1.0), ("GROUP", 128.0), ("RULE", 3.0), ("SORTED", 2048.0)],
];
const HEADS: &[&[(&str, f64)]] = &[
    &[("HEAD_DIM", 32.0), ("SLICES", 2.0), ("BLOCK", 8.0)],
    &[("HEAD_DIM", 100.0), ("SLICES", 7.0), ("BLOCK", 8.0)],
    &[("HEAD_DIM", 256.0), ("SLICES", 16.0), ("BLOCK", 4.0)],
];

/// Every shader of the trainer: tests translate each for every system.
pub const SHADERS: &[Shader] = &[
    MATMUL,
    MATMUL_TILE,
    RMS_NORM,
    RMS_NORM_BACKWARD,
    RMS_NORM_GAIN,
    ADD_ROWS,
    ROPE,
    SWIGLU,
    SWIGLU_BACKWARD,
    COPY,
    ADD,
    EMBED,
    EMBED_BACKWARD,
    CROSS_ENTROPY,
    DISTILLATION,
    SUM_OF_SQUARES,
    CLIP,
    NORMALIZE,
    MUON_MOMENTUM,
    ADAMW,
    MUON,
    PROJECT,
    ATTENTION,
    ATTENTION_SHIFT,
    ATTENTION_BACKWARD_Q,
    ATTENTION_BACKWARD_KV,
];
