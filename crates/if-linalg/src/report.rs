//! What a solve reports: per right-hand side, how it ended and how far the answer can be trusted.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{Backend, Block, Real};

/// How the solve of one right-hand side ended.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Termination {
    /// The true relative residual, recomputed, is at most the tolerance.
    Converged,
    /// The solver gives an approximation and no more; the report says how far off it is.
    Approximate,
    /// The iteration limit came first.
    MaxIterations,
    /// A stochastic recursion of the depth that was asked for, averaged, is still above the tolerance.
    DepthReached,
    /// A direction `p` with `p^T A p / p^T p = curvature < 0`, clear of rounding: the operator is
    /// not positive definite, and the quadratic that is minimised has no minimum.
    NegativeCurvature {
        /// The Rayleigh quotient that was met.
        curvature: f64,
    },
    /// A direction whose curvature cannot be told from zero in this arithmetic: the operator is
    /// singular, or as good as singular.
    Singular,
    /// A NaN or an infinity in the right-hand side or in a product.
    NonFinite,
    /// The iterates grew without bound.
    Diverged,
    /// The true residual stopped falling above the tolerance: the floor of the arithmetic.
    Stagnated,
    /// The caller asked to stop.
    Cancelled,
}

impl Termination {
    /// How a solve ends that meets `curvature` (a Rayleigh quotient or an eigenvalue) where the largest is
    /// about `largest`; `None` where it is positive.
    pub(crate) fn of_curvature<T: Real>(curvature: f64, largest: f64) -> Option<Self> {
        // Below rounding of the largest, zero, positive and negative cannot be told apart.
        let rounding = T::EPSILON * largest.abs();
        if curvature > rounding {
            None
        } else if curvature < -rounding {
            Some(Self::NegativeCurvature { curvature })
        } else {
            Some(Self::Singular)
        }
    }

    /// Whether the solver did not do what it promises. An approximation is what its solver promises.
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Converged | Self::Approximate)
    }

    /// What to do about it; `None` when all is well.
    pub fn remedy(self) -> Option<String> {
        let remedy = match self {
            Self::Converged | Self::Approximate => return None,
            Self::MaxIterations => "raise --max-iterations, --damping or --tolerance",
            Self::NegativeCurvature { curvature } => {
                return Some(format!(
                    "raise --damping by more than {:.1e}, which this run saw and may not be enough (influence damping shows what is), or use --curvature gauss-newton",
                    curvature.abs()
                ));
            }
            Self::Singular => "raise --l2 or --damping",
            Self::NonFinite => "look for NaN or overflow in the weights, the features and --damping",
            Self::Diverged => "raise --damping, or --scale where it was given",
            Self::DepthReached => {
                "raise --depth (or --repeats and --batch, unless each step takes all examples), --damping or --tolerance, or lower --scale where it was given"
            }
            Self::Stagnated => "raise --tolerance, or use --precision f64 where it is not",
            Self::Cancelled => "run again",
        };
        Some(remedy.to_owned())
    }
}

impl fmt::Display for Termination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Converged => f.write_str("converged"),
            Self::Approximate => f.write_str("approximated"),
            Self::MaxIterations => f.write_str("stopped at the iteration limit"),
            Self::DepthReached => f.write_str("stopped at the depth limit"),
            Self::NegativeCurvature { curvature } => {
                write!(f, "stopped at negative curvature {curvature:.2e}")
            }
            Self::Singular => f.write_str("met a singular matrix"),
            Self::NonFinite => f.write_str("met a number that is not finite"),
            Self::Diverged => f.write_str("diverged"),
            Self::Stagnated => f.write_str("stalled above the tolerance"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

/// The certificate of one right-hand side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColumnReport {
    /// How it ended.
    pub termination: Termination,
    /// Iterations (0 for direct solvers).
    pub iterations: usize,
    /// Products with the operator, those that only check the residual included.
    pub products: usize,
    /// `|b - A x| / |b|`, recomputed with a product (0 for b = 0, NaN where not finite).
    #[serde(deserialize_with = "number_or_nan")]
    pub residual: f64,
    /// Smallest and largest eigenvalue seen from this right-hand side (Ritz values).
    pub eigenvalues: Option<[f64; 2]>,
}

impl ColumnReport {
    /// Whether it is an approximation that is farther from solving its system than no answer at all.
    fn leaves_more(&self) -> bool {
        self.termination == Termination::Approximate && self.residual > 1.0
    }
}

/// For serde's `deserialize_with`: JSON knows no NaN, and has null in its place.
///
/// # Errors
/// Neither a number nor null.
pub fn number_or_nan<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// The certificate of a block of right-hand sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SolveReport {
    /// Name of the solver, such as `cg`.
    pub solver: String,
    /// Relative residual that was asked for.
    pub tolerance: f64,
    /// Multiple of the identity in the solved system, l2 included.
    pub damping: f64,
    /// One entry for each right-hand side, in order.
    pub columns: Vec<ColumnReport>,
}

impl SolveReport {
    /// Whether every right-hand side converged.
    pub fn all_converged(&self) -> bool {
        self.columns.iter().all(|c| c.termination == Termination::Converged)
    }

    /// Whether an approximation is farther from solving its system than no answer at all.
    pub fn any_leaves_more(&self) -> bool {
        self.columns.iter().any(ColumnReport::leaves_more)
    }

    /// Whether the solver did for every right-hand side what it promises.
    pub fn none_failed(&self) -> bool {
        !self.columns.iter().any(|c| c.termination.is_failure())
    }

    /// The same with the right-hand sides of another block. A solver that chose other settings there is named too.
    pub fn extend(&mut self, block: Self) {
        if !self.solver.split("; ").any(|solver| solver == block.solver) {
            self.solver = format!("{}; {}", self.solver, block.solver);
        }
        self.columns.extend(block.columns);
    }

    /// Products summed over right-hand sides.
    pub fn products(&self) -> usize {
        self.columns.iter().map(|c| c.products).sum()
    }

    /// Largest true relative residual (NaN if any is).
    pub fn worst_residual(&self) -> f64 {
        self.columns.iter().map(|c| c.residual).fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a })
    }

    /// One line for people: how many converged or were approximated, and for each way to fail the worst case
    /// and what to do about it.
    pub fn summary(&self) -> String {
        let total = self.columns.len();
        let of = |termination| self.columns.iter().filter(move |c| c.termination == termination);
        let converged = of(Termination::Converged).count();
        let approximate = of(Termination::Approximate).count();
        let mut line = match approximate {
            0 if self.tolerance == 0.0 => format!("{total} right-hand sides as they are: nothing to solve"),
            0 => format!(
                "{converged} of {total} right-hand sides solved to {:.0e} by {}",
                self.tolerance, self.solver
            ),
            _ => format!(
                "{approximate} of {total} right-hand sides approximated by {}, {}",
                self.solver,
                self.residuals()
            ),
        };
        if approximate > 0 && converged > 0 {
            line += &format!("; {converged} solved to {:.0e}", self.tolerance);
        }
        let far = self.columns.iter().filter(|column| column.leaves_more()).count();
        if far > 0 {
            line += &format!(
                "; {far} with a residual above 1, where no answer at all would leave 1: ranks may hold, do not rely on sizes; raise --damping, or use --solver block-cg with the same --curvature"
            );
        }
        let mut rest: Vec<&ColumnReport> =
            self.columns.iter().filter(|c| c.termination.is_failure()).collect();
        while let Some(first) = rest.first() {
            let kind = std::mem::discriminant(&first.termination);
            let (same, other): (Vec<&ColumnReport>, Vec<&ColumnReport>) =
                rest.iter().partition(|c| std::mem::discriminant(&c.termination) == kind);
            let worst = worst(&same);
            line += &format!("; {} {}", same.len(), worst.termination);
            let residuals = same.iter().map(|column| column.residual).filter(|residual| residual.is_finite());
            if let Some(largest) = residuals.reduce(f64::max) {
                line += &format!(" (residual {largest:.1e})");
            }
            if let Some(remedy) = worst.termination.remedy() {
                line += &format!(": {remedy}");
            }
            rest = other;
        }
        line
    }

    /// `residuals .31 to .52` of what was approximated.
    fn residuals(&self) -> String {
        let approximate = self.columns.iter().filter(|c| c.termination == Termination::Approximate);
        let [low, high] = approximate
            .fold([f64::INFINITY, 0.0f64], |[low, high], c| [low.min(c.residual), high.max(c.residual)]);
        format!("true residuals {low:.2e} to {high:.2e}")
    }
}

/// The most negative curvature, else the largest residual.
fn worst<'a>(columns: &[&'a ColumnReport]) -> &'a ColumnReport {
    let key = |c: &ColumnReport| match c.termination {
        Termination::NegativeCurvature { curvature } => -curvature,
        _ => c.residual,
    };
    columns.iter().copied().max_by(|a, b| key(a).total_cmp(&key(b))).expect("at least one column")
}

/// Solutions with their certificate. A column that did not converge holds the last iterate, or NaN
/// where nothing finite is known.
#[must_use = "the report says which columns can be trusted"]
pub struct Solution<B: Backend> {
    /// One solution for each right-hand side.
    pub x: Block<B>,
    /// One certificate for each right-hand side.
    pub report: SolveReport,
}
