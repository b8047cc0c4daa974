// A workgroup computes 64 x 64 numbers and holds 16 of k of both factors in its memory, unpacked once for all its threads.

// For each of 16 of k: 64 rows of a, and 64 columns of b.
var<workgroup> a_tile: array<vec4<f32>, 256>;
var<workgroup> b_tile: array<vec4<f32>, 256>;

@compute @workgroup_size(8, 8)
fn matmul_tile(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let n = group.x * 64u;
    let m = group.y * 64u;
    // What this thread brings: four of k for four rows and for four columns.
    let own = thread / 4u;
    let own_k = thread % 4u * 4u;
    let none = vec4<f32>(0.0);
    var s: Sums;
    for (var first = 0u; first < p.k; first += 16u) {
        let k = first + own_k;
        var rows = array<vec4<f32>, 4>(none, none, none, none);
        var columns = array<vec4<f32>, 4>(none, none, none, none);
        if k < p.k {
            rows = tile_a(m + own * 4u, k);
            columns = tile_b(n + own * 4u, k);
        }
        let at = own_k * 16u + own;
        a_tile[at] = rows[0];
        a_tile[at + 16u] = rows[1];
        a_tile[at + 32u] = rows[2];
        a_tile[at + 48u] = rows[3];
        b_tile[at] = columns[0];
        b_tile[at + 16u] = columns[1];
        b_tile[at + 32u] = columns[2];
        b_tile[at + 48u] = columns[3];
        workgroupBarrier();
        for (var i = 0u; i < 256u; i += 16u) {
            let a_at = i + local.y * 2u;
            let b_at = i + local.x * 2u;
            add_outer(&s, a_tile[a_at], a_tile[a_at + 1u], b_tile[b_at], b_tile[b_at + 1u]);
        }
        workgroupBarrier();
    }
    store_all(m + local.y * SIDE, n + local.x * SIDE, s);
}
