//! What can be wrong before any arithmetic starts.

use thiserror::Error;

use crate::Bytes;

/// Why a solver could not be prepared.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum LinalgError {
    /// The explicit matrix does not fit the budget.
    #[error(
        "the explicit {dim} x {dim} matrix needs {} and the memory budget is {}: raise --memory-budget or use --solver cg",
        Bytes(*needed),
        Bytes(*budget)
    )]
    TooLarge {
        /// Order of the matrix.
        dim: usize,
        /// Bytes it takes.
        needed: usize,
        /// Bytes allowed.
        budget: usize,
    },
    /// The explicit diagonal blocks do not fit the budget.
    #[error(
        "the explicit blocks of the layers, the largest {largest} x {largest}, need {} and the memory budget is {}: raise --memory-budget or use --solver cg",
        Bytes(*needed),
        Bytes(*budget)
    )]
    BlocksTooLarge {
        /// Order of the largest block.
        largest: usize,
        /// Bytes all of them take.
        needed: usize,
        /// Bytes allowed.
        budget: usize,
    },
    /// A setting of the solver that must be above 0 is not.
    #[error("{0} must be above 0")]
    NotPositive(&'static str),
}

impl LinalgError {
    /// An error that names `setting`, unless it is `positive`.
    pub(crate) fn check(setting: &'static str, positive: bool) -> Result<(), Self> {
        if positive { Ok(()) } else { Err(Self::NotPositive(setting)) }
    }
}
