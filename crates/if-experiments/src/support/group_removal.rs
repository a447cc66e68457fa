//! Retraining without groups, and what is predicted for them.

use anyhow::ensure;
use if_linalg::{Block, Prepared, SolveReport};
use if_methods::{GroupInfluence, Order, leave_out_near};
use if_models::{Chord, EmpiricalRisk, Fit, Inputs, Network};

use super::F64;
use crate::Context;

/// Retrains without each of `groups` from `theta`, the optimum of `risk`, to a gradient of norm `tolerance`, and
/// measures the parameters that come out. `solver` solves with the Hessian at `theta`.
///
/// # Errors
/// A retraining that did not reach its tolerance: it would be no ground truth.
pub fn retrained<R: Send>(
    context: &Context,
    risk: &EmpiricalRisk<'_, F64>,
    (theta, solver): (&Block<F64>, &dyn Prepared<F64>),
    (groups, tolerance): (&[Vec<usize>], f64),
    measure: impl Fn(&Block<F64>) -> R + Sync,
) -> anyhow::Result<Vec<R>> {
    let chord = Chord { gradient_tolerance: tolerance, ..Chord::default() };
    let measure = |fit: &Fit<F64>| (fit.report.clone(), measure(&fit.theta));
    let results = leave_out_near(risk, groups, (&chord, theta, solver), measure, context)?;
    let checked = results.into_iter().enumerate().map(|(g, (report, result))| {
        let (examples, reached) = (groups[g].len(), report.optimality);
        ensure!(
            report.converged(),
            "retraining without group {g} ({examples} examples) stopped at {reached:.1e}"
        );
        Ok(result)
    });
    checked.collect()
}

/// The difference that other parameters than `theta` make to the loss of every query.
pub fn loss_change<'a>(
    network: &'a Network<F64>,
    queries: &'a Inputs<F64>,
    theta: &Block<F64>,
) -> impl Fn(&Block<F64>) -> Vec<f64> + Sync + 'a {
    let before = network.example_losses(queries, theta);
    move |after| {
        let after = network.example_losses(queries, after);
        after.iter().zip(&before).map(|(after, before)| after - before).collect()
    }
}

/// Predicted changes of the measure of every query on removal of every group, `groups x queries`.
///
/// # Errors
/// A solve that did not converge.
pub fn group_effects(
    context: &Context,
    influence: &GroupInfluence<'_, F64>,
    (groups, queries): (&[Vec<usize>], &Inputs<F64>),
    (order, evaluated): (Order, bool),
) -> anyhow::Result<Vec<Vec<f64>>> {
    let found = influence.effects(groups, queries, (order, evaluated), context)?;
    all_converged(&found.report)?;
    Ok(found.effects)
}

/// # Errors
/// A solve that did not converge.
pub fn all_converged(report: &SolveReport) -> anyhow::Result<()> {
    ensure!(report.all_converged(), "{}", report.summary());
    Ok(())
}
