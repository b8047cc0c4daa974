// dq = ds k with p = exp(s - lse) and ds = p (d_out v^T - shift) / sqrt(head_dim).

@group(0) @binding(0) var<storage, read_write> dq: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> d_out: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> shift: array<f32>;
@group(0) @binding(4) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> v: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

// Of s and of d_out v^T.
var<workgroup> parts: array<vec2<f32>, BLOCK * SLICES * ROWS>;
var<workgroup> d_scores: array<f32, BLOCK * ROWS>;

@compute @workgroup_size(ROWS * SLICES)
fn attention_backward_q(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let r = thread % ROWS;
    let slice = thread / ROWS;
    let first = group.x * ROWS;
    let row = min(first + r, p.seq - 1u);
    let head = group.y;
    let kv_head = head / (p.heads / p.kv_heads);
    let sequence = group.z * p.seq;
    let at = slice_at(sequence + row, p.heads, head, slice);
    let own = load_q(at, slice);
    let own_d = load_d_out(at, slice);
    let statistics = (group.z * p.heads + head) * p.seq + row;
    let own_lse = lse[statistics];
    let own_shift = shift[statistics];
    var sum = Slice();
    for (var key = 0u; key < min(first + ROWS, p.seq); key += BLOCK) {
        for (var j = 0u; j < BLOCK; j += 1u) {
            let other = slice_at(sequence + min(key + j, p.seq - 1u), p.kv_heads, kv_head, slice);
            parts[(j * SLICES + slice) * ROWS + r] =
                vec2<f32>(dot_slices(own, load_k(other, slice)), dot_slices(own_d, load_v(other, slice)));
        }
        workgroupBarrier();
        for (var j = slice; j < BLOCK; j += SLICES) {
            var both = vec2<f32>(0.0);
            for (var part = 0u; part < SLICES; part += 1u) {
                both += parts[(j * SLICES + part) * ROWS + r];
            }
            let weight = exp(min(both.x * p.scale - own_lse, 0.0));
            d_scores[j * ROWS + r] = weight * (both.y - own_shift) * p.scale;
        }
        workgroupBarrier();
        let visible = min(max(row + 1u, key) - key, BLOCK);
        for (var j = 0u; j < visible; j += 1u) {
            let other = slice_at(sequence + key + j, p.kv_heads, kv_head, slice);
            add_scaled(&sum, d_scores[j * ROWS + r], load_k(other, slice));
        }
    }
    if first + r < p.seq {
        store_dq(at, slice, sum);
    }
}
