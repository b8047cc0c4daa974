// Put in front of the matrix products: out = alpha a b, or out += alpha a b: `[m, k] [k, n] -> [m, n]`, a block of 8 x 8
// numbers to a thread, sums over k in order.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    // Numbers from one row in memory to the next, multiples of 4.
    a_stride: u32,
    b_stride: u32,
    out_stride: u32,
    // Where the columns begin, multiples of 4.
    a_first: u32,
    out_first: u32,
    accumulate: u32,
    alpha: f32,
    // Of the rounded weights in b; the rest are the latent ones.
    share: f32,
}

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read> latents: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

// a is stored `[k, m]`.
override A_K_MAJOR: bool = false;
// b is stored `[n, k]`, as weights are; else `[k, n]`.
override B_N_MAJOR: bool = true;
// b is codes and scales.
override TERNARY: bool = true;
override GROUP: u32 = 128;
// b is a mixture of its codes and its latent weights.
override MIXED: bool = false;

const SIDE: u32 = 8;
alias Sums = array<vec4<f32>, 16>;

// Four numbers of b from `at` on, a multiple of 4.
fn load_b(at: u32) -> vec4<f32> {
    if TERNARY {
        let byte = b[at >> 4u] >> ((at & 12u) * 2u);
        let codes = vec4<u32>(byte, byte >> 2u, byte >> 4u, byte >> 6u) & vec4<u32>(3u);
        let rounded = (vec4<f32>(codes) - 1.0) * scales[at / GROUP];
        if MIXED {
            return (1.0 - p.share) * latents[at / 4u] + p.share * rounded;
        }
        return rounded;
    }
    return bitcast<vec4<f32>>(vec4<u32>(b[at], b[at + 1u], b[at + 2u], b[at + 3u]));
}

// What lies in memory as four of k for each of four rows, turned: the rows for each k.
fn turned(r: array<vec4<f32>, 4>) -> array<vec4<f32>, 4> {
    return array<vec4<f32>, 4>(
        vec4<f32>(r[0].x, r[1].x, r[2].x, r[3].x),
        vec4<f32>(r[0].y, r[1].y, r[2].y, r[3].y),
        vec4<f32>(r[0].z, r[1].z, r[2].z, r[3].z),
        vec4<f32>(r[0].w, r[1].w, r[2].w, r[3].w),
    );
}

// Rows m..m + 4 of a for k..k + 4. Outside of the matrix come numbers of its edge, which nobody uses.
fn tile_a(m: u32, k: u32) -> array<vec4<f32>, 4> {
    let wide = p.a_stride / 4u;
    if A_K_MAJOR {
        let at = min(p.a_first + m, p.a_stride - 4u) / 4u;
        let last = p.k - 1u;
        return array<vec4<f32>, 4>(
            a[min(k, last) * wide + at],
            a[min(k + 1u, last) * wide + at],
            a[min(k + 2u, last) * wide + at],
            a[min(k + 3u, last) * wide + at],
        );
    }
    let last = p.m - 1u;
    let at = (p.a_first + k) / 4u;
    return turned(array<vec4<f32>, 4>(
        a[min(m, last) * wide + at],
        a[min(m + 1u, last) * wide + at],
        a[min(m + 2u, last) * wide + at],
        a[min(m + 3u, last) * wide + at],
    ));
}

// Columns n..n + 4 of b for k..k + 4; zeros beyond the last k.
fn tile_b(n: u32, k: u32) -> array<vec4<f32>, 4> {
    let wide = p.b_stride;
    if B_N_MAJOR {
        let last = p.n - 1u;
        return turned(array<vec4<f32>, 4>(
            load_b(min(n, last) * wide + k),
            load_b(min(n + 1u, last) * wide + k),
            load_b(min(n + 2u, last) * wide + k),
            load_b(min(n + 3u, last) * wide + k),
        ));
    }
    let at = min(n, wide - 4u);
    let last = p.k - 1u;
    let none = vec4<f32>(0.0);
    return array<vec4<f32>, 4>(
        load_b(k * wide + at),
        select(none, load_b(min(k + 1u, last) * wide + at), k + 1u < p.k),
        select(none, load_b(min(k + 2u, last) * wide + at), k + 2u < p.k),
        select(none, load_b(min(k + 3u, last) * wide + at), k + 3u < p.k),
    );
}

fn add_outer(s: ptr<function, Sums>, low: vec4<f32>, high: vec4<f32>, left: vec4<f32>, right: vec4<f32>) {
    (*s)[0] += low.x * left;
    (*s)[1] += low.x * right;
    (*s)[2] += low.y * left;
    (*s)[3] += low.y * right;
    (*s)[4] += low.z * left;
    (*s)[5] += low.z * right;
    (*s)[6] += low.w * left;
    (*s)[7] += low.w * right;
    (*s)[8] += high.x * left;
    (*s)[9] += high.x * right;
    (*s)[10] += high.y * left;
    (*s)[11] += high.y * right;
    (*s)[12] += high.z * left;
    (*s)[13] += high.z * right;
    (*s)[14] += high.w * left;
    (*s)[15] += high.w * right;
}

fn store(m: u32, n: u32, value: vec4<f32>) {
    if m < p.m && n < p.n {
        let at = (m * p.out_stride + p.out_first + n) / 4u;
        if p.accumulate == 1u {
            out[at] += p.alpha * value;
        } else {
            out[at] = p.alpha * value;
        }
    }
}

fn store_all(m: u32, n: u32, s: Sums) {
    store(m, n, s[0]);
    store(m, n + 4u, s[1]);
    store(m + 1u, n, s[2]);
    store(m + 1u, n + 4u, s[3]);
    store(m + 2u, n, s[4]);
    store(m + 2u, n + 4u, s[5]);
    store(m + 3u, n, s[6]);
    store(m + 3u, n + 4u, s[7]);
    store(m + 4u, n, s[8]);
    store(m + 4u, n + 4u, s[9]);
    store(m + 5u, n, s[10]);
    store(m + 5u, n + 4u, s[11]);
    store(m + 6u, n, s[12]);
    store(m + 6u, n + 4u, s[13]);
    store(m + 7u, n, s[14]);
    store(m + 7u, n + 4u, s[15]);
}
