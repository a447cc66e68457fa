//! The curvature `C = U^T U` by its rows, of which there may be far fewer than parameters.

use crate::{Backend, Block, SymmetricMatrix};

/// A root `U` (`r x p`) of a positive semidefinite curvature `C = U^T U`, without the memory of its rows `u_c`.
pub trait CurvatureRoot<B: Backend>: Send + Sync {
    /// `r`: number of rows.
    fn rank(&self) -> usize;
    /// `U U^T`, `r x r`.
    fn gram(&self) -> SymmetricMatrix;
    /// `<u_c, x_j>`, `k x r` row-major.
    fn project(&self, x: &Block<B>) -> Vec<f64>;
    /// `y_j = sum_c c_jc u_c`, for `k x r` coefficients.
    fn expand(&self, c: &[f64], y: &mut Block<B>);
}
