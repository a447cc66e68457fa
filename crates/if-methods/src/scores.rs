//! Score matrices: their unit, their sign, and how far each row can be trusted.

use if_linalg::{Real, SolveReport, number_or_nan};
use serde::{Deserialize, Serialize};

/// What a score measures. In every unit **positive means proponent**: an example that helps the
/// query, so that removing it raises the query's loss, or lowers the query's logit or margin.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "unit")]
pub enum ScoreUnit {
    /// `g_q^T (H + (l2 + damping) I)^-1 g_i`.
    LossChangeOnRemoval {
        /// A score times this is the predicted change of the query's loss when the example is
        /// removed: `1/n`, or `1/(n - 1)` where removal renormalises.
        factor: f64,
    },
    /// The same where the query's loss is [`Loss::Logit`](if_models::Loss::Logit) or
    /// [`Loss::Margin`](if_models::Loss::Margin), minus what is measured.
    MeasurementDropOnRemoval {
        /// A score times this is how much what is measured is predicted to fall when the example is
        /// removed: `1/n`, or `1/(n - 1)`.
        factor: f64,
    },
    /// `g_q^T g_i`: which examples pull the same way as the query. Says nothing about the size of any change.
    InnerProduct,
    /// How much steps on the example lowered the query's loss, summed over training: TracIn. Says nothing about removal.
    TrainingLossReduction,
}

/// What truncation did to a query, see [`Influence::with_query_rank`](crate::Influence::with_query_rank).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Truncation {
    /// The rank kept of every layer with parameters, in the order of the layout's segments; the smaller side of a
    /// layer that stayed whole.
    pub ranks: Vec<usize>,
    /// No score of the query is farther than this from that of the whole query, but for rounding.
    #[serde(deserialize_with = "number_or_nan")]
    pub bound: f64,
}

/// Scores of some consecutive queries against all training examples.
pub struct ScoreRows<'a, T> {
    /// Position of the first of these queries.
    pub first: usize,
    /// `queries x train`, row-major.
    pub scores: &'a [T],
    /// One certificate for each of these queries.
    pub report: &'a SolveReport,
    /// One entry for each of these queries, where queries are truncated.
    pub truncations: Option<&'a [Truncation]>,
}

/// A whole score matrix in memory, `queries x train`.
#[derive(Clone, Debug)]
pub struct Scores<T> {
    /// What the numbers measure.
    pub unit: ScoreUnit,
    /// Number of training examples.
    pub train: usize,
    /// Row-major, one row a query.
    pub scores: Vec<T>,
    /// One certificate for each query.
    pub report: SolveReport,
    /// One entry for each query, where queries are truncated.
    pub truncations: Option<Vec<Truncation>>,
}

impl<T: Real> Scores<T> {
    /// Number of queries.
    pub fn queries(&self) -> usize {
        self.report.columns.len()
    }

    /// Scores of query `q` against every training example.
    pub fn row(&self, q: usize) -> &[T] {
        &self.scores[q * self.train..(q + 1) * self.train]
    }

    /// Koh & Liang 2017, equation 2: `I_up,loss(z_i, z_q) = -g_q^T (H + ...)^-1 g_i`, the derivative
    /// of the query's loss in the weight of the example. It has the opposite sign of the score.
    pub fn up_loss(&self, q: usize, i: usize) -> f64 {
        -self.row(q)[i].to_f64()
    }

    /// Predicted change of the loss of query `q` when example `i` is removed; for a measurement, how
    /// much it is predicted to fall. `None` where scores are of a kind that predicts no removal.
    pub fn loss_change(&self, q: usize, i: usize) -> Option<f64> {
        match self.unit {
            ScoreUnit::LossChangeOnRemoval { factor } | ScoreUnit::MeasurementDropOnRemoval { factor } => {
                Some(factor * self.row(q)[i].to_f64())
            }
            ScoreUnit::InnerProduct | ScoreUnit::TrainingLossReduction => None,
        }
    }
}
