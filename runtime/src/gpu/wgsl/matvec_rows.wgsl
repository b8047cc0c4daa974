// One token times a matrix: what matvec.wgsl and matvec_subgroups.wgsl have in common, in front of both. A workgroup has
// eight rows, and each of its threads takes its turn at words of 16 weights of all eight.
//
//   EPILOGUE 0   out = w h       rows from `second` and `third` on go to outputs of their own
//            1   out += w h
//            2   out = silu(gate h) * (up h), where row i of gate is row i, and of up row `second` + i
//
// NORM: h = x / rms(x) * gain, else h = x. The sum of squares runs along, and the factor comes last.
//
// Codes are not shifted into place: they are taken where they stand in the word, and what they are too large by is taken
// off the activations, once for all rows. These are powers of two, so each way of doing it gives the same bits.

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
override HALVES: bool = false;    // codes by way of subnormal halves, where the device has them: see `in_halves`
override THREADS: u32 = 64;       // 32, 64 or 128
const MOST_THREADS = 128u;

var<workgroup> low: array<vec4<f32>, MOST_THREADS>;    // sums of the first four rows
var<workgroup> high: array<vec4<f32>, MOST_THREADS>;   // and of the others
var<workgroup> squares: array<f32, MOST_THREADS>;

struct Sums {
    low: vec4<f32>,
    high: vec4<f32>,
    square: f32,
}

// Sixteen codes where they stand: code i times 4^i.
fn in_place(word: u32) -> mat4x4<f32> {
    let w = vec4<u32>(word);
    return mat4x4<f32>(
        vec4<f32>(w & vec4<u32>(0x3u, 0xcu, 0x30u, 0xc0u)),
        vec4<f32>(w & vec4<u32>(0x300u, 0xc00u, 0x3000u, 0xc000u)),
        vec4<f32>(w & vec4<u32>(0x30000u, 0xc0000u, 0x300000u, 0xc00000u)),
        vec4<f32>(w & vec4<u32>(0x3000000u, 0xc000000u, 0x30000000u, 0xc0000000u)),
    );
}

// The same through the ten low bits of a half, which alone make a subnormal number: 2^-24 times the bits. One
// conversion for two codes, and none at all on GPUs that read halves as operands; integers are slow to convert there.
fn in_halves(word: u32) -> mat4x4<f32> {
    let a = unpack2x16float(word & 0x00030003u);
    let b = unpack2x16float(word & 0x000c000cu);
    let c = unpack2x16float(word & 0x00300030u);
    let d = unpack2x16float(word & 0x00c000c0u);
    let e = unpack2x16float(word & 0x03000300u);
    let rest = word >> 10u;
    let f = unpack2x16float(rest & 0x00030003u);
    let g = unpack2x16float(rest & 0x000c000cu);
    let h = unpack2x16float(rest & 0x00300030u);
    return mat4x4<f32>(
        vec4<f32>(a.x, b.x, c.x, d.x), vec4<f32>(e.x, f.x, g.x, h.x),
        vec4<f32>(a.y, b.y, c.y, d.y), vec4<f32>(e.y, f.y, g.y, h.y),
    );
}

// Activations times the inverse of what the codes are too large by.
fn fitted(h: mat4x4<f32>) -> mat4x4<f32> {
    if DENSE {
        return h;
    }
    let four = vec4<f32>(1.0, 0x1p-2, 0x1p-4, 0x1p-6);
    if HALVES {
        let low = four * 0x1p24;
        let high = vec4<f32>(0x1p16, 0x1p24, 0x1p22, 0x1p20);
        return mat4x4<f32>(h[0] * low, h[1] * high, h[2] * low, h[3] * high);
    }
    return mat4x4<f32>(h[0] * four, h[1] * (four * 0x1p-8), h[2] * (four * 0x1p-16), h[3] * (four * 0x1p-24));
}

// Product of word `n` of a row with sixteen fitted activations, of which `sum` is the sum.
fn product(row: u32, n: u32, h: mat4x4<f32>, sum: f32) -> f32 {
    let at = row * p.words + n;
    if DENSE {
        var total = 0.0;
        for (var i = 0u; i < 4u; i++) {
            let from_here = at * 16u + 4u * i;
            let w = vec4<u32>(weights[from_here], weights[from_here + 1u], weights[from_here + 2u], weights[from_here + 3u]);
            total += dot(bitcast<vec4<f32>>(w), h[i]);
        }
        return total;
    }
    var c = mat4x4<f32>();
    if HALVES {
        c = in_halves(weights[at]);
    } else {
        c = in_place(weights[at]);
    }
    let group = n / GROUP_WORDS;
    let scale = half_of(scales[row * p.halves + group / 2u], group & 1u);
    return scale * (dot(c[0], h[0]) + dot(c[1], h[1]) + dot(c[2], h[2]) + dot(c[3], h[3]) - sum);
}

fn products(rows: vec4<u32>, n: u32, h: mat4x4<f32>, sum: f32) -> vec4<f32> {
    return vec4<f32>(product(rows.x, n, h, sum), product(rows.y, n, h, sum), product(rows.z, n, h, sum), product(rows.w, n, h, sum));
}

fn store(at: u32, value: f32) {
    if EPILOGUE == 1u {
        out0[at] += value;
    } else if at < p.second {
        out0[at] = value;
    } else if at < p.third {
        out1[at - p.second] = value;
    } else {
        out2[at - p.third] = value;
    }
}

// The first of the eight rows of a workgroup; of gate and up there are four each.
fn base_of(group: u32) -> u32 {
    return group * select(8u, 4u, EPILOGUE == 2u);
}

// What a thread finds in its words.
fn sums(base: u32, thread: u32) -> Sums {
    let next = vec4<u32>(0u, 1u, 2u, 3u);
    var rows = min(base + next, vec4<u32>(p.rows - 1u));
    var others = min(base + 4u + next, vec4<u32>(p.rows - 1u));
    if EPILOGUE == 2u {
        rows = min(base + next, vec4<u32>(p.second - 1u));
        others = rows + p.second;
    }
    var found = Sums();
    for (var n = thread; n < p.words; n += THREADS) {
        let at = p.x + 4u * n;
        var h = mat4x4<f32>(x[at], x[at + 1u], x[at + 2u], x[at + 3u]);
        if NORM {
            found.square += dot(h[0], h[0]) + dot(h[1], h[1]) + dot(h[2], h[2]) + dot(h[3], h[3]);
            h = mat4x4<f32>(h[0] * gain[4u * n], h[1] * gain[4u * n + 1u], h[2] * gain[4u * n + 2u], h[3] * gain[4u * n + 3u]);
        }
        let sum = dot(h[0] + h[1] + h[2] + h[3], vec4<f32>(1.0));
        h = fitted(h);
        found.low += products(rows, n, h, sum);
        found.high += products(others, n, h, sum);
    }
    return found;
}

// What becomes of the sums of all threads.
fn finish(base: u32, thread: u32, found: Sums) {
    var factor = 1.0;
    if NORM {
        factor = inverseSqrt(found.square / f32(16u * p.words) + p.eps);
    }
    let own = found.low[thread & 3u] * factor;
    let other = found.high[thread & 3u] * factor;
    if EPILOGUE == 2u {
        if thread < 4u && base + thread < p.second {
            out0[base + thread] = silu(own) * other;
        }
    } else if thread < 8u && base + thread < p.rows {
        store(p.first + base + thread, select(own, other, thread > 3u));
    }
}
