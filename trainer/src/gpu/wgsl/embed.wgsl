// out[i] = table[tokens[i]], for the tokens whose rows this piece of the table has.

struct Params {
    // Of a row.
    quads: u32,
    tokens: u32,
    // Rows of this piece.
    first: u32,
    rows: u32,
    // Of the rounded weights; the rest are the latent ones.
    share: f32,
}

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> table: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<f32>;
@group(0) @binding(3) var<storage, read> tokens: array<u32>;
@group(0) @binding(4) var<storage, read> latents: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

// The table is codes and scales.
override TERNARY: bool = true;
override GROUP: u32 = 128;
// It is a mixture of them and its latent weights.
override MIXED: bool = false;

@compute @workgroup_size(256)
fn embed(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = group_index(group, groups) * 256u + thread;
    let token = i / p.quads;
    if token >= p.tokens || tokens[token] < p.first || tokens[token] - p.first >= p.rows {
        return;
    }
    let at = ((tokens[token] - p.first) * p.quads + i % p.quads) * 4u;
    if TERNARY {
        let byte = table[at >> 4u] >> ((at & 12u) * 2u);
        let codes = vec4<u32>(byte, byte >> 2u, byte >> 4u, byte >> 6u) & vec4<u32>(3u);
        let rounded = (vec4<f32>(codes) - 1.0) * scales[at / GROUP];
        if MIXED {
            out[i] = (1.0 - p.share) * latents[at / 4u] + p.share * rounded;
        } else {
            out[i] = rounded;
        }
    } else {
        out[i] = bitcast<vec4<f32>>(vec4<u32>(table[at], table[at + 1u], table[at + 2u], table[at + 3u]));
    }
}
