//! A few more steps of training on chosen examples: what FastIF does with influence. Guo, Rajani, Hase, Bansal & Xiong
//! 2021, on simulatability and on correcting errors.
//!
//! ```text
//! theta_0 = theta        theta_(s+1) = theta_s - eta [ (1/|S|) sum_{i in S} grad l_i(theta_s) + l2 theta_s ]
//! ```
//!
//! To first order in `eta`, one step changes the loss of a query by
//! `-eta (1/|S|) sum_{i in S} g_q . (grad l_i + l2 theta)`: steps on its proponents lower it, steps on its opponents
//! raise it.
//!
//! Deviations:
//! 1. All steps are taken on all chosen examples, by plain descent.

use if_linalg::{Backend, Block};
use if_models::{EmpiricalRisk, ModelError};
use serde::{Deserialize, Serialize};

use crate::MethodError;

/// How far to go on the chosen examples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FineTuning {
    /// `eta`.
    pub learning_rate: f64,
    /// Number of steps.
    pub steps: usize,
}

impl FineTuning {
    /// The parameters after the steps on `examples` (positions in `risk`; one that is named twice counts twice), from
    /// `theta` on. `risk` may be of other examples than `theta` was trained on; only its l2 and losses matter.
    ///
    /// # Errors
    /// A learning rate that is not above 0, no examples or one that there is not, or a loss that is not finite.
    pub fn run<B: Backend>(
        &self,
        risk: &EmpiricalRisk<B>,
        theta: &Block<B>,
        examples: &[usize],
    ) -> Result<Block<B>, MethodError> {
        self.validate(risk.n(), examples)?;
        let mut tuned = theta.clone();
        for step in 1..=self.steps {
            let (losses, gradient) = risk.batch_gradient(&tuned, examples);
            if let Some(bad) = losses.iter().position(|loss| !loss.is_finite()) {
                return Err(ModelError::Diverged { example: examples[bad], step }.into());
            }
            tuned.axpby(-self.learning_rate, &gradient, 1.0);
        }
        Ok(tuned)
    }

    fn validate(&self, n: usize, examples: &[usize]) -> Result<(), MethodError> {
        let setting = |name, expected, found| Err(MethodError::Setting { name, expected, found });
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return setting("learning rate", "a number above 0".into(), self.learning_rate.to_string());
        }
        if examples.is_empty() {
            return setting("examples", "at least one".into(), "none".into());
        }
        match examples.iter().find(|&&i| i >= n) {
            Some(i) => setting("examples", format!("positions below {n}"), i.to_string()),
            None => Ok(()),
        }
    }
}
