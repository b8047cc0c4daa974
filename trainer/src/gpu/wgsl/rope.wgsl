// Turns pairs (i, i + head_dim / 2) of each head by the angle of its position, in place; backwards with direction -1.

struct Params {
    pairs: u32,
    // Of all heads of a token.
    token_pairs: u32,
    half: u32,
    seq: u32,
    // Token that x begins with.
    first: u32,
    direction: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
// Cosine and sine, [positions, half].
@group(0) @binding(1) var<storage, read> angles: array<vec2<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(256)
fn rope(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let pair = group_index(group, groups) * 256u + thread;
    if pair < p.pairs {
        let position = (p.first + pair / p.token_pairs) % p.seq;
        let i = pair % p.half;
        let angle = angles[position * p.half + i];
        let low = pair / p.half * 2u * p.half + i;
        let high = low + p.half;
        let a = x[low];
        let b = x[high];
        let s = angle.y * p.direction;
        x[low] = a * angle.x - b * s;
        x[high] = b * angle.x + a * s;
    }
}
