//! How a command ends, and what that means to the shell.

use if_data::DataError;
use if_linalg::LinalgError;
use if_methods::MethodError;
use if_models::ModelError;

/// Everything is done and every solve converged.
pub const CLEAN: u8 = 0;
/// Something that is not the user's doing.
pub const OTHER: u8 = 1;
/// Bad input; nothing was written.
pub const INPUT: u8 = 2;
/// Results are written, but some of them carry a flag.
pub const FLAGGED: u8 = 3;
/// Stopped by Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// Why a command did not finish.
#[derive(Debug)]
pub enum Failure {
    /// The input cannot be used: one line that says where, what was expected, what was found, and
    /// perhaps one more that says what to do.
    Input(String, Option<String>),
    /// The memory of the GPU that `--device auto` chose was used up.
    #[cfg(feature = "cuda")]
    TooSmallGpu,
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-C in a run that can go on: the line that says so.
    Suspended(String),
    /// A full disk, a server that does not answer.
    Other(String),
}

impl Failure {
    /// Bad input.
    pub fn input(message: impl Into<String>) -> Self {
        Self::Input(message.into(), None)
    }

    /// The same with a line on what to do about it, where it is bad input.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        match self {
            Self::Input(message, None) => Self::Input(message, Some(hint.into())),
            other => other,
        }
    }

    /// An output that could be opened, but then not be written.
    pub fn output(error: DataError) -> Self {
        Self::Other(error.to_string())
    }

    /// For the shell.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Input(..) => INPUT,
            #[cfg(feature = "cuda")]
            Self::TooSmallGpu => INPUT,
            Self::Interrupted | Self::Suspended(_) => INTERRUPTED,
            Self::Other(_) => OTHER,
        }
    }

    /// The line for people.
    pub fn message(&self) -> &str {
        match self {
            Self::Input(message, _) | Self::Suspended(message) | Self::Other(message) => message,
            #[cfg(feature = "cuda")]
            Self::TooSmallGpu => "the GPU's memory is used up",
            Self::Interrupted => "interrupted; nothing was written",
        }
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Download { .. } => Self::Other(error.to_string()),
            _ => Self::input(error.to_string()),
        }
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        let failure = Self::input(error.to_string());
        match error {
            ModelError::LargeWeight { .. } => failure.hint("--precision f64 has room for it"),
            _ => failure,
        }
    }
}

impl From<LinalgError> for Failure {
    fn from(error: LinalgError) -> Self {
        Self::input(error.to_string())
    }
}

impl From<MethodError> for Failure {
    fn from(error: MethodError) -> Self {
        match error {
            MethodError::Cancelled => Self::Interrupted,
            other => Self::input(other.to_string()),
        }
    }
}
