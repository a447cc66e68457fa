//! One application of an approximate inverse, its residual measured with the full operator.

use super::{Prepared, Solver, certified, failed, true_residuals};
use crate::{
    Approximation, Backend, Block, Inverse, LinalgError, LinearOperator, Observer, Solution, Termination,
};

/// The solver that an [`Approximation`] is. Where the true residual is above the tolerance, as it mostly is, a column
/// ends as [`Termination::Approximate`] and its report says how far off it is.
pub struct Approximate<'s, B: Backend> {
    /// The inverse.
    pub approximation: Box<dyn Approximation<B> + 's>,
    /// Relative residual at which the approximation counts as the solution.
    pub tolerance: f64,
}

impl<B: Backend> Solver<B> for Approximate<'_, B> {
    fn name(&self) -> &'static str {
        self.approximation.name()
    }

    fn prepare<'a>(
        &self,
        operator: &'a dyn LinearOperator<B>,
    ) -> Result<Box<dyn Prepared<B> + 'a>, LinalgError>
    where
        Self: 'a,
    {
        let inverse = self.approximation.fit(operator)?;
        Ok(Box::new(PreparedApproximate { name: self.name(), operator, inverse, tolerance: self.tolerance }))
    }
}

struct PreparedApproximate<'a, B: Backend> {
    name: &'static str,
    operator: &'a dyn LinearOperator<B>,
    inverse: Result<Box<dyn Inverse<B> + 'a>, Termination>,
    tolerance: f64,
}

impl<B: Backend> Prepared<B> for PreparedApproximate<'_, B> {
    fn solve(&self, b: &Block<B>, _: &dyn Observer) -> Solution<B> {
        let inverse = match &self.inverse {
            Ok(inverse) => inverse,
            Err(termination) => return failed(self.name, self.operator, b, *termination, self.tolerance),
        };
        let mut x = Block::zeros(b.backend(), b.layout(), b.k());
        inverse.apply(b, &mut x);
        let (_, residuals) = true_residuals(self.operator, b, &x);
        certified(self.name, self.operator, (x, residuals), self.tolerance, Termination::Approximate)
    }
}
