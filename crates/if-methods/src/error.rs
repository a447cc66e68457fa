//! What can be wrong before a method starts.

use if_linalg::LinalgError;
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
    /// The observer asked to stop.
    #[error("cancelled")]
    Cancelled,
}
