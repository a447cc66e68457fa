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
    let mut vectors = Mat::<f64>::zeros(n, n);
    let values = decompose(data, n, Some(&mut vectors));
    (values, (0..n).flat_map(|j| vectors.col(j).iter().copied().collect::<Vec<_>>()).collect())
}

/// The eigenvalues alone.
pub(crate) fn eigenvalues(data: &[f64], n: usize) -> Vec<f64> {
    decompose(data, n, None)
}

fn decompose(data: &[f64], n: usize, mut vectors: Option<&mut Mat<f64>>) -> Vec<f64> {
    if let Some(values) = attempt(data, n, vectors.as_deref_mut()) {
        return values;
    }
    // faer 0.24.4 gives up on singular matrices most of whose rows are zero, and where squares overflow. Of size 1 and away
    // from zero it does not; what that costs is the rounding of the largest eigenvalue, which the values have anyway.
    let largest = data.iter().fold(f64::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
    let mut shifted: Vec<f64> = data.iter().map(|value| value / largest).collect();
    (0..n).for_each(|i| shifted[i * n + i] += 1.0);
    let values = attempt(&shifted, n, vectors).expect("the symmetric QR iteration converges on finite input");
    values.into_iter().map(|value| (value - 1.0) * largest).collect()
}

/// None where the iteration does not converge.
fn attempt(data: &[f64], n: usize, vectors: Option<&mut Mat<f64>>) -> Option<Vec<f64>> {
    let asked = if vectors.is_some() { ComputeEigenvectors::Yes } else { ComputeEigenvectors::No };
    let mut values = Diag::<f64>::zeros(n);
    let scratch = self_adjoint_evd_scratch::<f64>(n, asked, Par::Seq, Default::default());
    let ended = self_adjoint_evd(
        MatRef::from_row_major_slice(data, n, n),
        values.as_mut(),
        vectors.map(|vectors| vectors.as_mut()),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    );
    ended.ok()?;
    Some(values.column_vector().iter().copied().collect())
}
