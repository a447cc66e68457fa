//! The explicit matrix in its eigenvectors: exact up to rounding, with the exact spectrum in every report.
//!
//! ```text
//! A = V^T L V        x = V^T L^-1 V b
//! ```
//!
//! Some twenty times the work of [`Cholesky`](crate::Cholesky); for small problems whose conditioning is the question.

use rayon::prelude::*;

use super::orthonormal::matrix;
use super::{Prepared, Solver, certified, failed, fits, true_residuals};
use crate::backend::gemm::product;
use crate::{Backend, Block, LinalgError, LinearOperator, Observer, Solution, SymmetricMatrix, Termination};

/// The symmetric eigendecomposition of the explicit matrix, in `f64` whatever the backend computes in.
#[derive(Clone, Debug)]
pub struct Eigen {
    /// Relative residual above which a column is reported as [`Termination::Stagnated`].
    pub tolerance: f64,
    /// Bytes that the explicit matrix, its eigenvectors and the work on them may take.
    pub memory_budget: usize,
}

const NAME: &str = "eigen";
/// Matrices held at the same time: the explicit one, its eigenvectors by columns and by rows, and workspace.
const MATRICES: usize = 4;
/// Right-hand sides that one task solves. A constant: it fixes the order of summation.
const RIGHT_HAND_SIDES: usize = 64;

impl<B: Backend> Solver<B> for Eigen {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare<'a>(
        &self,
        operator: &'a dyn LinearOperator<B>,
    ) -> Result<Box<dyn Prepared<B> + 'a>, LinalgError>
    where
        Self: 'a,
    {
        fits(operator.dim(), MATRICES, self.memory_budget)?;
        let (spectrum, extremes) = decompose::<B>(&operator.to_dense());
        Ok(Box::new(Decomposed { operator, spectrum, extremes, tolerance: self.tolerance }))
    }
}

/// Eigenvalues in rising order, and the eigenvectors as rows.
struct Spectrum {
    values: Vec<f64>,
    vectors: Vec<f64>,
}

/// The spectrum, or what forbids a solution, and the extreme eigenvalues of a finite matrix.
fn decompose<B: Backend>(dense: &SymmetricMatrix) -> (Result<Spectrum, Termination>, Option<[f64; 2]>) {
    if !dense.is_finite() {
        return (Err(Termination::NonFinite), None);
    }
    let (values, vectors) = dense.eigen();
    let (Some(&lowest), Some(&highest)) = (values.first(), values.last()) else {
        return (Ok(Spectrum { values, vectors }), None);
    };
    // Independent errors of the elements move an eigenvalue by about the root of their number in a row.
    let scale = (dense.dim() as f64).sqrt() * lowest.abs().max(highest.abs());
    let spectrum = match Termination::of_curvature::<B::Elem>(lowest, scale) {
        Some(termination) => Err(termination),
        None => Ok(Spectrum { values, vectors }),
    };
    (spectrum, Some([lowest, highest]))
}

impl Spectrum {
    /// Replaces every row `b` of `rows` (`k x n`) by `V^T L^-1 V b`.
    fn solve(&self, rows: &mut [f64]) {
        let n = self.values.len();
        rows.par_chunks_mut(RIGHT_HAND_SIDES * n).for_each(|rows| {
            let k = rows.len() / n;
            let vectors = matrix(&self.vectors, n, n);
            let mut c = vec![0.0; k * n];
            product(1.0, matrix(rows, k, n), vectors.t(), 0.0, &mut c, n);
            c.iter_mut().enumerate().for_each(|(i, c)| *c /= self.values[i % n]);
            product(1.0, matrix(&c, k, n), vectors, 0.0, rows, n);
        });
    }
}

struct Decomposed<'a, B: Backend> {
    operator: &'a dyn LinearOperator<B>,
    spectrum: Result<Spectrum, Termination>,
    /// Smallest and largest eigenvalue.
    extremes: Option<[f64; 2]>,
    tolerance: f64,
}

impl<B: Backend> Prepared<B> for Decomposed<'_, B> {
    fn solve(&self, b: &Block<B>, _: &dyn Observer) -> Solution<B> {
        let mut solution = match &self.spectrum {
            Ok(spectrum) => {
                let mut rows = b.to_f64();
                spectrum.solve(&mut rows);
                let x = Block::from_f64(b.backend(), b.layout(), &rows);
                let (_, residuals) = true_residuals(self.operator, b, &x);
                let otherwise = (Termination::Stagnated, self.extremes);
                certified(NAME, self.operator, (x, residuals), self.tolerance, otherwise)
            }
            Err(termination) => failed(NAME, self.operator, b, *termination, self.tolerance),
        };
        solution.report.columns.iter_mut().for_each(|column| column.eigenvalues = self.extremes);
        solution
    }
}
