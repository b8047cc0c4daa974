// x += 1, by one thread: the cost of a dispatch that must see what the one before it did.

struct Params {
    one: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(1)
fn count() {
    x[0] += p.one;
}
