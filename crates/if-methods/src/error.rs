//! What can be wrong before a method starts.

use if_linalg::{LinalgError, Observer};
use if_models::ModelError;
use thiserror::Error;

/// One line that says what was expected and what was found.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum MethodError {
    /// Data or weights do not fit the model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The solver could not be prepared.
    #[error(transparent)]
    Linalg(#[from] LinalgError),
    /// No product with the curvature is finite.
    #[error(
        "the curvature is not finite at these parameters: look for NaN or overflow in weights and features"
    )]
    NotFinite,
    /// A group that cannot be removed.
    #[error("group {group}: {problem}")]
    Group {
        /// Its position, from 0.
        group: usize,
        /// What was expected and found.
        problem: String,
    },
    /// Nothing to remove.
    #[error("expected at least one group, found none")]
    NoGroups,
    /// A method that is defined for another matrix.
    #[error("{method}: expected the curvature {expected}, found {found}")]
    Curvature {
        /// What was asked for.
        method: &'static str,
        /// What it takes.
        expected: &'static str,
        /// What was given.
        found: &'static str,
    },
    /// A setting out of range.
    #[error("{name}: expected {expected}, found {found}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// What is allowed.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A step on the way that was not solved.
    #[error("{0}")]
    Unsolved(String),
    /// The two stages of training do not fit together.
    #[error("{0}")]
    Stages(String),
    /// The graph of neighbours could not be built or searched.
    #[cfg(feature = "usearch")]
    #[error("the index of neighbours: {0}")]
    Index(String),
    /// The observer asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// Tells the observer how far `stage` came, and whether it asks to stop.
pub(crate) fn observed(
    observer: &dyn Observer,
    stage: &str,
    done: usize,
    total: usize,
) -> Result<(), MethodError> {
    observer.progress(stage, done, total);
    if observer.cancelled() { Err(MethodError::Cancelled) } else { Ok(()) }
}
