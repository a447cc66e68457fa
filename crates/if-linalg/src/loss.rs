//! The losses a kernel can evaluate: `l(z, y)` of a row of outputs `z` and a target `y`.

use serde::{Deserialize, Serialize};

/// A loss of one example, natural logarithm, without regulariser.
///
/// `m = y z` is the margin; binary targets are -1 and +1, classes are 0, 1, 2, ...
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// `-ln softmax(z)_y`, class targets. Gradient `p - e_y`, Hessian `diag(p) - p p^T`.
    CrossEntropy,
    /// `ln(1 + exp(-m))`, one output, targets -1 and +1. `l' = -y sigma(-m)`, `l'' = sigma(m) sigma(-m)`.
    Logistic,
    /// `(z - y)^2 / 2`, one output and a real target; with several outputs the target is a class
    /// and `y` its one-hot row. `l'' = 1`.
    Squared,
    /// `max(0, 1 - m)`, one output. `l' = -y` where `m < 1`, else 0; `l'' = 0`.
    Hinge,
    /// `t ln(1 + exp((1 - m) / t))`, one output: Koh & Liang 2017, section 4.2. With
    /// `u = (1 - m) / t`: `l' = -y sigma(u)`, `l'' = sigma(u) sigma(-u) / t`. `t -> 0` is the hinge.
    SmoothHinge {
        /// The `t` of the formula, above 0.
        temperature: f64,
    },
}

impl Loss {
    /// Whether targets are -1 and +1.
    pub fn is_binary(self) -> bool {
        matches!(self, Self::Logistic | Self::Hinge | Self::SmoothHinge { .. })
    }

    /// Whether the loss is that of a probability for every output, whose Hessian is `diag(p) - p p^T`.
    pub fn has_probabilities(self) -> bool {
        self == Self::CrossEntropy
    }

    /// Value, first and second derivative in `z` of a loss with one output (not cross-entropy).
    pub fn scalar(self, z: f64, y: f64) -> [f64; 3] {
        match self {
            Self::CrossEntropy => unreachable!("cross-entropy couples its outputs"),
            Self::Logistic => {
                let m = y * z;
                [softplus(-m), -y * sigmoid(-m), sigmoid(m) * sigmoid(-m)]
            }
            Self::Squared => [0.5 * (z - y) * (z - y), z - y, 1.0],
            Self::Hinge => {
                let slack = 1.0 - y * z;
                if slack > 0.0 { [slack, -y, 0.0] } else { [0.0; 3] }
            }
            Self::SmoothHinge { temperature: t } => {
                let u = (1.0 - y * z) / t;
                [t * softplus(u), -y * sigmoid(u), sigmoid(u) * sigmoid(-u) / t]
            }
        }
    }
}

/// `1 / (1 + exp(-x))` without overflow.
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// `ln(1 + exp(x))` without overflow.
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}
