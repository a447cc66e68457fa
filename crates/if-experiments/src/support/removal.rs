//! Retraining without single examples.

use std::collections::BTreeSet;

use if_linalg::{Block, Cholesky, Solver};
use if_methods::{LossChanges, descending, loss_changes, loss_changes_near};
use if_models::{Chord, Curvature, EmpiricalRisk, Fit, Inputs};

use super::F64;
use crate::Context;

/// Positions of the `count` largest absolute values, largest first.
pub fn strongest(values: &[f64], count: usize) -> Vec<usize> {
    let sizes: Vec<f64> = values.iter().map(|value| value.abs()).collect();
    let mut order = descending(&sizes);
    order.truncate(count);
    order
}

/// All of `sets`, each example once, in rising order.
pub fn union(sets: &[Vec<usize>]) -> Vec<usize> {
    sets.iter().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect()
}

fn singles(examples: &[usize]) -> Vec<Vec<usize>> {
    examples.iter().map(|&example| vec![example]).collect()
}

/// Linear models of some thousand parameters: half a gigabyte for 7,840 of them.
pub const FACTORED: Cholesky = Cholesky { tolerance: 1e-8, memory_budget: 1 << 30 };

/// What really happens to the loss of some queries when single training examples are left out.
pub struct Removals {
    examples: Vec<usize>,
    /// One row for each of `examples`, one entry for each query.
    changes: Vec<Vec<f64>>,
}

impl Removals {
    /// Retrains once for each of `examples` (in rising order).
    ///
    /// # Errors
    /// A retraining that did not reach its tolerance: its loss would be no ground truth.
    pub fn measure(
        context: &Context,
        risk: &EmpiricalRisk<'_, F64>,
        (queries, theta): (&Inputs<F64>, &Block<F64>),
        examples: Vec<usize>,
        retrain: impl Fn(&EmpiricalRisk<'_, F64>) -> Fit<F64> + Sync,
    ) -> anyhow::Result<Self> {
        let before = risk.network().example_losses(queries, theta);
        let measured = loss_changes(risk, &singles(&examples), queries, &before, retrain, context)?;
        Self::checked(examples, measured)
    }

    /// The same with one factorisation of the Hessian at `theta`, the optimum of `risk`, for all
    /// retrainings, to gradients of norm `tolerance`: a tenth of the time of Newton-CG.
    pub fn measure_near(
        context: &Context,
        risk: &EmpiricalRisk<'_, F64>,
        (queries, theta): (&Inputs<F64>, &Block<F64>),
        examples: Vec<usize>,
        tolerance: f64,
    ) -> anyhow::Result<Self> {
        let before = risk.network().example_losses(queries, theta);
        let hessian = risk.operator(theta, Curvature::Hessian, 0.0, usize::MAX);
        let solver = FACTORED.prepare(&hessian)?;
        let chord = Chord { gradient_tolerance: tolerance, ..Chord::default() };
        let near = (&chord, theta, &*solver);
        let measured = loss_changes_near(risk, &singles(&examples), (queries, &before), near, context)?;
        Self::checked(examples, measured)
    }

    fn checked(examples: Vec<usize>, measured: LossChanges) -> anyhow::Result<Self> {
        if let Some(at) = measured.fits.iter().position(|fit| !fit.converged()) {
            let (example, reached) = (examples[at], measured.fits[at].optimality);
            anyhow::bail!("retraining without example {example} stopped at {reached:.1e}");
        }
        Ok(Self { examples, changes: measured.changes })
    }

    /// Change of the loss of query `q` without each of `examples`.
    pub fn changes(&self, q: usize, examples: &[usize]) -> Vec<f64> {
        let row = |example| self.examples.binary_search(example).expect("the example was left out");
        examples.iter().map(|example| self.changes[row(example)][q]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_are_taken_by_size_and_united_once() {
        let values = [0.5, -3.0, 0.0, 2.0, f64::NAN];
        assert_eq!(strongest(&values, 2), [1, 3]);
        assert_eq!(strongest(&values, 9).len(), 5);
        assert_eq!(union(&[vec![3, 1], vec![1, 0]]), [0, 1, 3]);
    }
}
