// One token: four rows of a matrix to a workgroup, each thread takes every 64th word of 16 weights of all four.
//
//   EPILOGUE 0   out = w h       rows from `second` and `third` on go to outputs of their own
//            1   out += w h
//            2   out = silu(gate h) * (up h), where row i of gate is row i, and of up row `second` + i
//
// NORM: h = x / rms(x) * gain, else h = x. The sum of squares runs along, and the factor comes last.

struct Params {
    rows: u32,
    words: u32,   // of 16 weights, in a row
    halves: u32,  // words of two scales, in a row
    x: u32,       // where the token begins, in vectors of four
    first: u32,   // of the rows here, among those of the stack
    second: u32,
    third: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> out0: array<f32>;
@group(0) @binding(1) var<storage, read_write> out1: array<f32>;
@group(0) @binding(2) var<storage, read_write> out2: array<f32>;
@group(0) @binding(3) var<storage, read> weights: array<u32>;
@group(0) @binding(4) var<storage, read> scales: array<u32>;
@group(0) @binding(5) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> gain: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

override NORM: bool = false;
override EPILOGUE: u32 = 0;
override DENSE: bool = false;     // f32 weights instead of codes
override GROUP_WORDS: u32 = 8;    // words that share a scale
const THREADS = 64u;

var<workgroup> sums: array<vec4<f32>, THREADS>;
var<workgroup> squares: array<f32, THREADS>;

// Row i of the four of this workgroup.
fn row_of(base: u32, i: u32) -> u32 {
    if EPILOGUE == 2u {
        return min(base / 2u + (i & 1u), p.second - 1u) + (i >> 1u) * p.second;
    }
    return min(base + i, p.rows - 1u);
}

// Product of word `n` of a row with sixteen activations, of which `sum` is the sum.
fn product(row: u32, n: u32, h: mat4x4<f32>, sum: f32) -> f32 {
    let at = row * p.words + n;
    if DENSE {
        var total = 0.0;
        for (var i = 0u; i < 4u; i++) {
            let w = vec4<u32>(weights[at * 16u + 4u * i], weights[at * 16u + 4u * i + 1u], weights[at * 16u + 4u * i + 2u], weights[at * 16u + 4u * i + 3u]);
            total += dot(bitcast<vec4<f32>>(w), h[i]);
        }
        return total;
    }
    let c = codes_of(weights[at]);
    let group = n / GROUP_WORDS;
    let scale = half_of(scales[row * p.halves + group / 2u], group & 1u);
    return scale * (dot(c[0], h[0]) + dot(c[1], h[1]) + dot(c[2], h[2]) + dot(c[3], h[3]) - sum);
}

@compute @workgroup_size(THREADS)
fn matvec(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let base = group_index(group, groups) * 4u;
    let rows = vec4<u32>(row_of(base, 0u), row_of(base, 1u), row_of(base, 2u), row_of(base, 3u));
    var found = vec4<f32>();
    var square = 0.0;
    for (var n = thread; n < p.words; n += THREADS) {
        var h = mat4x4<f32>(x[p.x + 4u * n], x[p.x + 4u * n + 1u], x[p.x + 4u * n + 2u], x[p.x + 4u * n + 3u]);
        if NORM {
            square += dot(h[0], h[0]) + dot(h[1], h[1]) + dot(h[2], h[2]) + dot(h[3], h[3]);
            h = mat4x4<f32>(h[0] * gain[4u * n], h[1] * gain[4u * n + 1u], h[2] * gain[4u * n + 2u], h[3] * gain[4u * n + 3u]);
        }
        let sum = dot(h[0] + h[1] + h[2] + h[3], vec4<f32>(1.0));
        found += vec4<f32>(product(rows.x, n, h, sum), product(rows.y, n, h, sum), product(rows.z, n, h, sum), product(rows.w, n, h, sum));
    }
    sums[thread] = found;
    squares[thread] = square;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if thread < half {
            sums[thread] += sums[thread + half];
            squares[thread] += squares[thread + half];
        }
        workgroupBarrier();
    }
    if thread < 4u {
        var factor = 1.0;
        if NORM {
            factor = inverseSqrt(squares[0] / f32(16u * p.words) + p.eps);
        }
        let value = sums[0][thread] * factor;
        if EPILOGUE == 2u {
            let row = base / 2u + thread;
            if thread < 2u && row < p.second {
                out0[row] = silu(value) * (sums[0][thread + 2u] * factor);
            }
        } else if base + thread < p.rows {
            let row = p.first + base + thread;
            if EPILOGUE == 1u {
                out0[row] += value;
            } else if row < p.second {
                out0[row] = value;
            } else if row < p.third {
                out1[row - p.second] = value;
            } else {
                out2[row - p.third] = value;
            }
        }
    }
}
