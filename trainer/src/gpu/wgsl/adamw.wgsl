// One AdamW update of a matrix, its rounding and what that changed, in one pass over memory. The gradient is left zero.

struct Params {
    quads: u32,
    // The factor on the gradient is in the buffer, and negative when the tensor is to be left alone.
    own: u32,
    factor: f32,
    beta1: f32,
    beta2: f32,
    keep: f32,
    rate: f32,
    root: f32,
    eps: f32,
    // Where zeros, flips and weights are counted.
    counts: u32,
}

@group(0) @binding(0) var<storage, read_write> weights: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> grad: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> mean: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> square: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> codes: array<u32>;
@group(0) @binding(5) var<storage, read_write> scales: array<f32>;
@group(0) @binding(6) var<storage, read_write> tally: array<atomic<u32>>;
@group(0) @binding(7) var<storage, read> clip: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

override PROJECT: bool = true;

var<workgroup> zeros: atomic<u32>;
var<workgroup> flips: atomic<u32>;

fn updated(i: u32, factor: f32) -> vec4<f32> {
    if i >= p.quads {
        return vec4<f32>(0.0);
    }
    let w = weights[i];
    let g = grad[i] * factor;
    grad[i] = vec4<f32>(0.0);
    if factor < 0.0 {
        return w;
    }
    let m = p.beta1 * mean[i] + (1.0 - p.beta1) * g;
    let v = p.beta2 * square[i] + (1.0 - p.beta2) * g * g;
    let fresh = w * p.keep - p.rate * m / (sqrt(v) / p.root + p.eps);
    mean[i] = m;
    square[i] = v;
    weights[i] = fresh;
    return fresh;
}

@compute @workgroup_size(256)
fn adamw(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let sixteen = group_index(group, groups) * 256u + thread;
    let at = sixteen * 4u;
    let factor = select(p.factor, clip[0], p.own == 1u);
    let w = Sixteen(updated(at, factor), updated(at + 1u, factor), updated(at + 2u, factor), updated(at + 3u, factor));
    if PROJECT {
        if thread == 0u {
            atomicStore(&zeros, 0u);
            atomicStore(&flips, 0u);
        }
        let fresh = round_sixteen(w, thread);
        if at < p.quads && factor >= 0.0 {
            atomicAdd(&zeros, zeros_in(fresh.codes));
            atomicAdd(&flips, flips_in(codes[sixteen], fresh.codes));
            codes[sixteen] = fresh.codes;
            scales[at * 4u / GROUP] = fresh.scale;
        }
        workgroupBarrier();
        if thread == 0u {
            atomicAdd(&tally[p.counts], atomicLoad(&zeros));
            atomicAdd(&tally[p.counts + 1u], atomicLoad(&flips));
            atomicAdd(&tally[p.counts + 2u], select(0u, 4u * min(max(p.quads, at) - at, 1024u), factor >= 0.0));
        }
    }
}
