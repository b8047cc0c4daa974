// Loss of each row of logits: lse - x[target], lse = log(sum(exp(x))). With a scale, the logits become their gradient:
// scale (softmax (1 + 2 z_loss lse) - one hot).

struct Params {
    vocab: u32,
    // Numbers from one row to the next; what is between becomes zero.
    stride: u32,
    // Row of the targets to begin with.
    first: u32,
    // Where the losses go.
    losses: u32,
    backward: u32,
    scale: f32,
    z_loss: f32,
}

@group(0) @binding(0) var<storage, read_write> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> losses: array<f32>;
@group(0) @binding(2) var<storage, read> targets: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

const IGNORE: u32 = 0xffffffffu;

var<workgroup> partial: array<f32, 256>;

@compute @workgroup_size(256)
fn cross_entropy(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = group.x;
    let first = row * p.stride;
    let target_id = targets[p.first + row];
    let counts = target_id != IGNORE;
    let of_target = logits[first + select(0u, target_id, counts)];
    var largest = of_target;
    for (var i = thread; i < p.vocab; i += 256u) {
        largest = max(largest, logits[first + i]);
    }
    partial[thread] = largest;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half /= 2u) {
        if thread < half {
            partial[thread] = max(partial[thread], partial[thread + half]);
        }
        workgroupBarrier();
    }
    largest = partial[0];
    workgroupBarrier();
    var sum = 0.0;
    for (var i = thread; i < p.vocab; i += 256u) {
        sum += exp(logits[first + i] - largest);
    }
    partial[thread] = sum;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half /= 2u) {
        if thread < half {
            partial[thread] += partial[thread + half];
        }
        workgroupBarrier();
    }
    let total = partial[0];
    if thread == 0u {
        losses[p.losses + row] = select(0.0, (largest - of_target) + log(total), counts);
    }
    if p.backward == 1u {
        let penalty = 1.0 + 2.0 * p.z_loss * (largest + log(total));
        let factor = select(0.0, p.scale * penalty / total, counts);
        for (var i = thread; i < p.stride; i += 256u) {
            var d = 0.0;
            if i < p.vocab {
                d = factor * exp(logits[first + i] - largest) - select(0.0, p.scale, counts && i == target_id);
            }
            logits[first + i] = d;
        }
    }
}
