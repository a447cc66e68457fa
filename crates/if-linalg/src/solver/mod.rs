//! Solvers of `A x = b`, one file each. All report per column and verify the true residual.

mod approximate;
mod arnoldi;
mod block_cg;
mod cg;
mod cholesky;
mod columns;
mod dual;
mod eigen;
mod kronecker;
mod layer_blocks;
mod lissa;
mod low_rank;
mod nearby;
mod neumann;
mod nystroem;
mod orthonormal;
mod quotients;

pub use approximate::Approximate;
pub use arnoldi::Arnoldi;
pub use block_cg::BlockCg;
pub use cg::{Cg, PreconditionedCg};
pub use cholesky::Cholesky;
pub use dual::{CurvatureRoot, Dual};
pub use eigen::Eigen;
pub use kronecker::{Kronecker, KroneckerFactors};
pub use layer_blocks::LayerBlocks;
pub use lissa::{Lissa, PublishedLissa};
pub use low_rank::{Complement, LowRankFactors, LowRankInverse};
pub use nearby::{Nearby, NearbyCg};
pub use neumann::Neumann;
pub use nystroem::Nystroem;

use crate::{
    Backend, Block, ColumnReport, Definiteness, LinalgError, LinearOperator, Observer, Real, Solution,
    SolveReport, Termination, lanczos_extremes,
};

/// A way to solve `A x = b` for many `b`.
pub trait Solver<B: Backend>: Send + Sync {
    /// Name in reports and on the command line.
    fn name(&self) -> &'static str;

    /// Pays once for what depends only on the operator, such as a factorisation.
    ///
    /// # Errors
    /// When the preparation is impossible, such as a matrix larger than the memory budget.
    fn prepare<'a>(
        &self,
        operator: &'a dyn LinearOperator<B>,
    ) -> Result<Box<dyn Prepared<B> + 'a>, LinalgError>
    where
        Self: 'a;
}

/// A solver bound to an operator.
pub trait Prepared<B: Backend>: Sync {
    /// Solves for every vector of `b`. Never fails as a whole: each column has its certificate.
    fn solve(&self, b: &Block<B>, observer: &dyn Observer) -> Solution<B>;
}

/// `|b - A x| / |b|` for every vector (0 where b = 0), and the residual vectors themselves.
pub(crate) fn true_residuals<B: Backend>(
    operator: &dyn LinearOperator<B>,
    b: &Block<B>,
    x: &Block<B>,
) -> (Block<B>, Vec<f64>) {
    let mut r = Block::zeros(b.backend(), b.layout(), b.k());
    operator.apply(x, &mut r);
    r.axpby(1.0, b, -1.0);
    let relative = r.norms().iter().zip(b.norms()).map(|(r, b)| if b == 0.0 { *r } else { r / b }).collect();
    (r, relative)
}

/// Products of a [`definite_spectrum`].
const SPECTRUM_STEPS: usize = 24;

/// Extreme Ritz values, for reports; `None` where a product is not finite.
pub(crate) fn spectrum<B: Backend>(operator: &dyn LinearOperator<B>) -> Option<[f64; 2]> {
    let extremes = lanczos_extremes(operator, SPECTRUM_STEPS, 0);
    extremes.iter().all(|value| value.is_finite()).then_some(extremes)
}

/// Extreme Ritz values of an operator with which `x += (b - A x) / s` can converge, or why it cannot.
pub(crate) fn definite_spectrum<B: Backend>(
    operator: &dyn LinearOperator<B>,
    seed: u64,
) -> Result<[f64; 2], Termination> {
    let [low, high] = lanczos_extremes(operator, SPECTRUM_STEPS, seed);
    if !(low.is_finite() && high.is_finite()) {
        return Err(Termination::NonFinite);
    }
    // Every product of the run has its rounding.
    let largest = SPECTRUM_STEPS as f64 * high.abs().max(low.abs());
    Termination::of_curvature::<B::Elem>(low, largest).map_or(Ok([low, high]), Err)
}

/// The recursive residual aims a little below the tolerance, so that rounding does not make the
/// true one fail the check.
const SAFETY: f64 = 0.9;
/// A restart must reduce the true residual at least by this factor to be worth another one.
const WORTHWHILE: f64 = 0.5;

/// How an iteration ends at a recursive relative residual; `None`: it goes on. `Converged` only proposes,
/// see [`verdict`].
pub(crate) fn proposal<T: Real>(
    relative: f64,
    tolerance: f64,
    (iterations, most): (usize, usize),
) -> Option<Termination> {
    if !relative.is_finite() {
        Some(Termination::NonFinite)
    } else if relative <= SAFETY * tolerance {
        Some(Termination::Converged)
    } else if relative > 1.0 / T::EPSILON.sqrt() {
        Some(Termination::Diverged)
    } else if iterations >= most {
        Some(Termination::MaxIterations)
    } else {
        None
    }
}

/// How a column ends for which `proposed` was said, given its true relative residual; `None`: it starts
/// again from that residual. `restart` is the largest true residual of what started together, now and when
/// it last did.
pub(crate) fn verdict(
    proposed: Termination,
    residual: f64,
    tolerance: f64,
    restart: [f64; 2],
    (iterations, most): (usize, usize),
) -> Option<Termination> {
    if !residual.is_finite() {
        Some(Termination::NonFinite)
    } else if residual <= tolerance {
        Some(Termination::Converged)
    } else if proposed != Termination::Converged {
        Some(proposed)
    } else if restart[0] > WORTHWHILE * restart[1] {
        Some(Termination::Stagnated)
    } else if iterations >= most {
        Some(Termination::MaxIterations)
    } else {
        None
    }
}

/// Whether `copies` explicit `dim x dim` matrices fit the budget.
pub(crate) fn fits(dim: usize, copies: usize, budget: usize) -> Result<(), LinalgError> {
    let needed = dim.saturating_mul(dim).saturating_mul(copies * size_of::<f64>());
    if needed > budget { Err(LinalgError::TooLarge { dim, needed, budget }) } else { Ok(()) }
}

/// `x` with its certificate, from its [`true_residuals`]. A column above the tolerance ends as `otherwise`;
/// `eigenvalues` are the extreme ones that are known of the operator.
pub(crate) fn certified<B: Backend>(
    solver: &str,
    operator: &dyn LinearOperator<B>,
    (mut x, residuals): (Block<B>, Vec<f64>),
    tolerance: f64,
    (otherwise, eigenvalues): (Termination, Option<[f64; 2]>),
) -> Solution<B> {
    let report = |residual: f64| {
        let termination = match residual {
            r if !r.is_finite() => Termination::NonFinite,
            r if r <= tolerance => Termination::Converged,
            _ => otherwise,
        };
        ColumnReport { termination, iterations: 0, products: 1, residual, eigenvalues }
    };
    let columns: Vec<ColumnReport> = residuals.into_iter().map(report).collect();
    mark_non_finite(&mut x, &columns);
    let report = SolveReport { solver: solver.into(), tolerance, damping: operator.damping(), columns };
    Solution { x, report }
}

/// What is returned where the operator forbids any solution: NaN, and for every column the reason.
pub(crate) fn failed<B: Backend>(
    solver: &str,
    operator: &dyn LinearOperator<B>,
    b: &Block<B>,
    termination: Termination,
    tolerance: f64,
) -> Solution<B> {
    let mut x = Block::zeros(b.backend(), b.layout(), b.k());
    (0..b.k()).for_each(|i| x.fill_row(i, f64::NAN));
    let termination = match termination {
        // An operator that promises to have none: what looks negative is rounding.
        Termination::NegativeCurvature { .. } if operator.definiteness() != Definiteness::Unknown => {
            Termination::Singular
        }
        other => other,
    };
    let column =
        ColumnReport { termination, iterations: 0, products: 0, residual: f64::NAN, eigenvalues: None };
    let columns = vec![column; b.k()];
    let report = SolveReport { solver: solver.into(), tolerance, damping: operator.damping(), columns };
    Solution { x, report }
}

/// Columns of which nothing finite is known hold NaN.
pub(crate) fn mark_non_finite<B: Backend>(x: &mut Block<B>, columns: &[ColumnReport]) {
    for (i, column) in columns.iter().enumerate() {
        if column.termination == Termination::NonFinite {
            x.fill_row(i, f64::NAN);
        }
    }
}
