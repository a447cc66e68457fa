//! Factorisations by LAPACK through ndarray-linalg; the binary chooses the provider.

use ndarray::{Array2, ArrayView2};
use ndarray_linalg::{Cholesky, EigValsh, Eigh, UPLO, error::LinalgError};

use crate::NotPositiveDefinite;

/// Factors the leading `width x width` block of `block` (row-major, distance `stride`) in place.
pub(crate) fn cholesky_block(
    block: &mut [f64],
    width: usize,
    stride: usize,
) -> Result<(), NotPositiveDefinite> {
    let matrix = Array2::from_shape_fn((width, width), |(i, j)| block[i * stride + j]);
    let factor = matrix.cholesky(UPLO::Lower).map_err(|error| NotPositiveDefinite {
        pivot: match error {
            // `potrf` returns the 1-based order of the failing minor.
            LinalgError::Lapack(lax::error::Error::LapackComputationalFailure { return_code }) => {
                (return_code - 1).max(0) as usize
            }
            _ => 0,
        },
    })?;
    for i in 0..width {
        for j in 0..=i {
            block[i * stride + j] = factor[[i, j]];
        }
    }
    Ok(())
}

/// Eigenvalues (rising) and eigenvectors (rows) of a symmetric `n x n` matrix.
pub(crate) fn eigen(data: &[f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let matrix = ArrayView2::from_shape((n, n), data).expect("n * n numbers");
    let (values, vectors) =
        matrix.eigh(UPLO::Lower).expect("the symmetric QR iteration converges on finite input");
    (values.to_vec(), vectors.t().iter().copied().collect())
}

/// The eigenvalues alone.
pub(crate) fn eigenvalues(data: &[f64], n: usize) -> Vec<f64> {
    let matrix = ArrayView2::from_shape((n, n), data).expect("n * n numbers");
    matrix.eigvalsh(UPLO::Lower).expect("the symmetric QR iteration converges on finite input").to_vec()
}
