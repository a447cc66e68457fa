//! Products on slices: the one place that calls the `gemm` crate.

use crate::Real;

/// A matrix in a slice: element `(i, j)` is `data[i * strides[0] + j * strides[1]]`.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a, T> {
    pub data: &'a [T],
    pub shape: [usize; 2],
    pub strides: [usize; 2],
}

impl<'a, T> Operand<'a, T> {
    /// Row-major with distance `stride` between rows.
    pub fn rows(data: &'a [T], shape: [usize; 2], stride: usize) -> Self {
        Self { data, shape, strides: [stride, 1] }
    }

    /// The transposed matrix.
    pub fn t(self) -> Self {
        let ([rows, cols], [row, col]) = (self.shape, self.strides);
        Self { shape: [cols, rows], strides: [col, row], ..self }
    }

    fn fits(&self) -> bool {
        let last = (self.shape[0] - 1) * self.strides[0] + (self.shape[1] - 1) * self.strides[1];
        last < self.data.len()
    }
}

/// `c = alpha a b + beta c` on the calling thread; `c` is row-major with distance `stride` between
/// rows. `beta = 0` never reads `c`.
pub(crate) fn product<T: Real>(
    alpha: f64,
    a: Operand<T>,
    b: Operand<T>,
    beta: f64,
    c: &mut [T],
    stride: usize,
) {
    let ([rows, inner], [inner_b, cols]) = (a.shape, b.shape);
    assert_eq!(inner, inner_b, "inner dimensions of a product differ");
    if rows == 0 || cols == 0 {
        return;
    }
    assert!(stride >= cols && (rows - 1) * stride + cols <= c.len(), "the result does not fit");
    if inner == 0 {
        let scale = T::from_f64(beta);
        c.chunks_mut(stride).take(rows).for_each(|row| {
            row[..cols].iter_mut().for_each(|c| *c = if beta == 0.0 { T::ZERO } else { scale * *c });
        });
        return;
    }
    assert!(a.fits() && b.fits(), "an operand is larger than its buffer");
    // SAFETY: the asserts above show that every element that shapes and strides reach lies inside
    // its slice. `c` is borrowed mutably, so it overlaps neither operand, and `stride >= cols`, so
    // its rows do not overlap. With `read_dst = false` the old contents of `c` are not read.
    unsafe {
        gemm::gemm(
            rows,
            cols,
            inner,
            c.as_mut_ptr(),
            1,
            stride as isize,
            beta != 0.0,
            a.data.as_ptr(),
            a.strides[1] as isize,
            a.strides[0] as isize,
            b.data.as_ptr(),
            b.strides[1] as isize,
            b.strides[0] as isize,
            T::from_f64(beta),
            T::from_f64(alpha),
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
