//! Errors of a model corrected by steps on the training examples that are most helpful for them. Guo, Rajani, Hase,
//! Bansal & Xiong 2021. One round, from `theta` on:
//!
//! ```text
//! A = queries that theta gets wrong, some of them drawn: the anchors
//! C = the training examples nearest to the mean feature of A, or all
//! h(i) = sum_{a in A} g_a^T (H + (l2 + damping) I)^-1 g_i            helpfulness of i in C, everything at theta
//! S = the first of C by h, from above (helpful) or, as a control, from below (harmful); or drawn (random)
//! theta <- steps on S                                                FineTuning
//! ```
//!
//! Deviations:
//! 1. Helpfulness is a sum over anchors, so that their solutions are added before training examples are scored.
//! 2. Steps are those of [`FineTuning`]: plain descent on all of `S`.

use if_linalg::{Backend, Block, Observer, Real, SolveReport};
use if_models::{EmpiricalRisk, Inputs, Rows};
use serde::{Deserialize, Serialize};

use crate::{FineTuning, Influence, MethodError, descending, nearest, random_order};

/// How large a round of correction is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    /// Errors in a round, at most.
    pub anchors: usize,
    /// Training examples that steps are taken on, at most.
    pub examples: usize,
    /// The steps.
    pub tuning: FineTuning,
}

/// Which end of the helpfulness is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pull {
    /// Steps on these lower the losses of the anchors.
    Helpful,
    /// Steps on these raise them.
    Harmful,
}

impl Correction {
    /// Positions of the anchors of a round: those of a random order of the queries that are `wrong`.
    pub fn anchors(&self, wrong: &[bool], seed: u64) -> Vec<usize> {
        random_order(wrong.len(), seed).into_iter().filter(|&q| wrong[q]).take(self.anchors).collect()
    }

    /// The examples that steps are taken on: the first of `order`.
    pub fn chosen<'o>(&self, order: &'o [usize]) -> &'o [usize] {
        &order[..order.len().min(self.examples)]
    }

    /// The parameters after the round, from `theta` on.
    ///
    /// # Errors
    /// As [`FineTuning::run`].
    pub fn step<B: Backend>(
        &self,
        risk: &EmpiricalRisk<B>,
        theta: &Block<B>,
        order: &[usize],
    ) -> Result<Block<B>, MethodError> {
        self.tuning.run(risk, theta, self.chosen(order))
    }
}

/// The `count` rows of `train` that lie nearest to the mean of `anchors`, nearest first, as [`nearest`] finds them.
///
/// # Errors
/// As [`nearest`].
pub fn nearest_to_mean<B: Backend>(
    train: &Block<B>,
    anchors: &Block<B>,
    count: usize,
) -> Result<Vec<usize>, MethodError> {
    let mut mean = Block::zeros(anchors.backend(), anchors.layout(), 1);
    mean.combine(&vec![1.0 / anchors.k() as f64; anchors.k()], anchors, 0.0);
    Ok(nearest(train, &mean, count)?.remove(0))
}

impl<B: Backend> Influence<'_, B> {
    /// `candidates` (positions of training examples) by their helpfulness for `anchors`, the strongest of that pull first;
    /// ties by their place in `candidates`. Returns the certificates of the anchors too; one of which nothing finite is
    /// known counts for nothing.
    ///
    /// # Errors
    /// No anchor of which anything finite is known, or [`MethodError::Cancelled`] where the observer asks to stop.
    pub fn by_helpfulness(
        &self,
        anchors: &Inputs<B>,
        candidates: &[usize],
        pull: Pull,
        observer: &dyn Observer,
    ) -> Result<(Vec<usize>, SolveReport), MethodError> {
        let network = self.risk.network();
        let mut sum = Block::zeros(network.backend(), network.layout(), 1);
        let mut known = 0;
        let measured = network.with_loss(self.measure);
        let report =
            self.each_block::<MethodError>(&measured, anchors, "anchors", observer, |_, _, solution| {
                let norms = solution.x.norms();
                let finite: Vec<usize> = (0..norms.len()).filter(|&a| norms[a].is_finite()).collect();
                sum.combine(&vec![1.0; finite.len()], &solution.x.select(&finite), 1.0);
                known += finite.len();
                Ok(())
            })?;
        if known == 0 {
            return Err(MethodError::Unsolved(report.summary()));
        }
        let sign = if pull == Pull::Helpful { 1.0 } else { -1.0 };
        let scores = network.scores_at(self.risk.inputs(), self.theta, Rows::Indices(candidates), &sum);
        // Whatever removal means, what l2 adds to a score is the same for all.
        let pulls: Vec<f64> = scores.iter().map(|score| sign * score.to_f64()).collect();
        Ok((descending(&pulls).into_iter().map(|at| candidates[at]).collect(), report))
    }
}
