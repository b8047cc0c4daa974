//! The shaders of the forward pass, with the constants they are used with.

use super::shader::Access::{Read, Write};
use super::shader::{Constants, Shader};
use crate::shader;

/// Formats of a matrix: what its kernels have as constants.
const G64: Constants = &[("GROUP_WORDS", 4.0)];
const G256: Constants = &[("GROUP_WORDS", 16.0)];
const DENSE: Constants = &[("DENSE", 1.0)];
/// Keys and values in eight bits.
const INT8: Constants = &[("INT8", 1.0)];

/// A shader of one token times a matrix, behind what all of them have in common.
macro_rules! matvec {
    ($name:literal, $variants:expr) => {
        Shader {
            name: $name,
            source: concat!(
                include_str!("wgsl/matvec_rows.wgsl"),
                include_str!(concat!("wgsl/", $name, ".wgsl"))
            ),
            bindings: &[Write, Write, Write, Read, Read, Read, Read],
            variants: $variants,
        }
    };
}

/// One token times a matrix, with the norm before and what comes after.
pub const MATVEC: Shader = matvec!(
    "matvec",
    &[
        &[],
        G64,
        G256,
        DENSE,
        &[("NORM", 1.0)],
        &[("NORM", 1.0), ("DENSE", 1.0)],
        &[("EPILOGUE", 1.0)],
        &[("EPILOGUE", 1.0), ("DENSE", 1.0)],
        &[("NORM", 1.0), ("EPILOGUE", 2.0)],
        &[("NORM", 1.0), ("HALVES", 1.0)],
        &[("EPILOGUE", 1.0), ("HALVES", 1.0)],
        &[("EPILOGUE", 1.0), ("HALVES", 1.0), ("THREADS", 32.0)],
        &[("NORM", 1.0), ("EPILOGUE", 2.0), ("HALVES", 1.0), ("THREADS", 128.0)],
        &[("NORM", 1.0), ("EPILOGUE", 2.0), ("DENSE", 1.0)]
    ]
);
/// The same for devices that add up across a subgroup.
pub const MATVEC_SUBGROUPS: Shader = matvec!(
    "matvec_subgroups",
    &[
        &[],
        G64,
        DENSE,
        &[("NORM", 1.0), ("HALVES", 1.0), ("THREADS", 32.0)],
        &[("EPILOGUE", 1.0), ("HALVES", 1.0), ("THREADS", 128.0)],
        &[("NORM", 1.0), ("EPILOGUE", 2.0), ("HALVES", 1.0)]
    ]
);
/// Whether codes may be read as subnormal halves.
pub const HALVES: Shader = shader!("halves", [Write, Read], [&[]]);
/// Several tokens times a matrix.
pub const MATMUL: Shader = shader!(
    "matmul",
    [Write, Write, Write, Read, Read, Read],
    [&[], G64, G256, DENSE, &[("EPILOGUE", 1.0)], &[("EPILOGUE", 2.0)], &[("EPILOGUE", 2.0), ("DENSE", 1.0)]]
);
/// Rows normalised by their root mean square.
pub const RMS_NORM: Shader = shader!("rms_norm", [Write, Read, Read], [&[]]);
/// Rows of a table.
pub const EMBED: Shader = shader!("embed", [Write, Read, Read, Read], [&[], G64, G256, DENSE]);
/// Norm and rotation of queries and keys, and keys and values into the cache.
pub const STORE_HEADS: Shader =
    shader!("store_heads", [Write, Write, Write, Read, Read, Read, Read, Read], [&[], INT8]);
/// Softmax over the cache.
pub const ATTENTION: Shader = shader!("attention", [Write, Read, Read, Read], [&[], INT8]);

/// The place of the largest number, in two steps.
pub const ARGMAX: Shader = shader!("argmax", [Write, Write, Write, Read], [&[], &[("LAST", 1.0)]]);

/// The largest numbers with their places, in steps.
pub const TOP_K: Shader = shader!("top_k", [Write, Read], [&[], &[("AGAIN", 1.0)]]);

/// Reads memory and does little else: how fast that goes.
pub const READ_WORDS: Shader = shader!("read_words", [Write, Read], [&[]]);
/// Adds one to a number: what a dispatch costs that must wait for the one before.
pub const COUNT: Shader = shader!("count", [Write], [&[]]);

/// All of them: tests translate each for every system.
pub const SHADERS: &[Shader] = &[
    MATVEC,
    MATVEC_SUBGROUPS,
    READ_WORDS,
    COUNT,
    HALVES,
    MATMUL,
    RMS_NORM,
    EMBED,
    STORE_HEADS,
    ATTENTION,
    ARGMAX,
    TOP_K,
];
