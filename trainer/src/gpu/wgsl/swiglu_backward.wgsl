// gate <- d_out up silu'(gate), up <- d_out silu(gate), with silu'(z) = s (1 + z (1 - s)), s = 1 / (1 + exp(-z)).

struct Params {
    quads: u32,
}

@group(0) @binding(0) var<storage, read_write> gate: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> up: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> d_out: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(256)
fn swiglu_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = group_index(group, groups) * 256u + thread;
    if i < p.quads {
        let z = gate[i];
        let d = d_out[i];
        let s = 1.0 / (1.0 + exp(min(-z, vec4<f32>(80.0)))); // without reaching infinity
        gate[i] = d * up[i] * s * (1.0 + z * (1.0 - s));
        up[i] = d * z * s;
    }
}
