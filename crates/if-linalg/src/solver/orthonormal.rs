//! Orthonormal rows, and the small matrices that come with them.

use crate::backend::gemm::{self, Operand};
use crate::{Backend, Block, Real, SymmetricMatrix};

/// `R = C Q` with orthonormal rows `Q` (`r` of them, `C` is `k x r`), up to what rounding hides.
pub(crate) fn factors<B: Backend>(rows: &Block<B>) -> (Block<B>, Vec<f64>) {
    let k = rows.k();
    let (first, to_first) = orthonormalised(rows, B::Elem::EPSILON);
    // Once more: the first pass is as good as the conditioning of the Gram matrix allows.
    let (second, to_second) = orthonormalised(&first, 0.0);
    let c = product(matrix(&to_first, k, first.k()), matrix(&to_second, first.k(), second.k()));
    (second, c)
}

/// Eigenvectors of the Gram matrix over the roots of their eigenvalues, times the rows; and the matrix that
/// leads back. Eigenvalues below `part` of the largest are dropped.
fn orthonormalised<B: Backend>(rows: &Block<B>, part: f64) -> (Block<B>, Vec<f64>) {
    let k = rows.k();
    let gram = rows.gram(rows);
    if k == 0 || gram.iter().any(|v| !v.is_finite()) {
        // Not finite: passed on, for the caller to see.
        let identity = (0..k * k).map(|at| if at % (k + 1) == 0 { 1.0 } else { 0.0 }).collect();
        return (rows.clone(), identity);
    }
    let (values, vectors) = SymmetricMatrix::from_rows(k, gram).eigen();
    let largest = values.last().copied().unwrap_or(0.0);
    let kept: Vec<usize> = (0..k).filter(|&i| values[i] > part * largest && values[i] > 0.0).collect();
    let r = kept.len();
    let vector = |i: usize| &vectors[i * k..(i + 1) * k];
    let to_rows = kept.iter().flat_map(|&i| vector(i).iter().map(move |v| (i, v)));
    let forth: Vec<f64> = to_rows.map(|(i, v)| v / values[i].sqrt()).collect();
    let back = (0..k * r).map(|at| vector(kept[at % r])[at / r] * values[kept[at % r]].sqrt()).collect();
    let mut q = Block::zeros(rows.backend(), rows.layout(), r);
    q.combine(&forth, rows, 0.0);
    (q, back)
}

/// `a b` of small matrices, row-major.
pub(crate) fn product(a: Operand<f64>, b: Operand<f64>) -> Vec<f64> {
    let [rows, cols] = [a.shape[0], b.shape[1]];
    let mut c = vec![0.0; rows * cols];
    gemm::product(1.0, a, b, 0.0, &mut c, cols);
    c
}

/// A small row-major matrix.
pub(crate) fn matrix(data: &[f64], rows: usize, cols: usize) -> Operand<'_, f64> {
    Operand::rows(data, [rows, cols], cols)
}

pub(crate) fn transposed(a: &[f64], [rows, cols]: [usize; 2]) -> Vec<f64> {
    (0..rows * cols).map(|at| a[at % rows * cols + at / rows]).collect()
}

/// The symmetric part of a small `n x n` matrix.
pub(crate) fn symmetric(n: usize, a: &[f64]) -> SymmetricMatrix {
    SymmetricMatrix::from_rows(n, (0..n * n).map(|at| 0.5 * (a[at] + a[at % n * n + at / n])).collect())
}
