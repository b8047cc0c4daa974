//! Matrix products on strided views, by the crate `gemm`. The only unsafe code of the trainer.

use gemm::Parallelism;
use rayon::prelude::*;

/// Rows and columns of the target that one task computes. `gemm`'s own split over threads left one of two cores idle
/// for small targets (512 x 512 weights): tiles of this size gave 1.0-1.4 times its rate (docs/benchmarks.md).
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

/// `target = alpha * a b`, or `+=` when it accumulates.
pub fn matmul(target: Target<'_>, a: View<'_>, b: View<'_>, alpha: f32, threads: Threads) {
    assert!(a.cols == b.rows && target.rows == a.rows && target.cols == b.cols, "shapes of a matrix product");
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
#[derive(Clone, Copy)]
struct Start(*mut f32);

// SAFETY: the tasks of `matmul` write disjoint elements, while it holds the target's mutable borrow.
#[expect(unsafe_code, reason = "tiles of one target are written by several threads")]
unsafe impl Send for Start {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "tiles of one target are written by several threads")]
unsafe impl Sync for Start {}

impl Start {
    /// The element `offset` places after the first.
    ///
    /// # Safety
    /// The offset lies inside the target.
    #[expect(unsafe_code, reason = "the matrix product takes pointers")]
    unsafe fn at(self, offset: usize) -> *mut f32 {
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
