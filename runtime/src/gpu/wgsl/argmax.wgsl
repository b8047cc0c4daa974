// The place of the largest of x, the lowest among equals: a workgroup finds the largest of its share, and another dispatch
// (LAST) the largest of those. Numbers are compared as integers in the same order, among which the largest is what is not
// a number.

struct Params {
    count: u32,
    share: u32,   // of a workgroup
    place: u32,   // of the result in `found`
}

@group(0) @binding(0) var<storage, read_write> largest: array<vec2<u32>>;   // of each share: key and place
@group(0) @binding(1) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(2) var<storage, read_write> found: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<u32>;                     // LAST: keys and places
@group(1) @binding(0) var<uniform> p: Params;

override LAST: bool = false;
const THREADS = 64u;
const NO_TOKEN = 0xffffffffu;
const NOT_A_NUMBER = 0xffffffffu;

var<workgroup> best: array<vec2<u32>, THREADS>;

// Larger where the number is, and equal for both zeros.
fn key_of(number: u32) -> u32 {
    let size = number & 0x7fffffffu;
    if size > 0x7f800000u {
        return NOT_A_NUMBER;
    }
    return select(0x80000000u + size, 0x80000000u - size, number > 0x7fffffffu);
}

fn candidate(i: u32) -> vec2<u32> {
    if LAST {
        return vec2<u32>(x[2u * i], x[2u * i + 1u]);
    }
    return vec2<u32>(key_of(x[i]), i);
}

fn better(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return select(a, b, b.x > a.x || (b.x == a.x && b.y < a.y));
}

@compute @workgroup_size(THREADS)
fn argmax(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first = group.x * p.share;
    let end = min(first + p.share, p.count);
    var mine = vec2<u32>(0u, NO_TOKEN);
    for (var i = first + thread; i < end; i += THREADS) {
        mine = better(mine, candidate(i));
    }
    best[thread] = mine;
    for (var width = THREADS / 4u; width > 0u; width /= 4u) {
        workgroupBarrier();
        if thread < width {
            best[thread] = better(
                better(best[thread], best[thread + width]),
                better(best[thread + 2u * width], best[thread + 3u * width]),
            );
        }
    }
    if thread == 0u {
        if LAST {
            let id = select(best[0].y, NO_TOKEN, best[0].x == NOT_A_NUMBER);
            tokens[0] = id;
            found[p.place] = id;
        } else {
            largest[group.x] = best[0];
        }
    }
}
