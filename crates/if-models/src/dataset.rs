//! Examples in host memory.

use if_linalg::{HostArray, Loss, Target};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::ModelError;

/// Examples `z_i = (x_i, y_i)`: features of any shape in their stored type, one label each, and an
/// id that survives slicing and shuffling.
///
/// Labels are numbers: class indices 0, 1, 2, ..., binary {0, 1} or {-1, +1}, or real targets. What
/// they mean is decided by the loss, in [`targets`](Self::targets).
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    features: HostArray,
    labels: Vec<f64>,
    ids: Vec<usize>,
}

impl Dataset {
    /// Examples with ids 0, 1, 2, ...
    ///
    /// # Errors
    /// No examples, another number of labels, or a feature that is not finite (named by example).
    pub fn new(features: HostArray, labels: Vec<f64>) -> Result<Self, ModelError> {
        let n = features.rows();
        if n != labels.len() {
            return Err(ModelError::LabelCount { examples: n, labels: labels.len() });
        }
        if n == 0 {
            return Err(ModelError::Empty);
        }
        if let Some((example, feature)) = features.first_non_finite() {
            return Err(ModelError::NonFiniteFeature { example, feature });
        }
        Ok(Self { features, labels, ids: (0..n).collect() })
    }

    /// The same examples under other ids, such as rows of the file they came from.
    pub fn with_ids(mut self, ids: Vec<usize>) -> Self {
        assert_eq!(ids.len(), self.len(), "one id for each example");
        self.ids = ids;
        self
    }

    /// The same examples with other labels, such as flipped ones.
    pub fn with_labels(mut self, labels: Vec<f64>) -> Self {
        assert_eq!(labels.len(), self.len(), "one label for each example");
        self.labels = labels;
        self
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Never true: an empty data set cannot be made.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The features, `n x ...`.
    pub fn features(&self) -> &HostArray {
        &self.features
    }

    /// Numbers per example.
    pub fn width(&self) -> usize {
        self.features.width()
    }

    /// One label for each example.
    pub fn labels(&self) -> &[f64] {
        &self.labels
    }

    /// One id for each example.
    pub fn ids(&self) -> &[usize] {
        &self.ids
    }

    /// The examples `start..end`.
    pub fn slice(&self, start: usize, end: usize) -> Self {
        Self {
            features: self.features.slice(start, end),
            labels: self.labels[start..end].to_vec(),
            ids: self.ids[start..end].to_vec(),
        }
    }

    /// The examples at `indices`, in that order.
    pub fn select(&self, indices: &[usize]) -> Self {
        Self {
            features: self.features.select(indices),
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
            ids: indices.iter().map(|&i| self.ids[i]).collect(),
        }
    }

    /// The examples in an order fixed by `seed`.
    pub fn shuffled(&self, seed: u64) -> Self {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        self.select(&order)
    }

    /// One more than the largest label, where all are class indices.
    pub fn classes(&self) -> Option<usize> {
        let whole = self.labels.iter().all(|y| *y >= 0.0 && y.fract() == 0.0 && *y < 1e9);
        whole.then(|| 1 + self.labels.iter().fold(0.0f64, |m, y| m.max(*y)) as usize)
    }

    /// The labels as `loss` takes them with `outputs` outputs: class indices below `outputs`, or
    /// -1 / +1 (from {0, 1} or {-1, +1}), or real numbers as they are.
    ///
    /// # Errors
    /// The first example whose label does not fit, or a binary loss on another number of outputs than one.
    pub fn targets(&self, loss: Loss, outputs: usize) -> Result<Vec<f64>, ModelError> {
        if loss.is_binary() && outputs != 1 {
            return Err(ModelError::Unsupported(format!(
                "a binary loss takes one output, the model has {outputs}"
            )));
        }
        // {0, 1} and {-1, +1} are two encodings; a set that holds both 0 and -1 is in neither.
        let signed = self.labels.contains(&-1.0);
        let kind = loss.target(outputs);
        let target = |(example, &label): (usize, &f64)| {
            let (converted, expected) = match kind {
                Target::Sign => {
                    let sign = if label == 1.0 { 1.0 } else { -1.0 };
                    let known = label.abs() == 1.0 || (label == 0.0 && !signed);
                    let expected = if signed { "-1 or +1, like the others" } else { "0 or 1, or -1 or +1" };
                    (known.then_some(sign), expected.to_owned())
                }
                Target::Class => {
                    let class = label >= 0.0 && label < outputs as f64 && label.fract() == 0.0;
                    (class.then_some(label), format!("a class from 0 to {}", outputs - 1))
                }
                Target::Real => (label.is_finite().then_some(label), "a finite number".to_owned()),
            };
            converted.ok_or(ModelError::Label { example, label, expected })
        };
        self.labels.iter().enumerate().map(target).collect()
    }
}
