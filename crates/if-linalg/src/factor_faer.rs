//! Factorisations by faer, sequential inside one block.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltError, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::{Mat, MatRef, Par};

use crate::NotPositiveDefinite;

/// Factors the leading `width x width` block of `block` (row-major, distance `stride`) in place.
///
/// The block is copied: faer's kernel needs contiguous columns (with contiguous rows it reads out
/// of bounds, seen in 0.24.4).
pub(crate) fn cholesky_block(
    block: &mut [f64],
    width: usize,
    stride: usize,
) -> Result<(), NotPositiveDefinite> {
    let mut columns = Mat::from_fn(width, width, |i, j| block[i * stride + j]);
    let scratch = cholesky_in_place_scratch::<f64>(width, Par::Seq, Default::default());
    cholesky_in_place(
        columns.as_mut(),
        Default::default(),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    )
    .map_err(|LltError::NonPositivePivot { index }| NotPositiveDefinite { pivot: index })?;
    for i in 0..width {
        for j in 0..=i {
            block[i * stride + j] = columns[(i, j)];
        }
    }
    Ok(())
}

/// Eigenvalues (rising) and eigenvectors (rows) of a symmetric `n x n` matrix.
pub(crate) fn eigen(data: &[f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut values = Diag::<f64>::zeros(n);
    let mut vectors = Mat::<f64>::zeros(n, n);
    let scratch = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, Par::Seq, Default::default());
    self_adjoint_evd(
        MatRef::from_row_major_slice(data, n, n),
        values.as_mut(),
        Some(vectors.as_mut()),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    )
    .expect("the symmetric QR iteration converges on finite input");
    let rows = (0..n).flat_map(|j| vectors.col(j).iter().copied().collect::<Vec<_>>()).collect();
    (values.column_vector().iter().copied().collect(), rows)
}
