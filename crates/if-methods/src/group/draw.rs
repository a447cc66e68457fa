//! Groups as Koh, Ang, Teo & Liang 2019 draw them (section 4 and the authors' code): at random, and coherent ones, on
//! which first-order influence has the hardest time.
//!
//! Deviations:
//! 1. A cluster is what lies nearest to a random example, in features or in gradients, instead of a part of one by
//!    Ward's method: as coherent, of any size, without the matrix of all distances.

use if_linalg::{Backend, Block, Real};
use if_models::{Dataset, Inputs, Network, Rows};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::descending;

/// Draws groups, one after another, all decided by the seed.
///
/// ```
/// use if_methods::GroupDraw;
///
/// let labels = [0.0, 1.0, 0.0, 1.0, 0.0];
/// let mut draw = GroupDraw::new(7);
/// assert_eq!(draw.random(5, 2).len(), 2);
/// assert_eq!(draw.same_class(&labels, 3), Some(vec![0, 2, 4]));
/// ```
#[derive(Clone, Debug)]
pub struct GroupDraw {
    rng: ChaCha8Rng,
}

/// An end of the influences on a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// The largest.
    Positive,
    /// The smallest.
    Negative,
}

/// Influence tails are drawn from this many times as many examples.
const TAIL: f64 = 1.5;

impl GroupDraw {
    /// A source of groups.
    pub fn new(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// `size` of `n` examples.
    pub fn random(&mut self, n: usize, size: usize) -> Vec<usize> {
        self.some((0..n).collect(), size)
    }

    /// `size` examples of one class, drawn among those that have as many; `None` where no class has.
    pub fn same_class(&mut self, labels: &[f64], size: usize) -> Option<Vec<usize>> {
        let mut classes: Vec<f64> = labels.to_vec();
        classes.sort_unstable_by(f64::total_cmp);
        classes.dedup();
        let members = |class: &f64| (0..labels.len()).filter(|&i| labels[i] == *class).collect::<Vec<_>>();
        let mut large: Vec<Vec<usize>> =
            classes.iter().map(members).filter(|all| all.len() >= size).collect();
        if large.is_empty() {
            return None;
        }
        let chosen = large.swap_remove(self.rng.random_range(0..large.len()));
        Some(self.some(chosen, size))
    }

    /// `size` examples that follow one another when all are sorted by a random feature that is not constant; equal
    /// values in random order.
    pub fn feature_window(&mut self, data: &Dataset, size: usize) -> Vec<usize> {
        let n = data.len();
        let mut order: Vec<usize> = (0..n).collect();
        order.shuffle(&mut self.rng);
        let mut row = vec![0.0f64; data.width()];
        // Every draw may meet a constant feature; a data set of nothing else has no windows but random ones.
        for _ in 0..100 {
            let feature = self.rng.random_range(0..data.width());
            let mut values = vec![0.0; n];
            for (i, value) in values.iter_mut().enumerate() {
                data.features().read_row(i, &mut row);
                *value = row[feature];
            }
            if values.iter().any(|value| *value != values[0]) {
                order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
                break;
            }
        }
        let start = self.rng.random_range(0..=n - size);
        sorted(order[start..start + size].to_vec())
    }

    /// The `size` examples whose features are nearest to those of a random example, itself among them.
    pub fn feature_cluster(&mut self, data: &Dataset, size: usize) -> Vec<usize> {
        let (n, width) = (data.len(), data.width());
        let [mut centre, mut row] = [vec![0.0f64; width], vec![0.0f64; width]];
        data.features().read_row(self.rng.random_range(0..n), &mut centre);
        let nearness = |i: usize| {
            data.features().read_row(i, &mut row);
            -row.iter().zip(&centre).map(|(a, b)| (a - b) * (a - b)).sum::<f64>()
        };
        nearest((0..n).map(nearness).collect(), size)
    }

    /// The `size` examples whose loss gradients at `theta` are nearest to that of a random example, itself among them.
    pub fn gradient_cluster<B: Backend>(
        &mut self,
        network: &Network<B>,
        (inputs, theta): (&Inputs<B>, &Block<B>),
        size: usize,
    ) -> Vec<usize> {
        let centre = self.rng.random_range(0..inputs.len());
        let norms = network.gradient_norms(inputs, theta);
        let products = network.gradient_products(inputs, theta, (inputs, Rows::Range(centre, 1)));
        let nearness = products.iter().zip(norms).map(|(product, norm)| 2.0 * product.to_f64() - norm * norm);
        nearest(nearness.collect(), size)
    }

    /// `size` of the `1.5 size` examples at one end of the scores of a query.
    pub fn influence_tail<T: Real>(&mut self, scores: &[T], tail: Tail, size: usize) -> Vec<usize> {
        let sign = if tail == Tail::Positive { 1.0 } else { -1.0 };
        let mut order = descending(&scores.iter().map(|score| sign * score.to_f64()).collect::<Vec<_>>());
        order.truncate(((TAIL * size as f64) as usize).clamp(size, scores.len()));
        self.some(order, size)
    }

    fn some(&mut self, mut examples: Vec<usize>, size: usize) -> Vec<usize> {
        examples.shuffle(&mut self.rng);
        examples.truncate(size);
        sorted(examples)
    }
}

fn nearest(nearness: Vec<f64>, size: usize) -> Vec<usize> {
    let mut order = descending(&nearness);
    order.truncate(size);
    sorted(order)
}

fn sorted(mut examples: Vec<usize>) -> Vec<usize> {
    examples.sort_unstable();
    examples
}
