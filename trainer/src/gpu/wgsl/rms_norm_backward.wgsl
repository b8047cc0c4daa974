// With r = 1 / sqrt(mean(x^2) + eps) and u = dy gain: dx = r (u - x r^2 mean(u x)), or dx += that. Leaves r of each run.

struct Params {
    runs: u32,
    // Of a run.
    quads: u32,
    eps: f32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read_write> dx: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> scales: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> gain: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

override LANES: u32 = 64;

// Sums of x^2 and of u x.
var<workgroup> partial: array<vec2<f32>, 256>;

@compute @workgroup_size(256)
fn rms_norm_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let run = group_index(group, groups) * (256u / LANES) + thread / LANES;
    let lane = thread % LANES;
    let first = min(run, p.runs - 1u) * p.quads;
    var squares = vec4<f32>(0.0);
    var products = vec4<f32>(0.0);
    for (var i = lane; i < p.quads; i += LANES) {
        let value = x[first + i];
        squares += value * value;
        products += dy[first + i] * gain[i] * value;
    }
    let square = (squares.x + squares.z) + (squares.y + squares.w);
    let product = (products.x + products.z) + (products.y + products.w);
    partial[thread] = vec2<f32>(square, product);
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            partial[thread] += partial[thread + half];
        }
        workgroupBarrier();
    }
    let n = f32(4u * p.quads);
    let sums = partial[thread - lane];
    let r = 1.0 / sqrt(sums.x / n + p.eps);
    let factor = r * r * r * sums.y / n;
    if run < p.runs {
        if lane == 0u {
            scales[run] = r;
        }
        for (var i = lane; i < p.quads; i += LANES) {
            let d = r * (dy[first + i] * gain[i]) - factor * x[first + i];
            if p.accumulate == 1u {
                dx[first + i] += d;
            } else {
                dx[first + i] = d;
            }
        }
    }
}
