// out = causal softmax(q k^T / sqrt(head_dim)) v with a running maximum, so that scores are never held (Dao et al., arXiv
// 2205.14135), and the log-sum-exp of each row of scores.

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> lse: array<f32>;
@group(0) @binding(2) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> v: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

var<workgroup> parts: array<f32, BLOCK * SLICES * ROWS>;
var<workgroup> scores: array<f32, BLOCK * ROWS>;

@compute @workgroup_size(ROWS * SLICES)
fn attention(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let r = thread % ROWS;
    let slice = thread / ROWS;
    let first = group.x * ROWS;
    let row = first + r;
    let head = group.y;
    let kv_head = head / (p.heads / p.kv_heads);
    let sequence = group.z * p.seq;
    let at = slice_at(sequence + min(row, p.seq - 1u), p.heads, head, slice);
    let own = load_q(at, slice);
    var sum = Slice();
    var largest = -1e30;
    var total = 0.0;
    for (var key = 0u; key < min(first + ROWS, p.seq); key += BLOCK) {
        for (var j = 0u; j < BLOCK; j += 1u) {
            let other = slice_at(sequence + min(key + j, p.seq - 1u), p.kv_heads, kv_head, slice);
            parts[(j * SLICES + slice) * ROWS + r] = dot_slices(own, load_k(other, slice));
        }
        workgroupBarrier();
        for (var j = slice; j < BLOCK; j += SLICES) {
            var score = 0.0;
            for (var part = 0u; part < SLICES; part += 1u) {
                score += parts[(j * SLICES + part) * ROWS + r];
            }
            scores[j * ROWS + r] = score * p.scale;
        }
        workgroupBarrier();
        let visible = min(max(row + 1u, key) - key, BLOCK);
        var next = largest;
        for (var j = 0u; j < visible; j += 1u) {
            next = max(next, scores[j * ROWS + r]);
        }
        let fade = exp(largest - next);
        largest = next;
        total *= fade;
        sum[0] *= fade;
        sum[1] *= fade;
        sum[2] *= fade;
        sum[3] *= fade;
        for (var j = 0u; j < visible; j += 1u) {
            let weight = exp(scores[j * ROWS + r] - largest);
            total += weight;
            let other = slice_at(sequence + min(key + j, p.seq - 1u), p.kv_heads, kv_head, slice);
            add_scaled(&sum, weight, load_v(other, slice));
        }
    }
    if row < p.seq {
        let inverse = 1.0 / total;
        store_out(at, slice, Slice(sum[0] * inverse, sum[1] * inverse, sum[2] * inverse, sum[3] * inverse));
        if slice == 0u {
            lse[(group.z * p.heads + head) * p.seq + row] = largest + log(total);
        }
    }
}
