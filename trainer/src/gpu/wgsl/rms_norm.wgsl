// out = x / sqrt(mean(x^2) + eps) * gain for each run of as many numbers as the gain has; LANES threads to a run.

struct Params {
    runs: u32,
    // Of a run.
    quads: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> gain: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

override LANES: u32 = 64;

var<workgroup> partial: array<f32, 256>;

@compute @workgroup_size(256)
fn rms_norm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let run = group_index(group, groups) * (256u / LANES) + thread / LANES;
    let lane = thread % LANES;
    let first = min(run, p.runs - 1u) * p.quads;
    var sum = vec4<f32>(0.0);
    for (var i = lane; i < p.quads; i += LANES) {
        sum += x[first + i] * x[first + i];
    }
    partial[thread] = (sum.x + sum.z) + (sum.y + sum.w);
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            partial[thread] += partial[thread + half];
        }
        workgroupBarrier();
    }
    let scale = 1.0 / sqrt(partial[thread - lane] / f32(4u * p.quads) + p.eps);
    if run < p.runs {
        for (var i = lane; i < p.quads; i += LANES) {
            out[first + i] = x[first + i] * scale * gain[i];
        }
    }
}
