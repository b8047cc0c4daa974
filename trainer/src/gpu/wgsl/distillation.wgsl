// Losses of each row of student's logits z against a teacher's y: cross-entropy, log(sum(exp(z))) - z[target], and
// KL(p, q), with p and q the softmax of y / T and z / T. With a scale, z becomes the gradient of its logits:
// scale (cross_entropy (softmax(z) - one hot) + kl T (q - p)).

struct Params {
    vocab: u32,
    // Numbers from one row to the next; what is between becomes zero.
    stride: u32,
    // Row of the targets to begin with.
    first: u32,
    // Where the losses go.
    losses: u32,
    divergences: u32,
    backward: u32,
    // 1 / T
    inverse: f32,
    // scale kl T
    kl: f32,
    // scale cross_entropy
    cross_entropy: f32,
}

@group(0) @binding(0) var<storage, read_write> student: array<f32>;
@group(0) @binding(1) var<storage, read_write> losses: array<f32>;
@group(0) @binding(2) var<storage, read> teacher: array<f32>;
@group(0) @binding(3) var<storage, read> targets: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

const IGNORE: u32 = 0xffffffffu;

var<workgroup> partial: array<vec3<f32>, 256>;

fn largest_of(own: vec2<f32>, thread: u32) -> vec2<f32> {
    workgroupBarrier();
    partial[thread] = vec3<f32>(own, 0.0);
    workgroupBarrier();
    for (var half = 128u; half > 0u; half /= 2u) {
        if thread < half {
            partial[thread] = max(partial[thread], partial[thread + half]);
        }
        workgroupBarrier();
    }
    return partial[0].xy;
}

fn sum_of(own: vec3<f32>, thread: u32) -> vec3<f32> {
    workgroupBarrier();
    partial[thread] = own;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half /= 2u) {
        if thread < half {
            partial[thread] += partial[thread + half];
        }
        workgroupBarrier();
    }
    return partial[0];
}

@compute @workgroup_size(256)
fn distillation(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = group.x;
    let first = row * p.stride;
    let target_id = targets[p.first + row];
    let counts = target_id != IGNORE;
    let of_target = student[first + select(0u, target_id, counts)];
    var highest = vec2<f32>(student[first], teacher[first]);
    for (var i = thread; i < p.vocab; i += 256u) {
        highest = max(highest, vec2<f32>(student[first + i], teacher[first + i]));
    }
    let top = largest_of(highest, thread);
    // Of exp(z), exp(z / T) and exp(y / T), all behind their largest.
    var own = vec3<f32>(0.0);
    for (var i = thread; i < p.vocab; i += 256u) {
        let z = student[first + i] - top.x;
        let y = teacher[first + i] - top.y;
        own += exp(vec3<f32>(z, z * p.inverse, y * p.inverse));
    }
    let lse = log(sum_of(own, thread));
    var divergence = 0.0;
    for (var i = thread; i < p.stride; i += 256u) {
        var d = 0.0;
        if i < p.vocab {
            let z = student[first + i] - top.x;
            let log_q = z * p.inverse - lse.y;
            let log_p = (teacher[first + i] - top.y) * p.inverse - lse.z;
            let target_share = exp(log_p);
            divergence += target_share * (log_p - log_q);
            let one_hot = select(0.0, 1.0, counts && i == target_id);
            d = p.kl * (exp(log_q) - target_share) + p.cross_entropy * (exp(z - lse.x) - one_hot);
        }
        if p.backward == 1u {
            student[first + i] = select(0.0, d, counts);
        }
    }
    let total = sum_of(vec3<f32>(divergence, 0.0, 0.0), thread).x;
    if thread == 0u {
        losses[p.losses + row] = select(0.0, lse.x - (of_target - top.x), counts);
        losses[p.divergences + row] = select(0.0, total, counts);
    }
}
