// shift = rowsum(d_out out) for each row of each head, `[batch, heads, seq]`: what the softmax takes off its gradients.

@group(0) @binding(0) var<storage, read_write> shift: array<f32>;
@group(0) @binding(1) var<storage, read> d_out: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> out: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(64)
fn attention_shift(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = group.x * 64u + thread;
    let head = group.y;
    if row < p.seq {
        let first = slice_at(group.z * p.seq + row, p.heads, head, 0u);
        var sum = vec4<f32>(0.0);
        for (var i = first; i < first + HEAD_DIM / 4u; i += 1u) {
            sum += d_out[i] * out[i];
        }
        shift[(group.z * p.heads + head) * p.seq + row] = (sum.x + sum.z) + (sum.y + sum.w);
    }
}
