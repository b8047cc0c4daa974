// out = x / rms(x) * gain, a row to a workgroup.

struct Params {
    quads: u32,   // vectors of four in a row
    x: u32,       // where the first row begins, in vectors of four
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> gain: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

const THREADS = 64u;
var<workgroup> squares: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn rms_norm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group_index(group, groups);
    var square = 0.0;
    for (var i = thread; i < p.quads; i += THREADS) {
        let v = x[p.x + row * p.quads + i];
        square += dot(v, v);
    }
    squares[thread] = square;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if thread < half {
            squares[thread] += squares[thread + half];
        }
        workgroupBarrier();
    }
    let factor = inverseSqrt(squares[0] / f32(4u * p.quads) + p.eps);
    for (var i = thread; i < p.quads; i += THREADS) {
        out[row * p.quads + i] = x[p.x + row * p.quads + i] * factor * gain[i];
    }
}
