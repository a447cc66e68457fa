//! Training by minibatches: stochastic gradient descent and Adam.
//!
//! The objective is that of [`EmpiricalRisk`], so weight decay is its l2: a step goes along
//! `(1/b) sum_batch grad l_i + l2 theta`. Which examples are in which step follows from the seed alone
//! ([`Training::batch`]), so a run can be replayed, and resumed from any state with the same bits.
//!
//! Networks are trained as they are attributed: dropout is the identity, batch normalisation has frozen
//! statistics.

mod initial;
mod optimizer;

pub use optimizer::{Optimizer, Schedule};

use if_linalg::{Backend, Block, Observer};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{EmpiricalRisk, ModelError, Network};

/// How to train.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// How a gradient becomes a step.
    pub optimizer: Optimizer,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// What becomes of it over the steps.
    pub schedule: Schedule,
    /// Passes over the examples.
    pub epochs: usize,
    /// Examples in a step; the last of an epoch may have fewer.
    pub batch: usize,
    /// Of the initial parameters and the order of the examples.
    pub seed: u64,
}

/// Where a run stands: all that its next step depends on, beside [`Training`] and the data.
pub struct TrainState<B: Backend> {
    /// Steps taken.
    pub step: usize,
    /// The parameters.
    pub theta: Block<B>,
    /// What the optimiser remembers: as many vectors as [`Optimizer::memories`].
    pub memory: Vec<Block<B>>,
}

/// What a step saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Steps taken, this one included.
    pub step: usize,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Mean loss of its examples before the step, without regulariser.
    pub loss: f64,
}

impl Training {
    /// Checks ranges.
    ///
    /// # Errors
    /// The first setting out of its range.
    pub fn validate(self) -> Result<Self, ModelError> {
        let out_of_range = |name, expected, found| Err(ModelError::Setting { name, expected, found });
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return out_of_range("learning rate", "a number above 0", self.learning_rate);
        }
        if self.epochs == 0 || self.batch == 0 {
            return out_of_range("epochs and batch", "at least 1", 0.0);
        }
        self.optimizer.validate()?;
        Ok(self)
    }

    /// Steps in a pass over `n` examples.
    pub fn steps_per_epoch(&self, n: usize) -> usize {
        n.div_ceil(self.batch)
    }

    /// Steps of the whole run.
    pub fn steps(&self, n: usize) -> usize {
        self.epochs * self.steps_per_epoch(n)
    }

    /// The examples (of `n`) that step `step` is taken on, counted from 0: a part of an order that
    /// follows from seed and epoch.
    pub fn batch(&self, n: usize, step: usize) -> Vec<usize> {
        self.part(&self.order(n, step / self.steps_per_epoch(n)), step).to_vec()
    }

    /// The part of its epoch's `order` that step `step` is taken on.
    fn part<'o>(&self, order: &'o [usize], step: usize) -> &'o [usize] {
        let n = order.len();
        let part = step % self.steps_per_epoch(n);
        &order[part * self.batch..n.min((part + 1) * self.batch)]
    }

    fn order(&self, n: usize, epoch: usize) -> Vec<usize> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        // Stream 0 is that of the initial parameters.
        rng.set_stream(1 + epoch as u64);
        let mut order: Vec<usize> = (0..n).collect();
        order.shuffle(&mut rng);
        order
    }

    /// Learning rate of step `step`, counted from 0.
    pub fn learning_rate_at(&self, n: usize, step: usize) -> f64 {
        self.learning_rate * self.schedule.factor(step, self.steps(n), self.steps_per_epoch(n))
    }

    /// The state before the first step, at [`Network::initial`].
    pub fn start<B: Backend>(&self, network: &Network<B>) -> TrainState<B> {
        let theta = network.initial(self.seed);
        let zeros = || Block::zeros(network.backend(), network.layout(), 1);
        let memory = (0..self.optimizer.memories()).map(|_| zeros()).collect();
        TrainState { step: 0, theta, memory }
    }

    /// Takes the steps that are left after `state.step`; `each` sees the state after every step. Ends
    /// early where the observer asks to stop or `each` returns an error.
    ///
    /// # Errors
    /// The first error of `each`, or a loss that is not finite, with the example that has it.
    pub fn run<B: Backend, E: From<ModelError>>(
        &self,
        risk: &EmpiricalRisk<B>,
        state: &mut TrainState<B>,
        observer: &dyn Observer,
        mut each: impl FnMut(&TrainState<B>, StepReport) -> Result<(), E>,
    ) -> Result<(), E> {
        let n = risk.n();
        let (steps, per_epoch) = (self.steps(n), self.steps_per_epoch(n));
        let mut order = (usize::MAX, Vec::new());
        while state.step < steps && !observer.cancelled() {
            let epoch = state.step / per_epoch;
            if order.0 != epoch {
                order = (epoch, self.order(n, epoch));
            }
            let batch = self.part(&order.1, state.step);
            let (losses, gradient) = risk.batch_gradient(&state.theta, batch);
            if let Some(bad) = losses.iter().position(|loss| !loss.is_finite()) {
                return Err(ModelError::Diverged { example: batch[bad], step: state.step + 1 }.into());
            }
            let learning_rate = self.learning_rate_at(n, state.step);
            state.step += 1;
            self.optimizer.step(state, &gradient, learning_rate);
            let loss = losses.iter().sum::<f64>() / losses.len() as f64;
            each(state, StepReport { step: state.step, learning_rate, loss })?;
            observer.progress("training", state.step, steps);
        }
        Ok(())
    }
}
