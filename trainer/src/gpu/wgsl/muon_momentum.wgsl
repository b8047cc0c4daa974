// b <- mu b + (1 - mu) g, then g <- (1 - mu) g + mu b: the Nesterov momentum of Muon.

struct Params {
    quads: u32,
    // The factor on the gradient is in the buffer, and negative when the tensor is to be left alone.
    own: u32,
    factor: f32,
    momentum: f32,
}

@group(0) @binding(0) var<storage, read_write> grad: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> momentum: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> clip: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(256)
fn muon_momentum(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = group_index(group, groups) * 256u + thread;
    let factor = select(p.factor, clip[0], p.own == 1u);
    if i < p.quads && factor >= 0.0 {
        let g = grad[i] * factor;
        let b = p.momentum * momentum[i] + (1.0 - p.momentum) * g;
        momentum[i] = b;
        grad[i] = (1.0 - p.momentum) * g + p.momentum * b;
    }
}
