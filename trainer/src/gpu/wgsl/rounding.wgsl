// Put in front of the kernels that round: ternary codes and scales of 4096 weights to a workgroup, 16 to a thread.
//
// The scale must be that of `ternary::project_group` to the bit, which sums in f64. Here the sum is a 64-bit integer: of
// each weight the 24 bits of its significand, shifted by the distance of its exponent to the group's largest, 31 bits
// below that one's. So the order of adding does not matter, a compiler may not rearrange it, and what is cut off is less
// than 2^-47 of the sum.

override GROUP: u32 = 128;
// The mean of the weights that are not zero instead of that of all.
override REFIT: bool = false;

// Of each group: the largest exponent, 20, 20 and the other bits of the sum, and how many weights it has.
var<workgroup> top: array<atomic<u32>, 64>;
var<workgroup> low_sum: array<atomic<u32>, 64>;
var<workgroup> middle_sum: array<atomic<u32>, 64>;
var<workgroup> high_sum: array<atomic<u32>, 64>;
var<workgroup> members: array<atomic<u32>, 64>;

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

// (low, high) += significand 2^31 >> (largest exponent - own), and one more member, if above the threshold.
fn count_in(sum: ptr<function, vec3<u32>>, value: f32, largest: u32, threshold: u32) {
    let magnitude = bitcast<u32>(value) & 0x7fffffffu;
    if magnitude > threshold {
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
    return exponent(max(max(m.x, m.y), max(m.z, m.w)));
}

// Rounds this thread's sixteen weights, which are a part of a group that its neighbours have, too. Every thread of the
// workgroup must call it.
fn round_sixteen(w: Sixteen, thread: u32) -> Rounded {
    let group = thread / (GROUP / 16u);
    let first = thread % (GROUP / 16u) == 0u;
    if first {
        atomicStore(&top[group], 0u);
        atomicStore(&low_sum[group], 0u);
        atomicStore(&middle_sum[group], 0u);
        atomicStore(&high_sum[group], 0u);
        atomicStore(&members[group], 0u);
    }
    workgroupBarrier();
    atomicMax(&top[group], max(max(highest(w[0]), highest(w[1])), max(highest(w[2]), highest(w[3]))));
    workgroupBarrier();
    let largest = atomicLoad(&top[group]);
    // Significands count from 2^(largest - 150 - 31).
    let sum = group_sum(w, group, largest, 0u);
    let mean = nearest(sum.x, sum.y, i32(largest) - 54 - i32(firstLeadingBit(GROUP)), false);
    var scale = to_half(mean);
    var threshold = bitcast<u32>(scale) - 0x800000u; // half of it
    if REFIT {
        workgroupBarrier();
        if first {
            atomicStore(&low_sum[group], 0u);
            atomicStore(&middle_sum[group], 0u);
            atomicStore(&high_sum[group], 0u);
            atomicStore(&members[group], 0u);
        }
        workgroupBarrier();
        threshold = select(0u, mean - 0x800000u, mean >= 0x1000000u);
        let kept = group_sum(w, group, largest, threshold);
        let quotient = divided(kept.x, kept.y, max(kept.z, 1u));
        scale = to_half(nearest(quotient.x, quotient.y, i32(largest) - 54, quotient.z != 0u));
    }
    // All zeros; so is, under the plain mean, what f16 cannot hold.
    if scale == 0.0 || (!REFIT && mean >= 0x477ff000u) {
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
