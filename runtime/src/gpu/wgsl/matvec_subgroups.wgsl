// Behind matvec_rows.wgsl: the threads' sums meet in their subgroup, whatever its size, and those of the subgroups in
// shared memory. One device and driver add them in one order.

@compute @workgroup_size(THREADS)
fn matvec_subgroups(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let base = base_of(group_index(group, groups));
    let mine = sums(base, thread);
    var all = Sums(subgroupAdd(mine.low), subgroupAdd(mine.high), subgroupAdd(mine.square));
    if lane == 0u {
        low[subgroup] = all.low;
        high[subgroup] = all.high;
        squares[subgroup] = all.square;
    }
    workgroupBarrier();
    all = Sums(low[0], high[0], squares[0]);
    for (var n = 1u; n < subgroups; n++) {
        all = Sums(all.low + low[n], all.high + high[n], all.square + squares[n]);
    }
    finish(base, thread, all);
}
