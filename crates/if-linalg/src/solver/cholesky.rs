//! The explicit matrix, factored once: exact up to rounding, for small numbers of parameters.

use super::{Prepared, Solver, certified, failed, fits, spectrum, true_residuals};
use crate::{
    Backend, Block, CholeskyFactor, LinalgError, LinearOperator, Observer, Solution, Termination,
    lanczos_extremes,
};

/// `A = L L^T` of the explicit matrix, in `f64` whatever the backend computes in.
#[derive(Clone, Debug)]
pub struct Cholesky {
    /// Relative residual above which a column is reported as [`Termination::Stagnated`].
    pub tolerance: f64,
    /// Bytes the explicit matrix may take.
    pub memory_budget: usize,
}

impl<B: Backend> Solver<B> for Cholesky {
    fn name(&self) -> &'static str {
        "cholesky"
    }

    fn prepare<'a>(
        &self,
        operator: &'a dyn LinearOperator<B>,
    ) -> Result<Box<dyn Prepared<B> + 'a>, LinalgError>
    where
        Self: 'a,
    {
        fits(operator.dim(), 1, self.memory_budget)?;
        let factor = factorise(operator);
        let eigenvalues = spectrum(operator);
        Ok(Box::new(Factored { operator, factor, eigenvalues, tolerance: self.tolerance }))
    }
}

/// `L` of the explicit matrix, or why there is none.
pub(super) fn factorise<B: Backend>(operator: &dyn LinearOperator<B>) -> Result<CholeskyFactor, Termination> {
    let dense = operator.to_dense();
    if !dense.is_finite() {
        return Err(Termination::NonFinite);
    }
    dense.cholesky().map_err(|_| {
        let [lowest, highest] = lanczos_extremes(operator, 60, 0);
        // A pivot failed: what is not clearly negative is singular.
        Termination::of_curvature::<B::Elem>(lowest, operator.dim() as f64 * highest)
            .unwrap_or(Termination::Singular)
    })
}

struct Factored<'a, B: Backend> {
    operator: &'a dyn LinearOperator<B>,
    factor: Result<CholeskyFactor, Termination>,
    eigenvalues: Option<[f64; 2]>,
    tolerance: f64,
}

impl<B: Backend> Prepared<B> for Factored<'_, B> {
    fn solve(&self, b: &Block<B>, _: &dyn Observer) -> Solution<B> {
        let factor = match &self.factor {
            Ok(factor) => factor,
            Err(termination) => {
                return failed("cholesky", self.operator, b, *termination, self.tolerance);
            }
        };
        let mut rows = b.to_f64();
        factor.solve(&mut rows);
        let x = Block::from_f64(b.backend(), b.layout(), &rows);
        let (_, residuals) = true_residuals(self.operator, b, &x);
        let otherwise = (Termination::Stagnated, self.eigenvalues);
        certified("cholesky", self.operator, (x, residuals), self.tolerance, otherwise)
    }
}
