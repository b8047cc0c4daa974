// Several tokens: four rows times four tokens to a thread, 32 times 32 to a workgroup. Epilogues and outputs as in
// matvec.wgsl; h is normalised before.

struct Params {
    rows: u32,
    words: u32,
    halves: u32,
    x: u32,
    first: u32,
    second: u32,
    third: u32,
    tokens: u32,
    all: u32,     // rows of the stack
}

@group(0) @binding(0) var<storage, read_write> out0: array<f32>;
@group(0) @binding(1) var<storage, read_write> out1: array<f32>;
@group(0) @binding(2) var<storage, read_write> out2: array<f32>;
@group(0) @binding(3) var<storage, read> weights: array<u32>;
@group(0) @binding(4) var<storage, read> scales: array<u32>;
@group(0) @binding(5) var<storage, read> x: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

override EPILOGUE: u32 = 0;
override DENSE: bool = false;
override GROUP_WORDS: u32 = 8;

fn row_of(base: u32, i: u32) -> u32 {
    if EPILOGUE == 2u {
        return min(base / 2u + (i & 1u), p.second - 1u) + (i >> 1u) * p.second;
    }
    return min(base + i, p.rows - 1u);
}

// Sixteen weights of word `n` of a row; codes are not multiplied by their scale yet.
fn weights_of(row: u32, n: u32) -> mat4x4<f32> {
    let at = row * p.words + n;
    if DENSE {
        var w = mat4x4<f32>();
        for (var i = 0u; i < 4u; i++) {
            w[i] = bitcast<vec4<f32>>(vec4<u32>(weights[at * 16u + 4u * i], weights[at * 16u + 4u * i + 1u], weights[at * 16u + 4u * i + 2u], weights[at * 16u + 4u * i + 3u]));
        }
        return w;
    }
    let c = codes_of(weights[at]);
    let one = vec4<f32>(1.0);
    return mat4x4<f32>(c[0] - one, c[1] - one, c[2] - one, c[3] - one);
}

fn scale_of(row: u32, n: u32) -> f32 {
    if DENSE {
        return 1.0;
    }
    let group = n / GROUP_WORDS;
    return half_of(scales[row * p.halves + group / 2u], group & 1u);
}

fn store(row: u32, token: u32, value: f32) {
    let at = p.first + row;
    if EPILOGUE == 1u {
        out0[token * p.all + at] += value;
    } else if at < p.second {
        out0[token * p.second + at] = value;
    } else if at < p.third {
        out1[token * (p.third - p.second) + at - p.second] = value;
    } else {
        out2[token * (p.all - p.third) + at - p.third] = value;
    }
}

// Four rows of one token.
fn finish(base: u32, token: u32, value: vec4<f32>) {
    if token >= p.tokens {
        return;
    }
    if EPILOGUE == 2u {
        for (var i = 0u; i < 2u; i++) {
            if base / 2u + i < p.second {
                out0[token * p.second + base / 2u + i] = silu(value[i]) * value[i + 2u];
            }
        }
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        if base + i < p.rows {
            store(base + i, token, value[i]);
        }
    }
}

@compute @workgroup_size(8, 8)
fn matmul(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let base = (group.x * 8u + thread.x) * 4u;
    let token = (group.y * 8u + thread.y) * 4u;
    let rows = vec4<u32>(row_of(base, 0u), row_of(base, 1u), row_of(base, 2u), row_of(base, 3u));
    let last = p.tokens - 1u;
    let starts = p.x + 4u * p.words * min(vec4<u32>(token, token + 1u, token + 2u, token + 3u), vec4<u32>(last));
    var a = vec4<f32>();
    var b = vec4<f32>();
    var c = vec4<f32>();
    var d = vec4<f32>();
    for (var n = 0u; n < p.words; n++) {
        let w0 = weights_of(rows.x, n);
        let w1 = weights_of(rows.y, n);
        let w2 = weights_of(rows.z, n);
        let w3 = weights_of(rows.w, n);
        var word = mat4x4<f32>();
        for (var i = 0u; i < 4u; i++) {
            let w = transpose(mat4x4<f32>(w0[i], w1[i], w2[i], w3[i]));
            word[0] += w * x[starts.x + 4u * n + i];
            word[1] += w * x[starts.y + 4u * n + i];
            word[2] += w * x[starts.z + 4u * n + i];
            word[3] += w * x[starts.w + 4u * n + i];
        }
        let scale = vec4<f32>(scale_of(rows.x, n), scale_of(rows.y, n), scale_of(rows.z, n), scale_of(rows.w, n));
        a += word[0] * scale;
        b += word[1] * scale;
        c += word[2] * scale;
        d += word[3] * scale;
    }
    finish(base, token, a);
    finish(base, token + 1u, b);
    finish(base, token + 2u, c);
    finish(base, token + 3u, d);
}
