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
    let turned = rows >= NARROW && b.strides[1] != 1 && a.strides[1] == 1;
    if turned && 2 * rows * (inner + cols) < inner * cols {
        return transposed(alpha, a, b, beta, c, stride);
    }
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

/// With fewer rows the `gemm` crate packs nothing.
const NARROW: usize = 16;

/// [`product`] by its transpose, `c^T = alpha b^T a^T + beta c^T`: where `b` does not lie row by row, the `gemm` crate
/// packs all of it number by number, which costs as much as the product with a few rows of `a` does.
fn transposed<T: Real>(alpha: f64, a: Operand<T>, b: Operand<T>, beta: f64, c: &mut [T], stride: usize) {
    let (rows, cols) = (a.shape[0], b.shape[1]);
    let mut turned = vec![T::ZERO; rows * cols];
    product(alpha, b.t(), a.t(), 0.0, &mut turned, rows);
    let scale = T::from_f64(beta);
    // A few columns of all rows at a time, so that what is read of each is still in the cache for the next row.
    for start in (0..cols).step_by(TOGETHER) {
        let len = TOGETHER.min(cols - start);
        for (i, row) in c.chunks_mut(stride).take(rows).enumerate() {
            let turned = turned[start * rows + i..].iter().step_by(rows);
            let pairs = row[start..start + len].iter_mut().zip(turned);
            if beta == 0.0 {
                pairs.for_each(|(c, t)| *c = *t);
            } else {
                pairs.for_each(|(c, t)| *c = *t + scale * *c);
            }
        }
    }
}

/// Columns that are turned together.
const TOGETHER: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    /// Products that are taken by the transpose, and their neighbours that are not, against sums of products.
    #[test]
    fn products_with_a_matrix_that_lies_column_by_column() {
        for (case, [rows, inner, cols]) in
            [[32, 196, 145], [16, 90, 70], [15, 90, 70], [40, 30, 90]].iter().enumerate()
        {
            let (stride, b_stride) = (cols + 3, inner + 2);
            let a = random(rows * (inner + 1), 2 * case as u64);
            let b = random(cols * b_stride, 2 * case as u64 + 1);
            for beta in [0.0, 1.0, -0.5] {
                let before =
                    if beta == 0.0 { vec![f64::NAN; rows * stride] } else { random(rows * stride, 99) };
                let mut c = before.clone();
                let own = Operand::rows(&a, [*rows, *inner], inner + 1);
                let other = Operand::rows(&b, [*cols, *inner], b_stride).t();
                product(0.75, own, other, beta, &mut c, stride);
                for (at, (found, before)) in c.iter().zip(&before).enumerate() {
                    let (i, j) = (at / stride, at % stride);
                    if j >= *cols {
                        assert_eq!(found.to_bits(), before.to_bits(), "what lies between the rows stays");
                        continue;
                    }
                    let sum: f64 = (0..*inner).map(|l| a[i * (inner + 1) + l] * b[j * b_stride + l]).sum();
                    let kept = if beta == 0.0 { 0.0 } else { beta * before };
                    assert!(
                        (found - (0.75 * sum + kept)).abs() < 1e-12,
                        "{rows} {inner} {cols} {beta}: {i} {j}"
                    );
                }
            }
        }
    }
}
