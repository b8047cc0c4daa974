//! Products of factors rounded to bf16, by the processor's own instruction for them (`vdpbf16ps`: Zen 4, Cooper Lake,
//! Sapphire Rapids and later), which multiplies twice as many numbers as an f32 one.
//!
//! Both factors are packed first, once for all threads: a `u32` holds two neighbours along the depth, the earlier one in
//! its lower half. A row of `a` is broadcast pair by pair; 32 columns of `b` lie side by side:
//!
//! ```text
//! a: [block of the depth][row][DEPTH / 2 pairs]      b: [panel of COLS columns][pair][COLS]
//! ```

use std::arch::x86_64::*;
use std::cell::Cell;

use rayon::prelude::*;

use super::{Start, Target, Threads, View};

/// Rows of the target that the kernel holds in registers: 14 x 2 sums, two vectors of `b` and one of `a` are 31 of 32.
const ROWS: usize = 14;
/// Columns of the target that it holds.
const COLS: usize = 32;
/// Numbers along the depth before the sums are added to the target: a panel of `b` (16 kB) then stays in the first cache.
const DEPTH: usize = 256;
const PAIRS: usize = DEPTH / 2;
/// Lines, and pairs, that are packed at a time: a square of registers.
const SIDE: usize = 16;
/// Rows and columns of the target that one task computes.
const TILE: (usize, usize) = (18 * ROWS, 16 * COLS);

/// Whether this processor has the instructions.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
}

/// `target = alpha * a b`, or `+=`. The caller has asked whether the instructions are [`available`].
pub(super) fn matmul(target: Target<'_>, a: View<'_>, b: View<'_>, alpha: f32, threads: Threads) {
    assert!(available(), "vdpbf16ps");
    let (rows, cols, pairs) = (target.rows, target.cols, a.cols.div_ceil(2));
    let mut packed = PACKED.take();
    let [packed_a, packed_b] = &mut packed;
    pack_rows(packed_a, a, threads);
    pack_cols(packed_b, b.t(), threads);
    let padded = padded_rows(rows);
    let start = Start(target.data.as_mut_ptr());
    let across = cols.div_ceil(TILE.1);
    let tile = |i: usize| {
        let (top, left) = (i / across * TILE.0, i % across * TILE.1);
        let (bottom, right) = ((top + TILE.0).min(rows), (left + TILE.1).min(cols));
        for block in 0..pairs.div_ceil(PAIRS) {
            let first = block * PAIRS;
            let n = PAIRS.min(pairs - first);
            for col in (left..right).step_by(COLS) {
                for row in (top..bottom).step_by(ROWS) {
                    let a = &packed_a[(block * padded + row) * PAIRS..][..ROWS * PAIRS];
                    let b = &packed_b[(col / COLS * pairs + first) * COLS..][..n * COLS];
                    let size = (ROWS.min(bottom - row), COLS.min(right - col));
                    let add = target.accumulate || block > 0;
                    // SAFETY: `Target::new` checked that these rows and columns lie inside; tiles share none.
                    unsafe {
                        kernel(start.at(row * target.stride + col), target.stride, size, a, b, alpha, add)
                    };
                }
            }
        }
    };
    each(rows.div_ceil(TILE.0) * across, threads, tile);
    PACKED.set(packed);
}

thread_local! {
    /// Packed factors of the last product, whose memory the next one uses again: pages that the system hands out anew cost
    /// more than packing.
    static PACKED: Cell<[Vec<u32>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

/// The first `len` numbers, of any value, of a vector that grows to them.
fn room(packed: &mut Vec<u32>, len: usize) -> &mut [u32] {
    if packed.len() < len {
        *packed = Vec::new(); // freed before the larger one is made
        packed.resize(len, 0);
    }
    &mut packed[..len]
}

/// Runs `task` for 0 to `n`, on all threads or on this one.
fn each(n: usize, threads: Threads, task: impl Fn(usize) + Sync + Send) {
    match threads {
        Threads::All if n > 1 => (0..n).into_par_iter().with_max_len(1).for_each(task),
        _ => (0..n).for_each(task),
    }
}

/// Adds up `a b` for [`ROWS`] rows and [`COLS`] columns and writes `size` of them, `stride` apart, from `c` on.
///
/// # Safety
/// The processor has the instructions, and `size` rows and columns at `c` may be written by this thread alone.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn kernel(
    c: *mut f32,
    stride: usize,
    size: (usize, usize),
    a: &[u32],
    b: &[u32],
    alpha: f32,
    add: bool,
) {
    let a: &[u32; ROWS * PAIRS] = a.try_into().expect("rows of a block");
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for (pair, b) in b.as_chunks::<COLS>().0.iter().enumerate() {
        // SAFETY: each half has 16 numbers.
        let b: [__m512bh; 2] = unsafe { [load(&b[..SIDE]), load(&b[SIDE..])] };
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `pair` < PAIRS, since `b` has no more of them.
            let a = bits(_mm512_set1_epi32(unsafe { *a.get_unchecked(row * PAIRS + pair) } as i32));
            *sums = [_mm512_dpbf16_ps(sums[0], a, b[0]), _mm512_dpbf16_ps(sums[1], a, b[1])];
        }
    }
    let alpha = _mm512_set1_ps(alpha);
    for (row, sums) in sums.iter().enumerate().take(size.0) {
        for (half, &sum) in sums.iter().enumerate() {
            let mask = mask(size.1.saturating_sub(half * SIDE));
            // SAFETY: the caller's promise; masked lanes are not touched.
            unsafe {
                let c = c.add(row * stride).wrapping_add(half * SIDE);
                let old = if add { _mm512_maskz_loadu_ps(mask, c) } else { _mm512_setzero_ps() };
                _mm512_mask_storeu_ps(c, mask, _mm512_fmadd_ps(alpha, sum, old));
            }
        }
    }
}

/// Rows that a packed `a` has room for: whole groups of [`ROWS`] for the kernel, of [`SIDE`] for packing.
fn padded_rows(rows: usize) -> usize {
    rows.next_multiple_of(ROWS).max(rows.next_multiple_of(SIDE))
}

/// Packs `a`, 16 rows a task.
fn pack_rows(packed: &mut Vec<u32>, a: View<'_>, threads: Threads) {
    let blocks = a.cols.div_ceil(DEPTH);
    let start = Start(room(packed, blocks * padded_rows(a.rows) * PAIRS).as_mut_ptr());
    // SAFETY: the caller of `matmul` asked for the instructions; each group of rows is written by one task.
    each(a.rows.div_ceil(SIDE), threads, |group| unsafe { pack_row_group(start, a, group * SIDE) });
}

/// Rows `row..row + 16` of `a`.
///
/// # Safety
/// The processor has the instructions, and no one else writes these rows of `packed`, which has room for all.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack_row_group(packed: Start<u32>, a: View<'_>, row: usize) {
    let padded = padded_rows(a.rows);
    for pair in (0..a.cols.div_ceil(2)).step_by(SIDE) {
        let block = pair / PAIRS * padded + row;
        for (i, pairs) in square(a, row, pair, Order::Lines).into_iter().enumerate() {
            // SAFETY: the caller's promise; blocks have room for whole squares.
            unsafe { _mm512_storeu_si512(packed.at((block + i) * PAIRS + pair % PAIRS).cast(), pairs) };
        }
    }
}

/// Packs `b`, of which `b_t` is the transposed view, 32 columns a task.
fn pack_cols(packed: &mut Vec<u32>, b_t: View<'_>, threads: Threads) {
    let (panels, pairs) = (b_t.rows.div_ceil(COLS), b_t.cols.div_ceil(2));
    let start = Start(room(packed, panels * pairs * COLS).as_mut_ptr());
    // SAFETY: the caller of `matmul` asked for the instructions; each panel is written by one task.
    each(panels, threads, |panel| unsafe { pack_panel(start.at(panel * pairs * COLS), b_t, panel * COLS) });
}

/// Columns `col..col + 32` of `b`.
///
/// # Safety
/// The processor has the instructions, and no one else writes the panel, which has room for all pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack_panel(panel: *mut u32, b_t: View<'_>, col: usize) {
    let pairs = b_t.cols.div_ceil(2);
    for pair in (0..pairs).step_by(SIDE) {
        for half in [0, SIDE] {
            let square = square(b_t, col + half, pair, Order::Pairs);
            for (i, cols) in square.into_iter().enumerate().take(pairs - pair) {
                // SAFETY: the caller's promise.
                unsafe { _mm512_storeu_si512(panel.add((pair + i) * COLS + half).cast(), cols) };
            }
        }
    }
}

/// What a vector of a [`square`] holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// 16 pairs of a line.
    Lines,
    /// A pair of 16 lines.
    Pairs,
}

/// 16 lines (rows of the view) by 16 pairs (of its columns) from `(line, pair)` on; zeros beyond the view's edges.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn square(view: View<'_>, line: usize, pair: usize, order: Order) -> [__m512i; SIDE] {
    let (lines, depth) = (view.rows.saturating_sub(line), view.cols - 2 * pair);
    // Up to 16 numbers from a place on, of which the view has `n`.
    let read = |line: usize, k: usize, n: usize| {
        let place = line * view.row_stride + (2 * pair + k) * view.col_stride;
        // SAFETY: masks leave out what the view, which lies inside its slice, does not have.
        unsafe { _mm512_maskz_loadu_ps(mask(n), view.data.as_ptr().wrapping_add(place)) }
    };
    let mut all = [_mm512_setzero_si512(); SIDE];
    let along = if view.col_stride == 1 { Order::Lines } else { Order::Pairs };
    match along {
        Order::Lines => all.iter_mut().enumerate().take(lines).for_each(|(i, all)| {
            let (low, high) = (read(line + i, 0, depth), read(line + i, SIDE, depth.saturating_sub(SIDE)));
            *all = from_bits(_mm512_cvtne2ps_pbh(high, low));
        }),
        Order::Pairs => all.iter_mut().enumerate().for_each(|(i, all)| {
            debug_assert!(view.row_stride == 1, "numbers that lie next to each other along neither side");
            let row = |k: usize| read(line, k, if k < depth { lines } else { 0 });
            *all = interleaved(row(2 * i), row(2 * i + 1));
        }),
    }
    if along == order { all } else { transposed(all) }
}

/// The first `n` of 16 lanes.
fn mask(n: usize) -> __mmask16 {
    if n >= SIDE { !0 } else { (1 << n) - 1 }
}

/// Two vectors in bf16, the first in lower halves.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn interleaved(low: __m512, high: __m512) -> __m512i {
    let places: [u16; 32] = std::array::from_fn(|i| (i / 2 + i % 2 * SIDE) as u16);
    // SAFETY: 64 bytes.
    let places = unsafe { _mm512_loadu_si512(places.as_ptr().cast()) };
    _mm512_permutexvar_epi16(places, from_bits(_mm512_cvtne2ps_pbh(high, low)))
}

/// The transposed square: columns of 16 rows.
#[target_feature(enable = "avx512f")]
#[inline]
fn transposed(rows: [__m512i; SIDE]) -> [__m512i; SIDE] {
    // Within each quarter of 4 columns: 4 x 4 squares of 32 bits, by pairs of 32 and then of 64 bits ...
    let mut quarters = [_mm512_setzero_si512(); SIDE];
    for i in (0..SIDE).step_by(4) {
        let [a, b, c, d] = [rows[i], rows[i + 1], rows[i + 2], rows[i + 3]];
        let [ab, cd] = [
            [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)],
            [_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d)],
        ];
        for j in 0..2 {
            quarters[i + 2 * j] = _mm512_unpacklo_epi64(ab[j], cd[j]);
            quarters[i + 2 * j + 1] = _mm512_unpackhi_epi64(ab[j], cd[j]);
        }
    }
    // ... then the 4 x 4 square of those: lane l of quarters[4 i + j] is column 4 l + j of rows 4 i to 4 i + 3.
    let mut out = [_mm512_setzero_si512(); SIDE];
    for j in 0..4 {
        let [a, b, c, d] = [quarters[j], quarters[4 + j], quarters[8 + j], quarters[12 + j]];
        let [even_ab, odd_ab] = [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b)];
        let [even_cd, odd_cd] = [_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d)];
        out[j] = _mm512_shuffle_i32x4::<0x88>(even_ab, even_cd);
        out[8 + j] = _mm512_shuffle_i32x4::<0xdd>(even_ab, even_cd);
        out[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd_ab, odd_cd);
        out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(odd_ab, odd_cd);
    }
    out
}

/// # Safety
/// There are 16 numbers.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load(numbers: &[u32]) -> __m512bh {
    // SAFETY: the caller's promise.
    bits(unsafe { _mm512_loadu_si512(numbers.as_ptr().cast()) })
}

#[inline(always)]
fn bits(numbers: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of any value.
    unsafe { std::mem::transmute(numbers) }
}

#[inline(always)]
fn from_bits(numbers: __m512bh) -> __m512i {
    // SAFETY: both are 64 bytes of any value.
    unsafe { std::mem::transmute(numbers) }
}
