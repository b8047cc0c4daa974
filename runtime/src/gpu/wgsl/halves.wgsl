// Whether this device keeps subnormal halves when it unpacks them, as matvec.wgsl would like to: out = halves of in,
// times 2^24. WGSL lets it round them to zero.

struct Params {
    count: u32,
}

@group(0) @binding(0) var<storage, read_write> out: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(32)
fn halves(@builtin(global_invocation_id) thread: vec3<u32>) {
    if thread.x < p.count {
        out[thread.x] = unpack2x16float(words[thread.x]) * 0x1p24;
    }
}
