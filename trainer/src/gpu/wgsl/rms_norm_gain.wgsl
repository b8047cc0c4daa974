// The gain's part of the backward pass: for each chunk of runs, the sum of dy x r in the order of the runs. The sums of
// the chunks are added by `add_rows`.

struct Params {
    runs: u32,
    // Of a run.
    quads: u32,
    // Runs in a chunk.
    chunk: u32,
    // Chunk to begin with.
    first: u32,
}

@group(0) @binding(0) var<storage, read_write> partial: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> scales: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(64)
fn rms_norm_gain(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let n = group_index(group, groups) * 64u + thread;
    let chunk = n / p.quads;
    let i = n % p.quads;
    let begin = chunk * p.chunk;
    if begin < p.runs {
        var sum = vec4<f32>(0.0);
        for (var run = begin; run < min(begin + p.chunk, p.runs); run += 1u) {
            sum += dy[run * p.quads + i] * x[run * p.quads + i] * scales[run];
        }
        partial[(p.first + chunk) * p.quads + i] = sum;
    }
}
