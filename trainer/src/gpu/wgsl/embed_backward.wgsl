// d_table[id] += d_out of each token with this id, in the order of the tokens: one workgroup to an id.

struct Params {
    // Of a row.
    quads: u32,
    // Where in the list the ids of this piece of the table begin, and how many they are.
    first: u32,
    ids: u32,
    // Row of the table that this piece begins with.
    row: u32,
}

@group(0) @binding(0) var<storage, read_write> d_table: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> d_out: array<vec4<f32>>;
// For each id: itself, and where its tokens begin and end in this list.
@group(0) @binding(2) var<storage, read> list: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(64)
fn embed_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let n = group_index(group, groups);
    if n >= p.ids {
        return;
    }
    let entry = (p.first + n) * 3u;
    let row = (list[entry] - p.row) * p.quads;
    for (var i = thread; i < p.quads; i += 64u) {
        var sum = d_table[row + i];
        for (var t = list[entry + 1u]; t < list[entry + 2u]; t += 1u) {
            sum += d_out[list[t] * p.quads + i];
        }
        d_table[row + i] = sum;
    }
}
