//! Matrix products on strided views: in f32 by the crate `gemm`, of factors rounded to bf16 by a kernel of our own. The
//! only unsafe code of the trainer.

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions and pointers")]
mod avx512_bf16;
mod rounded;

use gemm::Parallelism;
use rayon::prelude::*;

use crate::formats::Compute;

/// Rows and columns of the target that one task computes. `gemm`'s own split over threads left one of two cores idle
/// for small targets (512 x 512 weights): tiles of this size gave 1.0-1.4 times its rate (docs/optimisation-log.md).
const TILE: (usize, usize) = (256, 512);

/// A matrix inside a slice: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> View<'a> {
    /// `rows` rows of `cols` numbers, `stride` apart.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        check(data.len(), rows, cols, stride);
        Self { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// The transposed view.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// Where a product goes: `rows` rows of `cols` numbers, `stride` apart.
pub struct Target<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    stride: usize,
    accumulate: bool,
}

impl<'a> Target<'a> {
    /// A target that the product overwrites.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize, stride: usize) -> Self {
        check(data.len(), rows, cols, stride);
        Self { data, rows, cols, stride, accumulate: false }
    }

    /// Adds the product to what is there, when `yes`.
    pub fn accumulate(self, yes: bool) -> Self {
        Self { accumulate: yes, ..self }
    }
}

/// Who computes a product.
#[derive(Clone, Copy)]
pub enum Threads {
    /// The calling thread: for many small products at once.
    One,
    /// All of them, a tile each. Tiles follow from the shape alone, so the number of threads changes no sum.
    All,
}

/// `target = alpha * a b`, or `+=` when it accumulates, in f32.
pub fn matmul(target: Target<'_>, a: View<'_>, b: View<'_>, alpha: f32, threads: Threads) {
    matmul_in(Compute::F32, target, a, b, alpha, threads);
}

/// `target = alpha * a b`, or `+=` when it accumulates, of factors in the given format; sums are f32.
pub fn matmul_in(
    compute: Compute,
    target: Target<'_>,
    a: View<'_>,
    b: View<'_>,
    alpha: f32,
    threads: Threads,
) {
    assert!(a.cols == b.rows && target.rows == a.rows && target.cols == b.cols, "shapes of a matrix product");
    match compute {
        Compute::F32 => in_f32(target, a, b, alpha, threads),
        #[cfg(target_arch = "x86_64")]
        Compute::Bf16 if avx512_bf16::available() => avx512_bf16::matmul(target, a, b, alpha, threads),
        Compute::Bf16 => rounded::matmul(target, a, b, alpha, threads),
    }
}

fn in_f32(target: Target<'_>, a: View<'_>, b: View<'_>, alpha: f32, threads: Threads) {
    let (rows, cols) = (target.rows, target.cols);
    let start = Start(target.data.as_mut_ptr());
    let tile = match threads {
        Threads::One => (rows.max(1), cols.max(1)),
        Threads::All => TILE,
    };
    let across = cols.div_ceil(tile.1);
    let product = |i: usize| {
        let (row, col) = (i / across * tile.0, i % across * tile.1);
        let (m, n) = (tile.0.min(rows - row), tile.1.min(cols - col));
        let s = |stride: usize| stride as isize;
        // SAFETY: `View::new` and `Target::new` checked that every (i, j) they name lies inside their slice; the tile
        // lies inside the target, and no two tiles share an element. The target is borrowed mutably, so it overlaps
        // neither factor.
        #[expect(unsafe_code, reason = "the matrix product takes pointers")]
        unsafe {
            gemm::gemm(
                m,
                n,
                a.cols,
                start.at(row * target.stride + col),
                1,
                s(target.stride),
                target.accumulate,
                a.data.as_ptr().add(row * a.row_stride),
                s(a.col_stride),
                s(a.row_stride),
                b.data.as_ptr().add(col * b.col_stride),
                s(b.col_stride),
                s(b.row_stride),
                1.0,
                alpha,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    };
    match rows.div_ceil(tile.0) * across {
        1 => product(0),
        tiles => (0..tiles).into_par_iter().with_max_len(1).for_each(product),
    }
}

/// Where the target begins, for tasks that write tiles of it.
struct Start<T = f32>(*mut T);

// SAFETY: the tasks of `matmul` write disjoint elements, while it holds the target's mutable borrow.
#[expect(unsafe_code, reason = "tiles of one target are written by several threads")]
unsafe impl<T> Send for Start<T> {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "tiles of one target are written by several threads")]
unsafe impl<T> Sync for Start<T> {}

impl<T> Clone for Start<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Start<T> {}

impl<T> Start<T> {
    /// The element `offset` places after the first.
    ///
    /// # Safety
    /// The offset lies inside the target.
    #[expect(unsafe_code, reason = "the matrix product takes pointers")]
    unsafe fn at(self, offset: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

fn check(len: usize, rows: usize, cols: usize, stride: usize) {
    assert!(
        rows == 0 || cols == 0 || (stride >= cols && (rows - 1) * stride + cols <= len),
        "a matrix outside of its numbers"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use rounded::to_bf16;

    /// Numbers between -1 and 1 that look random.
    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut x = seed;
        let next = |_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(next).collect()
    }

    /// The view of `m x n` numbers stored with a longer stride, or of their transposed.
    fn view(data: &[f32], m: usize, n: usize, across: bool) -> View<'_> {
        if across { View::new(data, n, m, m + 3).t() } else { View::new(data, m, n, n + 3) }
    }

    #[test]
    fn products_in_bf16_are_those_of_rounded_factors() {
        for (m, k, n) in [(1, 1, 1), (13, 7, 5), (14, 256, 32), (15, 257, 33), (40, 600, 70), (300, 130, 530)]
        {
            for (a_across, b_across, accumulate) in
                [(false, false, false), (false, true, true), (true, false, true), (true, true, false)]
            {
                let (a, b) = (numbers((m + 3) * (k + 3), 1), numbers((k + 3) * (n + 3), 2));
                let (a, b) = (view(&a, m, k, a_across), view(&b, k, n, b_across));
                let start = numbers(m * n + n, 3);
                let mut both = [start.clone(), start.clone()];
                let [here, anywhere] =
                    both.each_mut().map(|out| Target::new(out, m, n, n).accumulate(accumulate));
                matmul_in(Compute::Bf16, here, a, b, 0.5, Threads::All);
                rounded::matmul(anywhere, a, b, 0.5, Threads::All);
                let at = |v: &View<'_>, i: usize, j: usize| {
                    f64::from(to_bf16(v.data[i * v.row_stride + j * v.col_stride]))
                };
                for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                    let sum: f64 = (0..k).map(|l| at(&a, i, l) * at(&b, l, j)).sum();
                    let old = if accumulate { f64::from(start[i * n + j]) } else { 0.0 };
                    for out in &both {
                        let error = (f64::from(out[i * n + j]) - (old + 0.5 * sum)).abs();
                        assert!(
                            error < 1e-6 * (k as f64 + 4.0),
                            "{m} x {k} x {n} at {i}, {j}: off by {error}"
                        );
                    }
                }
                assert!(both.iter().all(|out| out[m * n..] == start[m * n..]), "written behind the target");
            }
        }
    }

    #[test]
    fn threads_change_no_bit_of_a_product_in_bf16() {
        let (a, b) = (numbers(500 * 700, 4), numbers(700 * 600, 5));
        let product = |threads| {
            let mut out = vec![0.0; 500 * 600];
            let (a, b) = (View::new(&a, 500, 700, 700), View::new(&b, 700, 600, 600));
            matmul_in(Compute::Bf16, Target::new(&mut out, 500, 600, 600), a, b, 1.0, threads);
            out
        };
        assert!(product(Threads::One) == product(Threads::All));
    }

    #[test]
    fn rounding_takes_the_nearest_and_keeps_what_is_no_number() {
        let same = [0.0, -0.0, 1.0, f32::INFINITY, 1.5 * f32::MIN_POSITIVE];
        same.iter().for_each(|&x| assert_eq!(to_bf16(x).to_bits(), x.to_bits()));
        assert_eq!(to_bf16(1.0 + 1.0 / 256.0), 1.0, "half way: to the even one");
        assert_eq!(to_bf16(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
        assert!(to_bf16(f32::from_bits(0x7f80_0001)).is_nan());
        assert!(to_bf16(f32::from_bits(0x7fff_ffff)).is_nan());
        let mut out = [0.0];
        let (a, b) = ([f32::NAN], [0.0]);
        let (a, b) = (View::new(&a, 1, 1, 1), View::new(&b, 1, 1, 1));
        matmul_in(Compute::Bf16, Target::new(&mut out, 1, 1, 1), a, b, 1.0, Threads::One);
        assert!(out[0].is_nan(), "a gradient that is no number is still seen");
    }
}
