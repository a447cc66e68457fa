//! The losses a kernel can evaluate: `l(z, y)` of a row of outputs `z` and a target `y`.

use serde::{Deserialize, Serialize};

/// A loss of one example, natural logarithm, without regulariser.
///
/// `m = y z` is the margin; binary targets are -1 and +1, classes are 0, 1, 2, ... Of `C` outputs,
/// `p = softmax(z)`, and `e_y` is the one-hot row of the target.
///
/// [`Logit`](Self::Logit) and [`Margin`](Self::Margin) are measurements of a query, not training
/// losses. They are the negatives of what is measured, so that a positive score keeps its meaning,
/// proponent: where a loss of this kind is predicted to rise by some amount, what is measured is
/// predicted to fall by it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// `-ln p_y`, class targets. Gradient `p - e_y`, Hessian `diag(p) - p p^T`.
    CrossEntropy,
    /// `-sum_c t_c ln p_c` with `t = (1 - s) e_y + s / C`, class targets: Szegedy et al. 2016, and
    /// PyTorch's `CrossEntropyLoss(label_smoothing=s)`. Gradient `p - t`, Hessian `diag(p) - p p^T`.
    LabelSmoothing {
        /// The `s` of the formula, at least 0 and below 1.
        smoothing: f64,
    },
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
    /// Minus the output of the target, `-z_y`, class targets; with one output `-m`, targets -1 and
    /// +1. Gradient `-e_y`, Hessian 0.
    Logit,
    /// Minus the log-odds of the target, `ln sum_{c != y} exp z_c - z_y = -ln(p_y / (1 - p_y))`, class
    /// targets. With `q` the softmax over the other classes (`q_y = 0`): gradient `q - e_y`, Hessian
    /// `diag(q) - q q^T`. With one output `-m`, as [`Logit`](Self::Logit).
    Margin,
}

/// What the target of an example is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The index of an output.
    Class,
    /// -1 or +1.
    Sign,
    /// Any number.
    Real,
}

impl Loss {
    /// Whether targets are -1 and +1 and there is one output, always.
    pub fn is_binary(self) -> bool {
        matches!(self, Self::Logistic | Self::Hinge | Self::SmoothHinge { .. })
    }

    /// Whether the outputs are trained to be logarithms of probabilities, up to a constant.
    pub fn is_softmax(self) -> bool {
        matches!(self, Self::CrossEntropy | Self::LabelSmoothing { .. })
    }

    /// Whether this is a measurement, see [`Loss`].
    pub fn is_measurement(self) -> bool {
        matches!(self, Self::Logit | Self::Margin)
    }

    /// What targets are, of a network with `outputs` outputs.
    pub fn target(self, outputs: usize) -> Target {
        match self {
            Self::CrossEntropy | Self::LabelSmoothing { .. } => Target::Class,
            Self::Logistic | Self::Hinge | Self::SmoothHinge { .. } => Target::Sign,
            Self::Squared if outputs == 1 => Target::Real,
            Self::Logit | Self::Margin if outputs == 1 => Target::Sign,
            Self::Squared | Self::Logit | Self::Margin => Target::Class,
        }
    }

    /// Whether the Hessian in the outputs is `diag(c) - c c^T`, with `c` what the kernel gives as
    /// curvature; else it is `diag(c)`.
    pub fn couples_outputs(self) -> bool {
        self.is_softmax() || self == Self::Margin
    }

    /// Value, first and second derivative in `z` of a loss with one output.
    pub fn scalar(self, z: f64, y: f64) -> [f64; 3] {
        match self {
            // The only class has probability 1.
            Self::CrossEntropy | Self::LabelSmoothing { .. } => [0.0; 3],
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
            Self::Logit | Self::Margin => [-y * z, -y, 0.0],
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
