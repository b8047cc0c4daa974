// Sums of squares of pieces of 16384 numbers, which the host adds up in f64.

struct Params {
    quads: u32,
    // Where the sums go.
    first: u32,
}

@group(0) @binding(0) var<storage, read_write> sums: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

var<workgroup> partial: array<f32, 256>;

@compute @workgroup_size(256)
fn sum_of_squares(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let piece = group_index(group, groups);
    var sum = vec4<f32>(0.0);
    for (var n = 0u; n < 16u; n += 1u) {
        let i = piece * 4096u + n * 256u + thread;
        if i < p.quads {
            sum += x[i] * x[i];
        }
    }
    partial[thread] = (sum.x + sum.z) + (sum.y + sum.w);
    workgroupBarrier();
    for (var half = 128u; half > 0u; half /= 2u) {
        if thread < half {
            partial[thread] += partial[thread + half];
        }
        workgroupBarrier();
    }
    if thread == 0u && piece * 4096u < p.quads {
        sums[p.first + piece] = partial[0];
    }
}
