// The factor that clips a gradient by its own norm, from the sums of squares of its pieces; -1 when it is no number.

struct Params {
    // Where the sums are.
    first: u32,
    sums: u32,
    limit: f32,
}

@group(0) @binding(0) var<storage, read_write> factor: array<f32>;
@group(0) @binding(1) var<storage, read> squares: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

var<workgroup> partial: array<f32, 256>;
// Set by whoever finds an exponent of all ones: infinities and what is no number do not survive every compiler's sums.
var<workgroup> broken: atomic<u32>;

fn unusable(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) == 0x7f800000u;
}

@compute @workgroup_size(256)
fn clip(@builtin(local_invocation_index) thread: u32) {
    if thread == 0u {
        atomicStore(&broken, 0u);
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = thread; i < p.sums; i += 256u) {
        let square = squares[p.first + i];
        if unusable(square) {
            atomicStore(&broken, 1u);
        }
        sum += square;
    }
    partial[thread] = sum;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half /= 2u) {
        if thread < half {
            partial[thread] += partial[thread + half];
        }
        workgroupBarrier();
    }
    if thread == 0u {
        let total = partial[0];
        var result = 1.0;
        if p.limit > 0.0 {
            result = min(p.limit / (sqrt(total) + 1e-6), 1.0);
        }
        if atomicLoad(&broken) == 1u || unusable(total) {
            result = -1.0;
        }
        factor[0] = result;
    }
}
