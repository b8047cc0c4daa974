// out = exclusive or of the words that a thread reads, side by side with those of its neighbours.

struct Params {
    quads: u32,   // vectors of four words
}

@group(0) @binding(0) var<storage, read_write> out: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> words: array<vec4<u32>>;
@group(1) @binding(0) var<uniform> p: Params;

const THREADS = 256u;

@compute @workgroup_size(THREADS)
fn read_words(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let own = group.x * THREADS + thread;
    var found = vec4<u32>();
    for (var i = own; i < p.quads; i += groups.x * THREADS) {
        found ^= words[i];
    }
    out[own] = found;
}
