//! The Neumann series, summed with products of the full operator.
//!
//! `A^-1 = (1/s) sum_t (I - A/s)^t` for `0 < A < 2 s`, summed by Richardson's iteration:
//! `x <- x + (b - A x) / s` from `x = b / s`. The residual of the `t`-th sum is `(I - A/s)^t b`: at condition `c` a
//! digit takes up to `2.3 c` products, where conjugate gradients take about `1.2 sqrt(c)`. It is here as what
//! [`Lissa`](super::Lissa) estimates.
//!
//! Deviations:
//! 1. The scale `s`, where it is not given, is the largest Ritz value of a Lanczos run, which is far above the half of
//!    the largest eigenvalue that convergence asks for.
//! 2. The same run ends the solve at once where its smallest Ritz value is negative or cannot be told from zero: the
//!    series has no sum.
//! 3. The residual that a step adds is the true one, so it decides the end. It never grows while `A <= 2 s`, so growth
//!    ends a column as `Diverged`; where it no longer falls, rounding is all that is left, and it ends as `Stagnated`.

use super::columns::Columns;
use super::{Prepared, Solver, definite_spectrum, failed};
use crate::{Backend, Block, ColumnReport, LinalgError, LinearOperator, Observer, Solution, Termination};

/// The Neumann series. The products of the spectral estimate belong to the preparation and are in no column's count.
#[derive(Clone, Debug)]
pub struct Neumann {
    /// True relative residual to reach, `|b - A x| <= tolerance |b|`.
    pub tolerance: f64,
    /// Terms that are summed at most.
    pub max_iterations: usize,
    /// `s`, in units of the operator; `None`: the largest Ritz value.
    pub scale: Option<f64>,
}

/// A residual of this many times `b` has grown beyond rounding.
const GROWN: f64 = 2.0;
/// Iterations without a new smallest residual after which there will be none.
const PATIENCE: usize = 50;
/// Start of the Lanczos run.
const SEED: u64 = 0;

impl<B: Backend> Solver<B> for Neumann {
    fn name(&self) -> &'static str {
        "neumann"
    }

    fn prepare<'a>(
        &self,
        operator: &'a dyn LinearOperator<B>,
    ) -> Result<Box<dyn Prepared<B> + 'a>, LinalgError>
    where
        Self: 'a,
    {
        LinalgError::check("scale", self.scale.is_none_or(|scale| scale > 0.0))?;
        let spectrum = definite_spectrum(operator, SEED);
        Ok(Box::new(PreparedNeumann { settings: self.clone(), operator, spectrum }))
    }
}

struct PreparedNeumann<'a, B: Backend> {
    settings: Neumann,
    operator: &'a dyn LinearOperator<B>,
    /// Extreme Ritz values, or why there is nothing to sum.
    spectrum: Result<[f64; 2], Termination>,
}

impl<B: Backend> Prepared<B> for PreparedNeumann<'_, B> {
    fn solve(&self, b: &Block<B>, observer: &dyn Observer) -> Solution<B> {
        let Neumann { tolerance, max_iterations, scale } = self.settings;
        let [low, high] = match self.spectrum {
            Ok(extremes) => extremes,
            Err(termination) => return failed("neumann", self.operator, b, termination, tolerance),
        };
        let scale = scale.unwrap_or(high);
        let mut columns = Columns::new(self.operator, b);
        let mut x = columns.b();
        let unscaled = x.clone();
        x.axpby(1.0 / scale, &unscaled, 0.0);
        let mut lowest = vec![(f64::INFINITY, 0); columns.k()];
        let mut iteration = 0;
        while columns.k() > 0 {
            iteration += 1;
            let cancelled = observer.cancelled();
            let (residuals, relative) = columns.residuals(&x);
            let ends = relative.iter().zip(&mut lowest).map(|(&residual, lowest)| {
                if residual < lowest.0 {
                    *lowest = (residual, iteration);
                }
                let stalled = iteration - lowest.1 >= PATIENCE;
                let limit = iteration >= max_iterations;
                judge(residual, tolerance, [cancelled, stalled, limit]).map(|end| (end, residual))
            });
            let stay = columns.end(&x, ends.collect(), |_, (termination, residual)| ColumnReport {
                termination,
                iterations: iteration,
                products: iteration,
                residual,
                eigenvalues: Some([low, high]),
            });
            if stay.len() < x.k() {
                x = x.select(&stay);
                lowest = stay.iter().map(|&row| lowest[row]).collect();
                x.axpby(1.0 / scale, &residuals.select(&stay), 1.0);
            } else {
                x.axpby(1.0 / scale, &residuals, 1.0);
            }
            observer.progress("Neumann series", b.k() - columns.k(), b.k());
        }
        columns.finish("neumann".into(), tolerance)
    }
}

/// How a column ends at a true relative residual; `None`: it goes on.
fn judge(residual: f64, tolerance: f64, [cancelled, stalled, limit]: [bool; 3]) -> Option<Termination> {
    match residual {
        r if !r.is_finite() => Some(Termination::Diverged),
        r if r <= tolerance => Some(Termination::Converged),
        r if r > GROWN => Some(Termination::Diverged),
        _ if cancelled => Some(Termination::Cancelled),
        _ if stalled => Some(Termination::Stagnated),
        _ if limit => Some(Termination::MaxIterations),
        _ => None,
    }
}
