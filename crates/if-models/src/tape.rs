//! What the passes of a network leave behind, and what they are asked.

use if_linalg::{Backend, Block, View};

use crate::inputs::Batch;

/// The forward pass of one row block, kept for everything that follows it.
pub struct Tape<B: Backend> {
    /// Number of examples.
    pub rows: usize,
    /// Output of each layer, `rows x (width + 1)` with a last column of ones.
    pub(crate) outputs: Vec<B::Buffer>,
    /// Losses (`rows`), then `dl/dz` and what the loss's Hessian needs (`rows x outputs` each).
    pub(crate) loss: [B::Buffer; 3],
}

/// The gradient of a scalar of every example with respect to the output of every layer from `first` on.
pub struct Deltas<B: Backend> {
    pub(crate) first: usize,
    /// `rows x width` each.
    pub(crate) buffers: Vec<B::Buffer>,
}

/// Where derivatives are taken: parameters, some examples, and the network's pass over them.
pub struct Point<'a, B: Backend> {
    /// Parameters (`k = 1`).
    pub theta: &'a Block<B>,
    /// A row block.
    pub batch: &'a Batch<'a, B>,
    /// The forward pass of `batch` at `theta`.
    pub tape: &'a Tape<B>,
    /// The first example of the batch that is meant.
    pub first: usize,
    /// How many are meant.
    pub rows: usize,
}

impl<'a, B: Backend> Point<'a, B> {
    /// All examples of `batch`.
    pub fn new(theta: &'a Block<B>, batch: &'a Batch<'a, B>, tape: &'a Tape<B>) -> Self {
        Self { theta, batch, tape, first: 0, rows: tape.rows }
    }

    /// The examples `first..first + rows` of the batch.
    pub fn part(self, first: usize, rows: usize) -> Self {
        Self { first, rows, ..self }
    }

    /// The rows of the whole batch that are meant.
    pub(crate) fn rows_of(self, x: View<'a, B>) -> View<'a, B> {
        x.row_range(self.first, self.rows)
    }
}

impl<B: Backend> Clone for Point<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Point<'_, B> {}

/// Directions in parameter space: the vectors `start..start + k` of a block.
pub struct Directions<'a, B: Backend> {
    /// Holds the vectors.
    pub block: &'a Block<B>,
    /// The first of them.
    pub start: usize,
    /// Their number.
    pub k: usize,
}

impl<B: Backend> Clone for Directions<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Directions<'_, B> {}
