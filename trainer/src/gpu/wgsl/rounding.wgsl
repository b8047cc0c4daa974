// Put in front of the kernels that round: ternary codes and scales of 4096 weights to a workgroup, 16 to a thread.
//
// The scale must be that of `ternary::project_group` to the bit, which sums in f64. Here the sum is a 64-bit integer: of
// each weight the 24 bits of its significand, shifted by the distance of its exponent to the group's largest, 31 bits
// below that one's. So the order of adding does not matter, a compiler may not rearrange it, and what is cut off is less
// than 2^-47 of the sum.

override GROUP: u32 = 128;
// The scale rule, by its place in `ScaleRule::ALL`.
override RULE: u32 = 0;
// Weights that are sorted at a time, 2048 for least squares.
override SORTED: u32 = 1;

const REFIT: u32 = 1u;
const TWN: u32 = 2u;
const LEAST_SQUARES: u32 = 3u;
const ABSMAX: u32 = 4u;

// Of each group: the largest magnitude, 20, 20 and the other bits of the sum, and how many weights it has.
var<workgroup> top: array<atomic<u32>, 64>;
var<workgroup> low_sum: array<atomic<u32>, 64>;
var<workgroup> middle_sum: array<atomic<u32>, 64>;
var<workgroup> high_sum: array<atomic<u32>, 64>;
var<workgroup> members: array<atomic<u32>, 64>;
// Magnitudes, each group's largest first; then what threads tell their neighbours.
var<workgroup> sorted: array<u32, SORTED>;

alias Sixteen = array<vec4<f32>, 4>;

struct Rounded {
    // Sixteen codes, the first in the lowest bits.
    codes: u32,
    scale: f32,
}

// Biased exponent of a number's magnitude; subnormal numbers have that of the smallest normal one.
fn exponent(magnitude: u32) -> u32 {
    return max(magnitude >> 23u, 1u);
}

fn significand(magnitude: u32) -> u32 {
    return (magnitude & 0x7fffffu) | select(0u, 0x800000u, magnitude >= 0x800000u);
}

// (low, high) += significand 2^31 >> (largest exponent - own), and one more member.
fn add_in(sum: ptr<function, vec3<u32>>, magnitude: u32, largest: u32) {
    let m = significand(magnitude);
    let down = largest - exponent(magnitude);
    let left = 31u - min(down, 31u);
    let low = select(select(0u, m >> min(down - 31u, 31u), down < 63u), m << left, down <= 31u);
    let high = select(0u, m >> (32u - max(left, 1u)), down <= 31u && left > 0u);
    let total = (*sum).x + low;
    (*sum).y += high + select(0u, 1u, total < low);
    (*sum).x = total;
    (*sum).z += 1u;
}

// The same, if it is above the threshold.
fn count_in(sum: ptr<function, vec3<u32>>, value: f32, largest: u32, threshold: u32) {
    let magnitude = bitcast<u32>(value) & 0x7fffffffu;
    if magnitude > threshold {
        add_in(sum, magnitude, largest);
    }
}

fn count_four(sum: ptr<function, vec3<u32>>, w: vec4<f32>, largest: u32, threshold: u32) {
    count_in(sum, w.x, largest, threshold);
    count_in(sum, w.y, largest, threshold);
    count_in(sum, w.z, largest, threshold);
    count_in(sum, w.w, largest, threshold);
}

// Adds up the group's magnitudes above a threshold: low bits, high bits, how many.
fn group_sum(w: Sixteen, group: u32, largest: u32, threshold: u32) -> vec3<u32> {
    var own = vec3<u32>(0u);
    count_four(&own, w[0], largest, threshold);
    count_four(&own, w[1], largest, threshold);
    count_four(&own, w[2], largest, threshold);
    count_four(&own, w[3], largest, threshold);
    atomicAdd(&low_sum[group], own.x & 0xfffffu);
    atomicAdd(&middle_sum[group], ((own.x >> 20u) | (own.y << 12u)) & 0xfffffu);
    atomicAdd(&high_sum[group], own.y >> 8u);
    atomicAdd(&members[group], own.z);
    workgroupBarrier();
    let low = atomicLoad(&low_sum[group]);
    let middle = atomicLoad(&middle_sum[group]);
    let first = low + (middle << 20u);
    let carry = select(0u, 1u, first < low);
    return vec3<u32>(first, (middle >> 12u) + (atomicLoad(&high_sum[group]) << 8u) + carry, atomicLoad(&members[group]));
}

// The f32 nearest to (low, high) 2^(shift - 127), ties to even, as bits; `rest`: there is more behind the last bit.
// What would be subnormal is zero: far below what a scale can be.
fn nearest(low: u32, high: u32, shift: i32, rest: bool) -> u32 {
    if (low | high) == 0u {
        return 0u;
    }
    let zeros = select(countLeadingZeros(high), 32u + countLeadingZeros(low), high == 0u);
    // The leading one to bit 63: 24 bits are the result's, 40 decide how it is rounded.
    var top_word = low;
    var next_word = 0u;
    if zeros < 32u {
        top_word = (high << zeros) | select(0u, low >> (32u - max(zeros, 1u)), zeros > 0u);
        next_word = low << zeros;
    } else {
        top_word = low << (zeros - 32u);
    }
    let kept = top_word >> 8u;
    let half_bit = (top_word >> 7u) & 1u;
    let behind = (top_word & 0x7fu) != 0u || next_word != 0u || rest;
    let up = half_bit == 1u && (behind || (kept & 1u) == 1u);
    let biased = 63 - i32(zeros) + shift;
    if biased < 1 {
        return 0u;
    }
    // Adding, so that a carry out of the significand raises the exponent.
    return (u32(biased - 1) << 23u) + kept + select(0u, 1u, up);
}

// An f32 (bits, not negative) rounded to f16, ties to even, at most the largest; as f32.
fn to_half(bits: u32) -> f32 {
    if bits < 0x33000000u {
        return 0.0; // below half of the smallest
    }
    if bits < 0x38800000u {
        // Subnormal: a multiple of 2^-24.
        let down = 126u - (bits >> 23u);
        let m = significand(bits);
        let whole = m >> down;
        let behind = m & ((1u << down) - 1u);
        let half = 1u << (down - 1u);
        let up = behind > half || (behind == half && (whole & 1u) == 1u);
        return f32(whole + select(0u, 1u, up)) * 5.9604644775390625e-8;
    }
    let rounded = (bits + 0xfffu + ((bits >> 13u) & 1u)) & 0xffffe000u;
    return bitcast<f32>(min(rounded, 0x477fe000u));
}

// (low, high) / d for d of up to 16 bits: quotient low, high, and what is left.
fn divided(low: u32, high: u32, d: u32) -> vec3<u32> {
    let a = high >> 16u;
    let b = ((a % d) << 16u) | (high & 0xffffu);
    let c = ((b % d) << 16u) | (low >> 16u);
    let e = ((c % d) << 16u) | (low & 0xffffu);
    return vec3<u32>(((c / d) << 16u) | (e / d), ((a / d) << 16u) | (b / d), e % d);
}

fn code(value: f32, threshold: u32) -> u32 {
    let bits = bitcast<u32>(value);
    return select(1u, select(2u, 0u, bits >> 31u == 1u), (bits & 0x7fffffffu) > threshold);
}

fn four_codes(w: vec4<f32>, threshold: u32) -> u32 {
    return code(w.x, threshold) | (code(w.y, threshold) << 2u) | (code(w.z, threshold) << 4u)
        | (code(w.w, threshold) << 6u);
}

fn highest(w: vec4<f32>) -> u32 {
    let m = bitcast<vec4<u32>>(w) & vec4<u32>(0x7fffffffu);
    return max(max(m.x, m.y), max(m.z, m.w));
}

// Nobody has added to the sums yet.
fn begin_sums(group: u32) {
    atomicStore(&low_sum[group], 0u);
    atomicStore(&middle_sum[group], 0u);
    atomicStore(&high_sum[group], 0u);
    atomicStore(&members[group], 0u);
}

// a b: low and high bits.
fn multiplied(a: u32, b: u32) -> vec2<u32> {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let left = (a >> 16u) * (b & 0xffffu);
    let right = (a & 0xffffu) * (b >> 16u);
    let middle = (low >> 16u) + (left & 0xffffu) + (right & 0xffffu);
    let high = (a >> 16u) * (b >> 16u) + (left >> 16u) + (right >> 16u) + (middle >> 16u);
    return vec2<u32>((middle << 16u) | (low & 0xffffu), high);
}

// a + b and what carries over.
fn added(a: u32, b: u32) -> vec2<u32> {
    return vec2<u32>(a + b, select(0u, 1u, a + b < a));
}

// Where a group's mean is m, 0.7 m as f32: the product of the significands, rounded once.
fn seven_tenths(mean: u32) -> u32 {
    let product = multiplied(significand(mean), 0xb33333u); // 0.7 is 0xb33333 2^-24
    return nearest(product.x, product.y, i32(exponent(mean)) - 24 - 23, false);
}

// The mean magnitude, as f32, of a sum of so many.
fn mean_of(sum: vec3<u32>, largest: u32) -> u32 {
    let quotient = divided(sum.x, sum.y, max(sum.z, 1u));
    return nearest(quotient.x, quotient.y, i32(largest) - 54, quotient.z != 0u);
}

// (sum / 16)^2 times, in 128 bits: a division by 16 so that they hold it, which is 2^-50 of the largest weight.
fn weighed(low: u32, high: u32, times: u32) -> vec4<u32> {
    let a = (low >> 4u) | (high << 28u);
    let b = high >> 4u;
    let squares = array<vec2<u32>, 3>(multiplied(a, a), multiplied(a, b), multiplied(b, b));
    // a^2 + 2^33 a b + 2^64 b^2
    let second = added(squares[0].y, squares[1].x << 1u);
    let third = added((squares[1].x >> 31u) | (squares[1].y << 1u), squares[2].x);
    let carried = added(third.x, second.y);
    let square = vec4<u32>(squares[0].x, second.x, carried.x, squares[2].y + (squares[1].y >> 31u) + third.y + carried.y);
    let p = array<vec2<u32>, 4>(
        multiplied(square.x, times),
        multiplied(square.y, times),
        multiplied(square.z, times),
        multiplied(square.w, times),
    );
    let one = added(p[0].y, p[1].x);
    let two = added(p[1].y + one.y, p[2].x);
    return vec4<u32>(p[0].x, one.x, two.x, p[3].x + p[2].y + two.y);
}

// Whether keeping the weights of one sum lowers the squared error more than keeping those of another: c^2 / k, with c the
// sum and k how many.
fn better(one: vec3<u32>, other: vec3<u32>) -> bool {
    let a = weighed(one.x, one.y, other.z);
    let b = weighed(other.x, other.y, one.z);
    if a.w != b.w { return a.w > b.w; }
    if a.z != b.z { return a.z > b.z; }
    if a.y != b.y { return a.y > b.y; }
    return a.x > b.x;
}

// Sorts each group of `sorted`, its largest first (Batcher's bitonic network). All threads of the workgroup.
fn sort_groups(thread: u32) {
    for (var run = 2u; run <= GROUP; run *= 2u) {
        for (var apart = run / 2u; apart > 0u; apart /= 2u) {
            workgroupBarrier();
            for (var i = thread; i < SORTED / 2u; i += 256u) {
                let low = 2u * i - (i & (apart - 1u));
                let a = sorted[low];
                let b = sorted[low + apart];
                let falls = run == GROUP || (low & run) == 0u;
                if (a < b) == falls {
                    sorted[low] = b;
                    sorted[low + apart] = a;
                }
            }
        }
    }
    workgroupBarrier();
}

fn keep_four(at: u32, w: vec4<f32>) {
    let m = bitcast<vec4<u32>>(w) & vec4<u32>(0x7fffffffu);
    sorted[at] = m.x;
    sorted[at + 1u] = m.y;
    sorted[at + 2u] = m.z;
    sorted[at + 3u] = m.w;
}

// Of sixteen neighbours in the sorted group, behind weights that add up to `before`: the best sum of all up to one of them.
fn best_of(own: array<u32, 16>, before: vec3<u32>, largest: u32) -> vec3<u32> {
    var magnitudes = own;
    var sum = before;
    var best = vec3<u32>(0u, 0u, 1u);
    for (var i = 0u; i < 16u; i += 1u) {
        add_in(&sum, magnitudes[i], largest);
        if better(sum, best) {
            best = sum;
        }
    }
    return best;
}

// What the kept weights of the smallest squared error add up to, and how many they are. Half of the workgroup's weights
// at a time, for so much memory there is; every thread takes part in the sorting.
fn least_squares(w: Sixteen, largest: u32, thread: u32) -> vec3<u32> {
    let at = thread % 128u * 16u;
    let first = at / GROUP * GROUP; // of the group
    var result = vec3<u32>(0u, 0u, 1u);
    for (var half = 0u; half < 2u; half += 1u) {
        let mine = thread / 128u == half;
        if mine {
            keep_four(at, w[0]);
            keep_four(at + 4u, w[1]);
            keep_four(at + 8u, w[2]);
            keep_four(at + 12u, w[3]);
        }
        sort_groups(thread);
        var own: array<u32, 16>;
        var sum = vec3<u32>(0u);
        for (var i = 0u; i < 16u; i += 1u) {
            own[i] = sorted[at + i];
            add_in(&sum, own[i], largest);
        }
        workgroupBarrier();
        if mine {
            sorted[at] = sum.x;
            sorted[at + 1u] = sum.y;
        }
        workgroupBarrier();
        var before = vec3<u32>(0u, 0u, at - first);
        for (var i = first; i < at; i += 16u) {
            let low = added(before.x, sorted[i]);
            before.x = low.x;
            before.y += sorted[i + 1u] + low.y;
        }
        if mine {
            let best = best_of(own, before, largest);
            sorted[at + 2u] = best.x;
            sorted[at + 3u] = best.y;
            sorted[at + 4u] = best.z;
        }
        workgroupBarrier();
        if mine {
            for (var i = first; i < first + GROUP; i += 16u) {
                let best = vec3<u32>(sorted[i + 2u], sorted[i + 3u], sorted[i + 4u]);
                if better(best, result) {
                    result = best;
                }
            }
        }
        workgroupBarrier();
    }
    return result;
}

// Rounds this thread's sixteen weights, which are a part of a group that its neighbours have, too. Every thread of the
// workgroup must call it.
fn round_sixteen(w: Sixteen, thread: u32) -> Rounded {
    let group = thread / (GROUP / 16u);
    let first = thread % (GROUP / 16u) == 0u;
    if first {
        atomicStore(&top[group], 0u);
        begin_sums(group);
    }
    workgroupBarrier();
    atomicMax(&top[group], max(max(highest(w[0]), highest(w[1])), max(highest(w[2]), highest(w[3]))));
    workgroupBarrier();
    var mean = atomicLoad(&top[group]);
    // Significands count from 2^(largest - 150 - 31).
    let largest = exponent(mean);
    if RULE == LEAST_SQUARES {
        mean = mean_of(least_squares(w, largest, thread), largest);
    } else if RULE != ABSMAX {
        let sum = group_sum(w, group, largest, 0u);
        mean = nearest(sum.x, sum.y, i32(largest) - 54 - i32(firstLeadingBit(GROUP)), false);
    }
    var scale = to_half(mean);
    var threshold = bitcast<u32>(scale) - 0x800000u; // half of it
    let keeps = RULE == REFIT || RULE == TWN;
    if keeps {
        workgroupBarrier();
        if first {
            begin_sums(group);
        }
        workgroupBarrier();
        threshold = select(0u, mean - 0x800000u, mean >= 0x1000000u);
        if RULE == TWN {
            threshold = seven_tenths(mean);
        }
        scale = to_half(mean_of(group_sum(w, group, largest, threshold), largest));
    }
    // All zeros; so is, where the threshold is half of it, a scale that f16 cannot hold.
    if scale == 0.0 || (!keeps && mean >= 0x477ff000u) {
        threshold = 0x7fffffffu;
    }
    let codes = four_codes(w[0], threshold) | (four_codes(w[1], threshold) << 8u)
        | (four_codes(w[2], threshold) << 16u) | (four_codes(w[3], threshold) << 24u);
    return Rounded(codes, scale);
}

// Weights whose code is zero, among sixteen.
fn zeros_in(codes: u32) -> u32 {
    return countOneBits(codes & ~(codes >> 1u) & 0x55555555u);
}

// Weights that have another code, among sixteen.
fn flips_in(old: u32, fresh: u32) -> u32 {
    let other = old ^ fresh;
    return countOneBits((other | (other >> 1u)) & 0x55555555u);
}
