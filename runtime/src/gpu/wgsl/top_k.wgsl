// The largest of x with their places, in order, the lowest place first among equals: a workgroup sorts its share of 1024 and
// keeps 64, and more dispatches (AGAIN) do the same with what was kept, until one workgroup is left. Numbers are compared as
// integers in the same order, in which what is not a number comes first.

struct Params {
    count: u32,
}

@group(0) @binding(0) var<storage, read_write> kept: array<vec2<u32>>;   // of each share: key and place
@group(0) @binding(1) var<storage, read> x: array<u32>;                  // AGAIN: keys and places
@group(1) @binding(0) var<uniform> p: Params;

override AGAIN: bool = false;
const THREADS = 256u;
const SHARE = 1024u;
const KEPT = 64u;
const NO_TOKEN = 0xffffffffu;
const NOT_A_NUMBER = 0xffffffffu;

var<workgroup> pairs: array<vec2<u32>, SHARE>;

fn key_of(number: u32) -> u32 {
    if (number & 0x7fffffffu) > 0x7f800000u {
        return NOT_A_NUMBER;
    }
    return select(number | 0x80000000u, ~number, number > 0x7fffffffu);
}

fn candidate(i: u32) -> vec2<u32> {
    if i >= p.count {
        return vec2<u32>(0u, NO_TOKEN);
    }
    if AGAIN {
        return vec2<u32>(x[2u * i], x[2u * i + 1u]);
    }
    return vec2<u32>(key_of(x[i]), i);
}

fn comes_first(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y < b.y);
}

@compute @workgroup_size(THREADS)
fn top_k(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    for (var i = thread; i < SHARE; i += THREADS) {
        pairs[i] = candidate(group.x * SHARE + i);
    }
    // Batcher's bitonic sort: runs of `run` in alternating order become runs of twice as many.
    for (var run = 2u; run <= SHARE; run *= 2u) {
        for (var apart = run / 2u; apart > 0u; apart /= 2u) {
            workgroupBarrier();
            for (var n = thread; n < SHARE / 2u; n += THREADS) {
                let a = 2u * n - (n & (apart - 1u));
                let b = a + apart;
                let first = pairs[a];
                let second = pairs[b];
                if comes_first(second, first) == ((a & run) == 0u) {
                    pairs[a] = second;
                    pairs[b] = first;
                }
            }
        }
    }
    workgroupBarrier();
    if thread < KEPT {
        kept[group.x * KEPT + thread] = pairs[thread];
    }
}
