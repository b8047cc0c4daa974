// Put in front of every shader. Nothing here or behind it counts on infinities, not-a-number, or reads out of bounds.

// Number of this workgroup in a grid that Gpu::grid folded into two dimensions.
fn group_index(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}
