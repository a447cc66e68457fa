//! Explicit symmetric matrices on the host: Cholesky and eigendecomposition in `f64`.
//!
//! Diagonal blocks and eigenproblems go to faer, or to LAPACK under the feature `lapack`; all else is
//! products of constant size, so the bits do not depend on the number of threads. Triangular solves
//! are ours: faer 0.24.4 crashed on a row-major factor with one right-hand side.

use rayon::prelude::*;

use crate::backend::gemm::{Operand, product};

#[cfg(not(feature = "lapack"))]
use crate::factor_faer::{cholesky_block, eigen, eigenvalues};
#[cfg(feature = "lapack")]
use crate::factor_lapack::{cholesky_block, eigen, eigenvalues};

/// A symmetric matrix, stored in full, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct SymmetricMatrix {
    n: usize,
    data: Vec<f64>,
}

/// Why a Cholesky factorisation stopped: the leading minor that ends at `pivot` is not positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotPositiveDefinite {
    /// 0-based row of the failing pivot.
    pub pivot: usize,
}

impl SymmetricMatrix {
    /// From `n x n` numbers, row by row. Only the lower triangle is read by factorisations.
    pub fn from_rows(n: usize, data: Vec<f64>) -> Self {
        assert_eq!(data.len(), n * n, "a {n} x {n} matrix has {} numbers", n * n);
        Self { n, data }
    }

    /// Order of the matrix.
    pub fn dim(&self) -> usize {
        self.n
    }

    /// All `n * n` numbers, row by row.
    pub fn as_slice(&self) -> &[f64] {
        &self.data
    }

    /// Adds `value` to the diagonal.
    pub fn add_diagonal(&mut self, value: f64) {
        for i in 0..self.n {
            self.data[i * self.n + i] += value;
        }
    }

    /// Adds `values[i]` to diagonal element `i`.
    pub fn add_to_diagonal(&mut self, values: &[f64]) {
        for (i, value) in values.iter().enumerate() {
            self.data[i * self.n + i] += value;
        }
    }

    /// Whether every number is finite.
    pub fn is_finite(&self) -> bool {
        self.data.iter().all(|v| v.is_finite())
    }

    /// Eigenvalues in rising order and the matrix whose row `i` is the `i`-th eigenvector.
    ///
    /// # Panics
    /// Where a number is not finite.
    pub fn eigen(&self) -> (Vec<f64>, Vec<f64>) {
        // faer 0.24.4 counts one below the order.
        if self.n == 0 { (Vec::new(), Vec::new()) } else { eigen(&self.data, self.n) }
    }

    /// Eigenvalues in rising order: a small part of the work of [`eigen`](Self::eigen).
    ///
    /// # Panics
    /// Where a number is not finite.
    pub fn eigenvalues(&self) -> Vec<f64> {
        if self.n == 0 { Vec::new() } else { eigenvalues(&self.data, self.n) }
    }

    /// `A = L L^T`, in place of the matrix.
    ///
    /// Right-looking in panels: factor a diagonal block, multiply the rows below by its inverse
    /// transposed, subtract their product from the trailing columns.
    ///
    /// # Errors
    /// The first pivot that is not positive.
    pub fn cholesky(mut self) -> Result<CholeskyFactor, NotPositiveDefinite> {
        let n = self.n;
        let mut inverses = Vec::with_capacity(n.div_ceil(PANEL));
        for start in (0..n).step_by(PANEL) {
            let width = PANEL.min(n - start);
            let (head, tail) = self.data.split_at_mut((start + width) * n);
            let block = &mut head[start * n + start..];
            cholesky_block(block, width, n).map_err(|e| NotPositiveDefinite { pivot: start + e.pivot })?;
            let inverse = invert_lower(block, width, n);
            update_trailing(&inverse, tail, start, width, n);
            inverses.push(inverse);
        }
        Ok(CholeskyFactor { n, lower: self.data, inverses })
    }
}

/// Columns factored at once. A constant: it fixes the order of summation.
const PANEL: usize = 256;

/// `L^-1` (row-major, width x width) of a lower triangular block with distance `n` between rows.
fn invert_lower(l: &[f64], width: usize, n: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; width * width];
    for i in 0..width {
        let (above, row) = inverse.split_at_mut(i * width);
        row[i] = 1.0;
        for (k, above) in above.chunks(width).enumerate() {
            let factor = l[i * n + k];
            row[..=k].iter_mut().zip(above).for_each(|(r, a)| *r -= factor * a);
        }
        let pivot = l[i * n + i];
        row[..=i].iter_mut().for_each(|r| *r /= pivot);
    }
    inverse
}

/// The rows below a factored diagonal block get their part of `L`, `L_i = A_i inverse^T`, and their
/// trailing columns lose its product, `A_ij -= L_i L_j^T`.
fn update_trailing(inverse: &[f64], tail: &mut [f64], start: usize, width: usize, n: usize) {
    let inverse = Operand::rows(inverse, [width, width], width);
    let rows_below = tail.len() / n;
    // The panel of L is kept apart, so that every task can read all of it while it writes its rows.
    let mut panel = vec![0.0; rows_below * width];
    panel.par_chunks_mut(PANEL * width).zip(tail.par_chunks_mut(PANEL * n)).for_each(|(l, rows)| {
        let count = rows.len() / n;
        let a = Operand::rows(&rows[start..], [count, width], n);
        product(1.0, a, inverse.t(), 0.0, l, width);
        for (row, l) in rows.chunks_mut(n).zip(l.chunks(width)) {
            row[start..start + width].copy_from_slice(l);
        }
    });
    tail.par_chunks_mut(PANEL * n).enumerate().for_each(|(block, rows)| {
        let count = rows.len() / n;
        let cols = block * PANEL + count;
        let own = Operand::rows(&panel[block * PANEL * width..], [count, width], width);
        let others = Operand::rows(&panel, [cols, width], width);
        product(-1.0, own, others.t(), 1.0, &mut rows[start + width..], n);
    });
}

/// `L` of `A = L L^T`; the upper triangle is not meaningful.
#[derive(Clone, Debug)]
pub struct CholeskyFactor {
    n: usize,
    lower: Vec<f64>,
    /// Inverses of the diagonal blocks of `L`.
    inverses: Vec<Vec<f64>>,
}

/// Right-hand sides that one task solves. A constant, like [`PANEL`].
const RIGHT_HAND_SIDES: usize = 64;

impl CholeskyFactor {
    /// Order of the matrix.
    pub fn dim(&self) -> usize {
        self.n
    }

    /// Replaces every row `b` of `rows` (`k x n`) by `A^-1 b`.
    pub fn solve(&self, rows: &mut [f64]) {
        rows.par_chunks_mut(RIGHT_HAND_SIDES * self.n).for_each(|chunk| {
            self.forward(chunk);
            self.backward(chunk);
        });
    }

    /// Replaces every row `b` of `rows` (`k x n`) by `L^-1 b`, whose squared norm is `b^T A^-1 b`.
    pub fn half_solve(&self, rows: &mut [f64]) {
        rows.par_chunks_mut(RIGHT_HAND_SIDES * self.n).for_each(|chunk| self.forward(chunk));
    }

    /// Panel by panel: `y_j = (b_j - sum_{i<j} y_i L_ji^T) L_jj^-T`.
    fn forward(&self, rows: &mut [f64]) {
        let (n, k) = (self.n, rows.len() / self.n);
        for (j, inverse) in self.inverses.iter().enumerate() {
            let start = j * PANEL;
            let width = PANEL.min(n - start);
            let l = Operand::rows(&self.lower[start * n..], [width, start], n);
            let known = Operand::rows(rows, [k, start], n);
            let right = panel_difference(rows, known, l.t(), start, width, n);
            let right = Operand::rows(&right, [k, width], width);
            let inverse = Operand::rows(inverse, [width, width], width);
            product(1.0, right, inverse.t(), 0.0, &mut rows[start..], n);
        }
    }

    /// Panel by panel from the last: `x_j = (y_j - sum_{i>j} x_i L_ij) L_jj^-1`.
    fn backward(&self, rows: &mut [f64]) {
        let (n, k) = (self.n, rows.len() / self.n);
        for (j, inverse) in self.inverses.iter().enumerate().rev() {
            let start = j * PANEL;
            let width = PANEL.min(n - start);
            let end = start + width;
            let right = if end < n {
                let l = Operand::rows(&self.lower[end * n + start..], [n - end, width], n);
                let known = Operand::rows(&rows[end..], [k, n - end], n);
                panel_difference(rows, known, l, start, width, n)
            } else {
                panel_of(rows, start, width, n)
            };
            let right = Operand::rows(&right, [k, width], width);
            let inverse = Operand::rows(inverse, [width, width], width);
            product(1.0, right, inverse, 0.0, &mut rows[start..], n);
        }
    }
}

/// Columns `start..start + width` of `rows`, less `known l`.
fn panel_difference(
    rows: &[f64],
    known: Operand<f64>,
    l: Operand<f64>,
    start: usize,
    width: usize,
    n: usize,
) -> Vec<f64> {
    let mut panel = panel_of(rows, start, width, n);
    product(-1.0, known, l, 1.0, &mut panel, width);
    panel
}

fn panel_of(rows: &[f64], start: usize, width: usize, n: usize) -> Vec<f64> {
    rows.chunks(n).flat_map(|row| &row[start..start + width]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    fn spd(n: usize) -> SymmetricMatrix {
        let g = random(n * n, 7);
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                a[i * n + j] = (0..n).map(|k| g[i * n + k] * g[j * n + k]).sum();
            }
        }
        let mut a = SymmetricMatrix::from_rows(n, a);
        a.add_diagonal(0.5);
        a
    }

    fn product(a: &SymmetricMatrix, x: &[f64]) -> Vec<f64> {
        a.as_slice().chunks(a.dim()).map(|row| row.iter().zip(x).map(|(a, x)| a * x).sum()).collect()
    }

    /// Rows that are all but zero stop faer's iteration; values alone are those with vectors.
    #[test]
    fn singular_matrices_have_eigenvalues() {
        // The Hessian of a softmax whose features are all zero: only the 10 biases count, every 65th parameter.
        let n = 650;
        let p: Vec<f64> = random(10, 5).iter().map(|v| 0.1 + 0.05 * v).collect();
        let total: f64 = p.iter().sum();
        let mut a = vec![0.0; n * n];
        for (c, pc) in p.iter().enumerate() {
            for (d, pd) in p.iter().enumerate() {
                let own = if c == d { pc / total } else { 0.0 };
                a[(65 * c + 64) * n + 65 * d + 64] = own - pc * pd / (total * total);
            }
        }
        let mut huge = spd(40);
        huge.data.iter_mut().for_each(|value| *value *= 1e300);
        let singular = SymmetricMatrix::from_rows(n, a);
        for a in [singular, SymmetricMatrix::from_rows(n, vec![0.0; n * n]), huge, spd(40)] {
            let n = a.dim();
            let (values, vectors) = a.eigen();
            let largest = values[n - 1].abs().max(f64::MIN_POSITIVE);
            for (value, vector) in values.iter().zip(vectors.chunks(n)) {
                let applied = product(&a, vector);
                let off = applied.iter().zip(vector).map(|(x, v)| (x - value * v).abs()).fold(0.0, f64::max);
                assert!(off <= 1e-12 * largest, "{off} {value}");
            }
            for (alone, value) in a.eigenvalues().iter().zip(&values) {
                assert!((alone - value).abs() <= 1e-12 * largest, "{alone} {value}");
            }
        }
    }

    /// Sizes below, at and above the panel width, so that the trailing update runs more than once.
    #[test]
    fn cholesky_solves() {
        for n in [1, 2, 17, 256, 257, 600] {
            let a = spd(n);
            let b = random(3 * n, 3);
            let factor = a.clone().cholesky().unwrap();
            let mut x = b.clone();
            factor.solve(&mut x);
            for (x, b) in x.chunks(n).zip(b.chunks(n)) {
                for (p, b) in product(&a, x).iter().zip(b) {
                    assert!((p - b).abs() < 1e-8, "n = {n}: {p} against {b}");
                }
            }
            let mut half = b.clone();
            factor.half_solve(&mut half);
            for ((h, x), b) in half.chunks(n).zip(x.chunks(n)).zip(b.chunks(n)) {
                let quadratic: f64 = x.iter().zip(b).map(|(x, b)| x * b).sum();
                let norm: f64 = h.iter().map(|h| h * h).sum();
                assert!((quadratic - norm).abs() < 1e-9 * norm);
            }
        }
    }

    #[test]
    fn cholesky_names_the_failing_pivot() {
        let mut a = spd(300);
        a.add_to_diagonal(&{
            let mut d = vec![0.0; 300];
            d[280] = -1e6;
            d
        });
        assert_eq!(a.cholesky().unwrap_err(), NotPositiveDefinite { pivot: 280 });
    }

    #[test]
    fn eigenvectors_diagonalise() {
        let a = spd(40);
        let (values, vectors) = a.eigen();
        assert!(values.windows(2).all(|w| w[0] <= w[1]));
        for (value, v) in values.iter().zip(vectors.chunks(40)) {
            for (p, v) in product(&a, v).iter().zip(v) {
                assert!((p - value * v).abs() < 1e-10 * values[39]);
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut x = random(70 * 600, 1);
                spd(600).cholesky().unwrap().solve(&mut x);
                (x, spd(90).eigen())
            })
        };
        assert_eq!(run(1), run(2));
    }
}
