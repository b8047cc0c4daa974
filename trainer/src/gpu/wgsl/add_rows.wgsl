// out += the rows of x, in their order.

struct Params {
    rows: u32,
    // Of a row.
    quads: u32,
}

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(64)
fn add_rows(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x;
    if i < p.quads {
        var sum = vec4<f32>(0.0);
        for (var row = 0u; row < p.rows; row += 1u) {
            sum += x[row * p.quads + i];
        }
        out[i] += sum;
    }
}
