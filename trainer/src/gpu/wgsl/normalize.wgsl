// out = x / (|x| + 1e-7), from the sums of squares of its pieces.

struct Params {
    quads: u32,
    // Where the sums are.
    first: u32,
    sums: u32,
}

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> squares: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

var<workgroup> partial: array<f32, 256>;

@compute @workgroup_size(256)
fn normalize(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    var sum = 0.0;
    for (var i = thread; i < p.sums; i += 256u) {
        sum += squares[p.first + i];
    }
    partial[thread] = sum;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half /= 2u) {
        if thread < half {
            partial[thread] += partial[thread + half];
        }
        workgroupBarrier();
    }
    let i = group_index(group, groups) * 256u + thread;
    if i < p.quads {
        out[i] = x[i] * (1.0 / (sqrt(partial[0]) + 1e-7));
    }
}
