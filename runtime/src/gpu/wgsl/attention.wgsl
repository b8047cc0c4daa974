// out[t, h] = softmax(q[t, h] . keys / sqrt(dim)) . values over the positions that token t sees, in one pass over tiles
// of 64 (Dao et al., arXiv 2205.14135). A workgroup takes one query head of one token: a thread computes the score of one
// position, then sums up pairs of dimensions.

struct Params {
    heads: u32,
    kv_heads: u32,
    dim: u32,
    position: u32,
    context: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read_write> out: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> q: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> keys: array<u32>;
@group(0) @binding(3) var<storage, read> values: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

const TILE = 64u;
const WIDEST = 256u;      // pairs of dimensions
const LOWEST = -1e30;
var<workgroup> query: array<vec2<f32>, WIDEST>;
var<workgroup> found: array<vec2<f32>, WIDEST>;
var<workgroup> weights: array<f32, TILE>;
var<workgroup> reduced: array<f32, TILE>;

@compute @workgroup_size(TILE)
fn attention(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let head = group.x;
    let token = group.y;
    let pairs = p.dim / 2u;
    let origin = (token * p.heads + head) * pairs;
    let cache = head / (p.heads / p.kv_heads) * p.context;
    for (var i = thread; i < pairs; i += TILE) {
        query[i] = q[origin + i] * p.scale;
        found[i] = vec2<f32>();
    }
    workgroupBarrier();
    let seen = p.position + token + 1u;
    var largest = LOWEST;
    var total = 0.0;
    for (var tile = 0u; tile < seen; tile += TILE) {
        var score = LOWEST;
        if tile + thread < seen {
            let at = (cache + tile + thread) * pairs;
            var sum = vec2<f32>();
            for (var i = 0u; i < pairs; i++) {
                sum += query[i] * unpack2x16float(keys[at + i]);
            }
            score = sum.x + sum.y;
        }
        reduced[thread] = score;
        workgroupBarrier();
        for (var half = TILE / 2u; half > 0u; half /= 2u) {
            if thread < half {
                reduced[thread] = max(reduced[thread], reduced[thread + half]);
            }
            workgroupBarrier();
        }
        let top = max(largest, reduced[0]);
        let shrink = exp(max(largest - top, -80.0));
        let weight = select(0.0, exp(max(score - top, -80.0)), tile + thread < seen);
        workgroupBarrier();
        weights[thread] = weight;
        reduced[thread] = weight;
        workgroupBarrier();
        for (var half = TILE / 2u; half > 0u; half /= 2u) {
            if thread < half {
                reduced[thread] += reduced[thread + half];
            }
            workgroupBarrier();
        }
        total = total * shrink + reduced[0];
        largest = top;
        let count = min(TILE, seen - tile);
        for (var i = thread; i < pairs; i += TILE) {
            var sum = found[i] * shrink;
            for (var j = 0u; j < count; j++) {
                sum += weights[j] * unpack2x16float(values[(cache + tile + j) * pairs + i]);
            }
            found[i] = sum;
        }
        workgroupBarrier();
    }
    for (var i = thread; i < pairs; i += TILE) {
        out[origin + i] = found[i] / total;
    }
}
