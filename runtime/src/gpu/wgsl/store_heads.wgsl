// What happens to the heads of a token before the search: q and k are normalised and rotated, q in place, and k and v go
// into the cache as f16, or rounded to i8 with one scale a head (INT8). A workgroup takes one head: the q heads of a token first, then those of k, then those of v.
//
// The cache holds two neighbours in a word, keys and values apart. Values are [heads, positions, head_dim / 2]. Keys are
// [heads, tiles, head_dim / 2, 64]: threads that compare 64 positions with a query read words side by side. INT8: four
// neighbours in a word, and one word more for the scale, which makes head_dim / 4 + 1.

struct Params {
    heads: u32,
    kv_heads: u32,
    dim: u32,
    position: u32,   // of the first token
    context: u32,    // positions for which there is room, a multiple of the tile
    norms: u32,      // 1: q and k are normalised
    q_eps: f32,
    k_eps: f32,
}

@group(0) @binding(0) var<storage, read_write> q: array<f32>;
@group(0) @binding(1) var<storage, read_write> keys: array<u32>;
@group(0) @binding(2) var<storage, read_write> values: array<u32>;
@group(0) @binding(3) var<storage, read> k: array<f32>;
@group(0) @binding(4) var<storage, read> v: array<f32>;
@group(0) @binding(5) var<storage, read> q_gain: array<f32>;
@group(0) @binding(6) var<storage, read> k_gain: array<f32>;
@group(0) @binding(7) var<storage, read> angles: array<f32>;   // of a token: cosines, then sines
@group(1) @binding(0) var<uniform> p: Params;

override INT8: bool = false;
const THREADS = 32u;
const TILE = 64u;
const WIDEST = 512u;
const LARGEST = vec2<f32>(65504.0);
var<workgroup> head: array<f32, WIDEST>;
var<workgroup> squares: array<f32, THREADS>;

// Of the magnitudes of the head.
fn largest_of(dim: u32, thread: u32) -> f32 {
    var largest = 0.0;
    for (var i = thread; i < dim; i += THREADS) {
        largest = max(largest, abs(head[i]));
    }
    squares[thread] = min(largest, 1e30);
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if thread < half {
            squares[thread] = max(squares[thread], squares[thread + half]);
        }
        workgroupBarrier();
    }
    return squares[0];
}

@compute @workgroup_size(THREADS)
fn store_heads(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let token = group.y;
    let is_q = group.x < p.heads;
    let is_v = group.x >= p.heads + p.kv_heads;
    let kv = select(group.x - p.heads, group.x - p.heads - p.kv_heads, is_v) * select(1u, 0u, is_q);
    let origin = select((token * p.kv_heads + kv) * p.dim, (token * p.heads + group.x) * p.dim, is_q);
    var square = 0.0;
    for (var i = thread; i < p.dim; i += THREADS) {
        var value = 0.0;
        if is_q {
            value = q[origin + i];
        } else if is_v {
            value = v[origin + i];
        } else {
            value = k[origin + i];
        }
        head[i] = value;
        square += value * value;
    }
    squares[thread] = square;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if thread < half {
            squares[thread] += squares[thread + half];
        }
        workgroupBarrier();
    }
    if !is_v {
        let half = p.dim / 2u;
        let factor = inverseSqrt(squares[0] / f32(p.dim) + select(p.k_eps, p.q_eps, is_q));
        for (var i = thread; i < half; i += THREADS) {
            var pair = vec2<f32>(head[i], head[half + i]);
            if p.norms != 0u {
                if is_q {
                    pair *= factor * vec2<f32>(q_gain[i], q_gain[half + i]);
                } else {
                    pair *= factor * vec2<f32>(k_gain[i], k_gain[half + i]);
                }
            }
            let cosine = angles[token * p.dim + i];
            let sine = angles[token * p.dim + half + i];
            head[i] = pair.x * cosine - pair.y * sine;
            head[half + i] = pair.y * cosine + pair.x * sine;
        }
    }
    workgroupBarrier();
    if is_q {
        for (var i = thread; i < p.dim; i += THREADS) {
            q[origin + i] = head[i];
        }
        return;
    }
    let position = p.position + token;
    let words = select(p.dim / 2u, p.dim / 4u + 1u, INT8);
    let values_at = (kv * p.context + position) * words;
    let keys_at = (kv * p.context + position / TILE * TILE) * words + position % TILE;
    if INT8 {
        let largest = largest_of(p.dim, thread);
        let inverse = select(0.0, 127.0 / max(largest, 1e-30), largest > 1e-30);
        for (var i = thread; i < words; i += THREADS) {
            var word = bitcast<u32>(largest / 127.0);
            if i < p.dim / 4u {
                let x = vec4<f32>(head[4u * i], head[4u * i + 1u], head[4u * i + 2u], head[4u * i + 3u]);
                word = pack4xI8(vec4<i32>(round(clamp(x * inverse, vec4<f32>(-127.0), vec4<f32>(127.0)))));
            }
            if is_v {
                values[values_at + i] = word;
            } else {
                keys[keys_at + i * TILE] = word;
            }
        }
        return;
    }
    for (var i = thread; i < p.dim / 2u; i += THREADS) {
        let word = pack2x16float(clamp(vec2<f32>(head[2u * i], head[2u * i + 1u]), -LARGEST, LARGEST));
        if is_v {
            values[values_at + i] = word;
        } else {
            keys[keys_at + i * TILE] = word;
        }
    }
}
