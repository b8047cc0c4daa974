// Behind matvec_rows.wgsl: the threads' sums meet in shared memory, in one fixed order.

fn gather(thread: u32) {
    for (var width = THREADS / 4u; width > 0u; width /= 4u) {
        workgroupBarrier();
        if thread < width {
            low[thread] += low[thread + width] + low[thread + 2u * width] + low[thread + 3u * width];
            high[thread] += high[thread + width] + high[thread + 2u * width] + high[thread + 3u * width];
            squares[thread] += squares[thread + width] + squares[thread + 2u * width] + squares[thread + 3u * width];
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(THREADS)
fn matvec(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let base = base_of(group_index(group, groups));
    let mine = sums(base, thread);
    low[thread] = mine.low;
    high[thread] = mine.high;
    squares[thread] = mine.square;
    gather(thread);
    var all = Sums(low[0], high[0], squares[0]);
    if THREADS != 64u { // no power of four: two are left
        all = Sums(all.low + low[1], all.high + high[1], all.square + squares[1]);
    }
    finish(base, thread, all);
}
