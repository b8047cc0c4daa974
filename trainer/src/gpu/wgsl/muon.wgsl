// The end of a Muon update: weights move along a direction and are rounded. The gradient is left zero.

struct Params {
    quads: u32,
    // The factor on the gradient is in the buffer, and negative when the tensor is to be left alone.
    own: u32,
    keep: f32,
    rate: f32,
    // Where zeros, flips and weights are counted.
    counts: u32,
}

@group(0) @binding(0) var<storage, read_write> weights: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> grad: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> direction: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> codes: array<u32>;
@group(0) @binding(4) var<storage, read_write> scales: array<f32>;
@group(0) @binding(5) var<storage, read_write> tally: array<atomic<u32>>;
@group(0) @binding(6) var<storage, read> clip: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

override PROJECT: bool = true;

var<workgroup> zeros: atomic<u32>;
var<workgroup> flips: atomic<u32>;

fn updated(i: u32, live: bool) -> vec4<f32> {
    if i >= p.quads {
        return vec4<f32>(0.0);
    }
    let w = weights[i];
    grad[i] = vec4<f32>(0.0);
    if !live {
        return w;
    }
    let fresh = w * p.keep - p.rate * direction[i];
    weights[i] = fresh;
    return fresh;
}

@compute @workgroup_size(256)
fn muon(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let sixteen = group_index(group, groups) * 256u + thread;
    let at = sixteen * 4u;
    let live = p.own == 0u || clip[0] >= 0.0;
    let w = Sixteen(updated(at, live), updated(at + 1u, live), updated(at + 2u, live), updated(at + 3u, live));
    if PROJECT {
        if thread == 0u {
            atomicStore(&zeros, 0u);
            atomicStore(&flips, 0u);
        }
        let fresh = round_sixteen(w, thread);
        if at < p.quads && live {
            atomicAdd(&zeros, zeros_in(fresh.codes));
            atomicAdd(&flips, flips_in(codes[sixteen], fresh.codes));
            codes[sixteen] = fresh.codes;
            scales[at * 4u / GROUP] = fresh.scale;
        }
        workgroupBarrier();
        if thread == 0u {
            atomicAdd(&tally[p.counts], atomicLoad(&zeros));
            atomicAdd(&tally[p.counts + 1u], atomicLoad(&flips));
            atomicAdd(&tally[p.counts + 2u], select(0u, 4u * min(max(p.quads, at) - at, 1024u), live));
        }
    }
}
