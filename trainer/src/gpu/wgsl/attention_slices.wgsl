// Put in front of the attention kernels. A workgroup has ROWS rows of one head, and SLICES threads to a row: each has 16
// numbers of it in registers. The products of a row with BLOCK others are added up across its threads by way of workgroup
// memory, in order. Between this file and a kernel stand the functions that read and write slices of its buffers: load_q,
// store_out and so on, made in shaders.rs, since a function cannot be given a buffer.

const ROWS: u32 = 16;
override HEAD_DIM: u32 = 128;
// HEAD_DIM / 16, rounded up.
override SLICES: u32 = 8;
override BLOCK: u32 = 8;

struct Params {
    seq: u32,
    heads: u32,
    kv_heads: u32,
    scale: f32,
}

alias Slice = array<vec4<f32>, 4>;

fn dot_slices(a: Slice, b: Slice) -> f32 {
    return (dot(a[0], b[0]) + dot(a[1], b[1])) + (dot(a[2], b[2]) + dot(a[3], b[3]));
}

fn add_scaled(sum: ptr<function, Slice>, factor: f32, x: Slice) {
    (*sum)[0] += factor * x[0];
    (*sum)[1] += factor * x[1];
    (*sum)[2] += factor * x[2];
    (*sum)[3] += factor * x[3];
}

// Where the slice of a token's head begins in `[t, heads * head_dim]`, in vectors of four.
fn slice_at(token: u32, heads: u32, head: u32, slice: u32) -> u32 {
    return (token * heads + head) * (HEAD_DIM / 4u) + slice * 4u;
}

// Whether part n of a slice is inside of the head, whose size need not be a multiple of 16.
fn inside(slice: u32, n: u32) -> bool {
    return slice * 4u + n < HEAD_DIM / 4u;
}
