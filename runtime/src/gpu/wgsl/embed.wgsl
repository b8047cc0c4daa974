// out[t] = table[tokens[t]], sixteen numbers to a thread; ids outside of `first..first + rows` are another dispatch's.

struct Params {
    rows: u32,
    words: u32,
    halves: u32,
    first: u32,
    tokens: u32,
}

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weights: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> tokens: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

override DENSE: bool = false;
override GROUP_WORDS: u32 = 8;

@compute @workgroup_size(64)
fn embed(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let token = group.y;
    let n = group.x * 64u + thread;
    let id = tokens[token];
    if n >= p.words || id < p.first || id - p.first >= p.rows {
        return;
    }
    let row = id - p.first;
    let at = row * p.words + n;
    let to = (token * p.words + n) * 4u;
    if DENSE {
        for (var i = 0u; i < 4u; i++) {
            out[to + i] = bitcast<vec4<f32>>(vec4<u32>(weights[at * 16u + 4u * i], weights[at * 16u + 4u * i + 1u], weights[at * 16u + 4u * i + 2u], weights[at * 16u + 4u * i + 3u]));
        }
        return;
    }
    let c = codes_of(weights[at]);
    let share = n / GROUP_WORDS;
    let scale = half_of(scales[row * p.halves + share / 2u], share & 1u);
    for (var i = 0u; i < 4u; i++) {
        out[to + i] = (c[i] - vec4<f32>(1.0)) * scale;
    }
}
