// Both factors come straight from memory: best where workgroup memory is no faster, as in programs on the CPU.

@compute @workgroup_size(8, 8)
fn matmul(@builtin(global_invocation_id) id: vec3<u32>) {
    let n = id.x * SIDE;
    let m = id.y * SIDE;
    var s: Sums;
    for (var k = 0u; k < p.k; k += 4u) {
        let low = tile_a(m, k);
        let high = tile_a(m + 4u, k);
        let left = tile_b(n, k);
        let right = tile_b(n + 4u, k);
        add_outer(&s, low[0], high[0], left[0], right[0]);
        add_outer(&s, low[1], high[1], left[1], right[1]);
        add_outer(&s, low[2], high[2], left[2], right[2]);
        add_outer(&s, low[3], high[3], left[3], right[3]);
    }
    store_all(m, n, s);
}
