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
    /// The observer asked to stop.
    #[error("cancelled")]
    Cancelled,
}
