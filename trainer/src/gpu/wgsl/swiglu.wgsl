// out = silu(gate) up, with silu(z) = z / (1 + exp(-z)).

struct Params {
    quads: u32,
}

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> gate: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> up: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(256)
fn swiglu(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = group_index(group, groups) * 256u + thread;
    if i < p.quads {
        let z = gate[i];
        // exp must not reach infinity, on which no kernel may count.
        out[i] = z / (1.0 + exp(min(-z, vec4<f32>(80.0)))) * up[i];
    }
}
