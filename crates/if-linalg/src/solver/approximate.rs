//! One application of an approximate inverse, its residual measured with the full operator.

use super::{Prepared, Solver, certified, definite_spectrum, failed, spectrum, true_residuals};
use crate::{
    Approximation, Backend, Block, Definiteness, Inverse, LinalgError, LinearOperator, Observer, Solution,
    Termination,
};

/// The solver that an [`Approximation`] is. Where the true residual is above the tolerance, as it mostly is, a column
/// ends as [`Termination::Approximate`] and its report says how far off it is. An operator that promises nothing is asked
/// first, by some Lanczos steps, whether it has a positive inverse at all.
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
        let (name, tolerance) = (self.name(), self.tolerance);
        let inverse = self.approximation.fit(operator)?;
        // What approximates a positive inverse may be far from an operator that has none, without knowing.
        let (inverse, eigenvalues) = match operator.definiteness() {
            Definiteness::Unknown => match definite_spectrum(operator, 0) {
                Ok(extremes) => (inverse, Some(extremes)),
                Err(termination) => (Err(lower(inverse.err(), termination)), None),
            },
            Definiteness::Positive | Definiteness::Semidefinite => (inverse, spectrum(operator)),
        };
        Ok(Box::new(PreparedApproximate { name, operator, inverse, eigenvalues, tolerance }))
    }
}

/// Why there is no positive inverse: of two negative curvatures the lower, else what the fit itself found.
fn lower(fit: Option<Termination>, spectrum: Termination) -> Termination {
    match (fit, spectrum) {
        (
            Some(Termination::NegativeCurvature { curvature: found }),
            Termination::NegativeCurvature { curvature },
        ) => Termination::NegativeCurvature { curvature: curvature.min(found) },
        (fit, spectrum) => fit.unwrap_or(spectrum),
    }
}

struct PreparedApproximate<'a, B: Backend> {
    name: &'static str,
    operator: &'a dyn LinearOperator<B>,
    inverse: Result<Box<dyn Inverse<B> + 'a>, Termination>,
    eigenvalues: Option<[f64; 2]>,
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
        let otherwise = (Termination::Approximate, self.eigenvalues);
        certified(self.name, self.operator, (x, residuals), self.tolerance, otherwise)
    }
}
