// Put in front of every shader. Nothing here or behind it counts on infinities, not-a-number, or reads out of bounds.

// Number of this workgroup in a grid that Gpu::grid folded into two dimensions.
fn group_index(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}

// Sixteen codes of a word, lowest bits first, as numbers 0, 1, 2.
fn codes_of(word: u32) -> mat4x4<f32> {
    let places = vec4<u32>(0u, 2u, 4u, 6u);
    return mat4x4<f32>(
        vec4<f32>((vec4<u32>(word) >> places) & vec4<u32>(3u)),
        vec4<f32>((vec4<u32>(word) >> (places + 8u)) & vec4<u32>(3u)),
        vec4<f32>((vec4<u32>(word) >> (places + 16u)) & vec4<u32>(3u)),
        vec4<f32>((vec4<u32>(word) >> (places + 24u)) & vec4<u32>(3u)),
    );
}

// One of the two halves of a word.
fn half_of(word: u32, odd: u32) -> f32 {
    let both = unpack2x16float(word);
    return select(both.x, both.y, odd != 0u);
}

fn silu(x: f32) -> f32 {
    return x / (1.0 + exp(-max(x, -80.0)));
}
