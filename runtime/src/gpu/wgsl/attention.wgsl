// out[t, h] = softmax(q[t, h] . keys / sqrt(dim)) . values over the positions that token t sees, in one pass over tiles
// of 64 (Dao et al., arXiv 2205.14135). A workgroup takes four queries that search the same keys, heads of a token first,
// then tokens, side by side in a vector: keys and values are read once for all four. A thread computes the scores of one
// position, then sums up pairs of dimensions. What a query finds does not depend on the others.

struct Params {
    heads: u32,
    kv_heads: u32,
    dim: u32,
    position: u32,   // of the first token
    context: u32,    // positions for which there is room, a multiple of the tile
    tokens: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> keys: array<u32>;
@group(0) @binding(3) var<storage, read> values: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

override INT8: bool = false;   // keys and values as store_heads.wgsl rounds them
const TILE = 64u;
const WIDEST = 256u;      // dimensions
const LOWEST = -1e30;
var<workgroup> query: array<vec4<f32>, WIDEST>;
var<workgroup> found: array<vec4<f32>, WIDEST>;
var<workgroup> weights: array<vec4<f32>, TILE>;
var<workgroup> reduced: array<vec4<f32>, TILE>;

var<workgroup> value_scales: array<f32, TILE>;

// Scores of the position whose key begins at `at`.
fn scores(at: u32) -> vec4<f32> {
    var score = vec4<f32>();
    if INT8 {
        for (var i = 0u; i < p.dim / 4u; i++) {
            let key = vec4<f32>(unpack4xI8(keys[at + i * TILE]));
            score += query[4u * i] * key.x + query[4u * i + 1u] * key.y;
            score += query[4u * i + 2u] * key.z + query[4u * i + 3u] * key.w;
        }
        return score * bitcast<f32>(keys[at + p.dim / 4u * TILE]);
    }
    for (var i = 0u; i < p.dim / 2u; i++) {
        let key = unpack2x16float(keys[at + i * TILE]);
        score += query[2u * i] * key.x + query[2u * i + 1u] * key.y;
    }
    return score;
}

// Pair `i` of the value that begins at `at`, position `j` of the tile.
fn value_of(at: u32, j: u32, i: u32) -> vec2<f32> {
    if INT8 {
        let four = unpack4xI8(values[at + i / 2u]);
        return vec2<f32>(select(four.xy, four.zw, (i & 1u) != 0u)) * value_scales[j];
    }
    return unpack2x16float(values[at + i]);
}

@compute @workgroup_size(TILE)
fn attention(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let pairs = p.dim / 2u;
    let shared_by = p.heads / p.kv_heads;
    let words = select(pairs, p.dim / 4u + 1u, INT8);
    let cache = group.x * p.context * words;
    let first = group.y * 4u;
    let last = p.tokens * shared_by - 1u;
    let row = min(first + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last));
    let token = row / shared_by;
    let origin = (token * p.heads + group.x * shared_by + row % shared_by) * p.dim;
    for (var i = thread; i < p.dim; i += TILE) {
        query[i] = vec4<f32>(q[origin.x + i], q[origin.y + i], q[origin.z + i], q[origin.w + i]) * p.scale;
        found[i] = vec4<f32>();
    }
    workgroupBarrier();
    let seen = p.position + token + 1u;
    var largest = vec4<f32>(LOWEST);
    var total = vec4<f32>();
    for (var tile = 0u; tile < seen.w; tile += TILE) {
        let visible = vec4<u32>(tile + thread) < seen;
        var score = vec4<f32>();
        if tile + thread < seen.w {
            score = scores(cache + tile * words + thread);
            if INT8 {
                value_scales[thread] = bitcast<f32>(values[cache + (tile + thread + 1u) * words - 1u]);
            }
        }
        score = select(vec4<f32>(LOWEST), score, visible);
        reduced[thread] = score;
        for (var width = TILE / 4u; width > 0u; width /= 4u) {
            workgroupBarrier();
            if thread < width {
                reduced[thread] = max(
                    max(reduced[thread], reduced[thread + width]),
                    max(reduced[thread + 2u * width], reduced[thread + 3u * width]),
                );
            }
        }
        workgroupBarrier();
        let top = max(largest, reduced[0]);
        let shrink = exp(max(largest - top, vec4<f32>(-80.0)));
        let weight = select(vec4<f32>(), exp(max(score - top, vec4<f32>(-80.0))), visible);
        largest = top;
        weights[thread] = weight;
        workgroupBarrier();
        let count = min(TILE, seen.w - tile);
        var sum = vec4<f32>();
        for (var j = 0u; j < count; j++) {
            sum += weights[j];
        }
        total = total * shrink + sum;
        for (var i = thread; i < pairs; i += TILE) {
            var even = found[2u * i] * shrink;
            var odd = found[2u * i + 1u] * shrink;
            for (var j = 0u; j < count; j++) {
                let value = value_of(cache + (tile + j) * words, j, i);
                even += weights[j] * value.x;
                odd += weights[j] * value.y;
            }
            found[2u * i] = even;
            found[2u * i + 1u] = odd;
        }
        workgroupBarrier();
    }
    for (var i = thread; i < pairs; i += TILE) {
        let even = found[2u * i] / total;
        let odd = found[2u * i + 1u] / total;
        for (var n = 0u; n < 4u && first + n <= last; n++) {
            out[origin[n] + 2u * i] = even[n];
            out[origin[n] + 2u * i + 1u] = odd[n];
        }
    }
}
