//! How a gradient becomes a step, and how large it is.

use if_linalg::{Adam, Backend, Block};
use serde::{Deserialize, Serialize};

use super::TrainState;
use crate::ModelError;

/// The two optimisers, as PyTorch defines them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// `u = momentum u + g`, `theta -= rate u`.
    Sgd {
        /// 0 for plain descent.
        momentum: f64,
    },
    /// Kingma & Ba 2015: `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
    /// `theta -= rate (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)`.
    Adam {
        /// Decay of the mean.
        beta1: f64,
        /// Decay of the mean square.
        beta2: f64,
        /// Keeps the step finite where gradients vanish.
        epsilon: f64,
    },
}

/// What becomes of the learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Nothing.
    Constant,
    /// Half a cosine from the whole rate to 0.
    Cosine,
    /// Multiplied by `factor` after every `epochs` epochs.
    Step {
        /// Epochs between changes.
        epochs: usize,
        /// Of each change.
        factor: f64,
    },
}

impl Optimizer {
    /// Adam with the usual constants.
    pub fn adam() -> Self {
        Self::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }

    /// Vectors it remembers between steps.
    pub fn memories(&self) -> usize {
        match self {
            Self::Sgd { momentum: 0.0 } => 0,
            Self::Sgd { .. } => 1,
            Self::Adam { .. } => 2,
        }
    }

    pub(super) fn validate(&self) -> Result<(), ModelError> {
        let in_range = |name, found: f64| match (0.0..1.0).contains(&found) {
            true => Ok(()),
            false => Err(ModelError::Setting { name, expected: "at least 0 and below 1", found }),
        };
        match *self {
            Self::Sgd { momentum } => in_range("momentum", momentum),
            Self::Adam { beta1, beta2, epsilon } => {
                in_range("beta1", beta1)?;
                in_range("beta2", beta2)?;
                if epsilon > 0.0 && epsilon.is_finite() {
                    return Ok(());
                }
                Err(ModelError::Setting { name: "epsilon", expected: "a number above 0", found: epsilon })
            }
        }
    }

    /// Moves `state.theta`; `state.step` already counts this step.
    pub(super) fn step<B: Backend>(&self, state: &mut TrainState<B>, gradient: &Block<B>, rate: f64) {
        let TrainState { step, theta, memory } = state;
        match *self {
            Self::Sgd { momentum: 0.0 } => theta.axpby(-rate, gradient, 1.0),
            Self::Sgd { momentum } => {
                memory[0].axpby(1.0, gradient, momentum);
                theta.axpby(-rate, &memory[0], 1.0);
            }
            Self::Adam { beta1, beta2, epsilon } => {
                let t = *step as f64;
                let adam = Adam {
                    beta1,
                    beta2,
                    // rate m / (1 - b1^t) / (sqrt(v) / sqrt(1 - b2^t) + eps)
                    rate: rate * (1.0 - beta2.powf(t)).sqrt() / (1.0 - beta1.powf(t)),
                    epsilon: epsilon * (1.0 - beta2.powf(t)).sqrt(),
                };
                let [mean, square] = &mut memory[..] else { unreachable!("Adam remembers two vectors") };
                Block::adam_update(&adam, gradient, mean, square, theta);
            }
        }
    }
}

impl Schedule {
    /// Factor on the learning rate of step `step` (from 0) of `steps`.
    pub(super) fn factor(self, step: usize, steps: usize, per_epoch: usize) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / steps as f64).cos()),
            Self::Step { epochs, factor } => factor.powi((step / per_epoch / epochs.max(1)) as i32),
        }
    }
}
