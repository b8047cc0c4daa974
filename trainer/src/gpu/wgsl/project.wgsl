// Rounds a matrix: 4096 weights to a workgroup.

struct Params {
    quads: u32,
}

@group(0) @binding(0) var<storage, read_write> codes: array<u32>;
@group(0) @binding(1) var<storage, read_write> scales: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

fn load(i: u32) -> vec4<f32> {
    if i >= p.quads {
        return vec4<f32>(0.0);
    }
    return weights[i];
}

@compute @workgroup_size(256)
fn project(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let sixteen = group_index(group, groups) * 256u + thread;
    let at = sixteen * 4u;
    let rounded = round_sixteen(Sixteen(load(at), load(at + 1u), load(at + 2u), load(at + 3u)), thread);
    if at < p.quads {
        codes[sixteen] = rounded.codes;
        scales[at * 4u / GROUP] = rounded.scale;
    }
}
