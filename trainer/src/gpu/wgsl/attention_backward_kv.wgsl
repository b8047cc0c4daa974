// dk = ds^T q and dv = p^T d_out with p = exp(s - lse) and ds = p (d_out v^T - shift) / sqrt(head_dim); one workgroup goes
// through all query heads that share its keys.

@group(0) @binding(0) var<storage, read_write> dk: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> dv: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> d_out: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> lse: array<f32>;
@group(0) @binding(4) var<storage, read> shift: array<f32>;
@group(0) @binding(5) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> v: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

// Of s and of d_out v^T.
var<workgroup> parts: array<vec2<f32>, BLOCK * SLICES * ROWS>;
// p and ds.
var<workgroup> scores: array<vec2<f32>, BLOCK * ROWS>;

@compute @workgroup_size(ROWS * SLICES)
fn attention_backward_kv(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let r = thread % ROWS;
    let slice = thread / ROWS;
    let first = group.x * ROWS;
    let row = min(first + r, p.seq - 1u);
    let kv_head = group.y;
    let share = p.heads / p.kv_heads;
    let sequence = group.z * p.seq;
    let at = slice_at(sequence + row, p.kv_heads, kv_head, slice);
    let own_k = load_k(at, slice);
    let own_v = load_v(at, slice);
    var sum_k = Slice();
    var sum_v = Slice();
    for (var head = kv_head * share; head < (kv_head + 1u) * share; head += 1u) {
        let statistics = (group.z * p.heads + head) * p.seq;
        for (var query = first; query < p.seq; query += BLOCK) {
            for (var j = 0u; j < BLOCK; j += 1u) {
                let other = slice_at(sequence + min(query + j, p.seq - 1u), p.heads, head, slice);
                parts[(j * SLICES + slice) * ROWS + r] =
                    vec2<f32>(dot_slices(own_k, load_q(other, slice)), dot_slices(own_v, load_d_out(other, slice)));
            }
            workgroupBarrier();
            for (var j = slice; j < BLOCK; j += SLICES) {
                var both = vec2<f32>(0.0);
                for (var part = 0u; part < SLICES; part += 1u) {
                    both += parts[(j * SLICES + part) * ROWS + r];
                }
                let i = statistics + min(query + j, p.seq - 1u);
                let weight = exp(min(both.x * p.scale - lse[i], 0.0));
                scores[j * ROWS + r] = vec2<f32>(weight, weight * (both.y - shift[i]) * p.scale);
            }
            workgroupBarrier();
            for (var j = max(query, row) - query; j < min(BLOCK, p.seq - query); j += 1u) {
                let other = slice_at(sequence + query + j, p.heads, head, slice);
                let score = scores[j * ROWS + r];
                add_scaled(&sum_k, score.y, load_q(other, slice));
                add_scaled(&sum_v, score.x, load_d_out(other, slice));
            }
        }
    }
    if first + r < p.seq {
        store_dk(at, slice, sum_k);
        store_dv(at, slice, sum_v);
    }
}
