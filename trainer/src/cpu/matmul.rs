//! Matrix products on strided views, by the crate `gemm`. The only unsafe call of the trainer.

use gemm::Parallelism;

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
    /// All of them. Each number is still summed by one thread in one order.
    All,
}

/// `target = alpha * a b`, or `+=` when it accumulates.
pub fn matmul(target: Target<'_>, a: View<'_>, b: View<'_>, alpha: f32, threads: Threads) {
    assert!(a.cols == b.rows && target.rows == a.rows && target.cols == b.cols, "shapes of a matrix product");
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    let s = |stride: usize| stride as isize;
    // SAFETY: `View::new` and `Target::new` checked that every (i, j) they name lies inside their slice, the target is
    // borrowed mutably, so it overlaps neither factor.
    #[expect(unsafe_code, reason = "the matrix product takes pointers")]
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            target.data.as_mut_ptr(),
            1,
            s(target.stride),
            target.accumulate,
            a.data.as_ptr(),
            s(a.col_stride),
            s(a.row_stride),
            b.data.as_ptr(),
            s(b.col_stride),
            s(b.row_stride),
            1.0,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn check(len: usize, rows: usize, cols: usize, stride: usize) {
    assert!(
        rows == 0 || cols == 0 || (stride >= cols && (rows - 1) * stride + cols <= len),
        "a matrix outside of its numbers"
    );
}
