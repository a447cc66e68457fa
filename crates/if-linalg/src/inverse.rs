//! Approximate inverses: solvers that are done after one application, and preconditioners of those that iterate.

use crate::{Backend, Block, LinalgError, LinearOperator, Termination};

/// A symmetric approximation of the inverse of an operator, applied to a whole [`Block`] at once.
pub trait Inverse<B: Backend>: Send + Sync {
    /// `x = M b`, vector by vector. `b` and `x` have the same number of vectors.
    fn apply(&self, b: &Block<B>, x: &mut Block<B>);
}

/// A recipe for an [`Inverse`] of an operator: [`Approximate`](crate::Approximate) makes a solver of it, and
/// [`PreconditionedCg`](crate::PreconditionedCg) a preconditioner.
pub trait Approximation<B: Backend>: Send + Sync {
    /// Name in reports and on the command line.
    fn name(&self) -> &'static str;

    /// Pays once for what does not depend on right-hand sides. The inner error says what of the operator forbids an
    /// inverse that is positive definite, such as a negative eigenvalue.
    ///
    /// # Errors
    /// When the preparation is impossible, such as a matrix larger than the memory budget.
    fn fit<'a>(
        &self,
        operator: &'a dyn LinearOperator<B>,
    ) -> Result<Result<Box<dyn Inverse<B> + 'a>, Termination>, LinalgError>
    where
        Self: 'a;
}
