//! Ground truth by retraining: the model without some examples, from where the whole one stands.

use std::sync::atomic::{AtomicUsize, Ordering};

use if_linalg::{Backend, Block, Observer, Prepared};
use if_models::{Chord, EmpiricalRisk, Fit, FitReport, Inputs};

use crate::MethodError;

/// Retrains without each of `groups` (positions of training examples) and measures what comes out.
/// Groups run in parallel; results are in their order.
///
/// `retrain` gets the objective that is left when a group is removed as the risk's settings say. For
/// a warm start it begins at the parameters of the whole model.
///
/// # Errors
/// [`MethodError::Cancelled`] where the observer asks to stop.
pub fn leave_out<B: Backend, R: Send>(
    risk: &EmpiricalRisk<B>,
    groups: &[Vec<usize>],
    retrain: impl Fn(&EmpiricalRisk<B>) -> Fit<B> + Sync,
    measure: impl Fn(&Fit<B>) -> R + Sync,
    observer: &dyn Observer,
) -> Result<Vec<R>, MethodError> {
    let done = AtomicUsize::new(0);
    let results = risk.inputs().backend().map(groups.len(), |g| {
        if observer.cancelled() {
            return None;
        }
        let result = measure(&retrain(&risk.without(&groups[g])));
        observer.progress("retraining", done.fetch_add(1, Ordering::Relaxed) + 1, groups.len());
        Some(result)
    });
    if observer.cancelled() {
        return Err(MethodError::Cancelled);
    }
    Ok(results.into_iter().flatten().collect())
}

/// Groups that [`leave_out_near`] retrains together. A constant: it decides which solves they share, and
/// so their rounding.
const TOGETHER: usize = 64;

/// [`leave_out`] for groups that matter little beside the rest: retrains from `theta`, the optimum of
/// the whole `risk`, with the curvature there, which `solver` solves with.
///
/// # Errors
/// [`MethodError::Cancelled`] where the observer asks to stop.
pub fn leave_out_near<B: Backend, R: Send>(
    risk: &EmpiricalRisk<B>,
    groups: &[Vec<usize>],
    (chord, theta, solver): (&Chord, &Block<B>, &dyn Prepared<B>),
    measure: impl Fn(&Fit<B>) -> R + Sync,
    observer: &dyn Observer,
) -> Result<Vec<R>, MethodError> {
    let mut results = Vec::with_capacity(groups.len());
    for groups_now in groups.chunks(TOGETHER) {
        let risks: Vec<_> = groups_now.iter().map(|group| risk.without(group)).collect();
        let fits = chord.minimise(&risks, theta, solver, observer);
        if observer.cancelled() {
            return Err(MethodError::Cancelled);
        }
        results.extend(risk.inputs().backend().map(fits.len(), |f| measure(&fits[f])));
        observer.progress("retraining", results.len(), groups.len());
    }
    Ok(results)
}

/// What removal really did.
#[derive(Clone, Debug)]
pub struct LossChanges {
    /// Change of each query's loss, one row for each group: `groups x queries`.
    pub changes: Vec<Vec<f64>>,
    /// How each retraining ended.
    pub fits: Vec<FitReport>,
}

/// Change of the loss of every query when each of `groups` is removed. `before` are the queries'
/// losses with the whole model.
///
/// # Errors
/// [`MethodError::Cancelled`] where the observer asks to stop.
pub fn loss_changes<B: Backend>(
    risk: &EmpiricalRisk<B>,
    groups: &[Vec<usize>],
    queries: &Inputs<B>,
    before: &[f64],
    retrain: impl Fn(&EmpiricalRisk<B>) -> Fit<B> + Sync,
    observer: &dyn Observer,
) -> Result<LossChanges, MethodError> {
    let measure = |fit: &Fit<B>| change_of(risk, fit, queries, before);
    let (changes, fits) = leave_out(risk, groups, retrain, measure, observer)?.into_iter().unzip();
    Ok(LossChanges { changes, fits })
}

/// [`loss_changes`] by [`leave_out_near`].
///
/// # Errors
/// [`MethodError::Cancelled`] where the observer asks to stop.
pub fn loss_changes_near<B: Backend>(
    risk: &EmpiricalRisk<B>,
    groups: &[Vec<usize>],
    (queries, before): (&Inputs<B>, &[f64]),
    near: (&Chord, &Block<B>, &dyn Prepared<B>),
    observer: &dyn Observer,
) -> Result<LossChanges, MethodError> {
    let measure = |fit: &Fit<B>| change_of(risk, fit, queries, before);
    let (changes, fits) = leave_out_near(risk, groups, near, measure, observer)?.into_iter().unzip();
    Ok(LossChanges { changes, fits })
}

fn change_of<B: Backend>(
    risk: &EmpiricalRisk<B>,
    fit: &Fit<B>,
    queries: &Inputs<B>,
    before: &[f64],
) -> (Vec<f64>, FitReport) {
    let after = risk.network().example_losses(queries, &fit.theta);
    let change = after.iter().zip(before).map(|(after, before)| after - before).collect();
    (change, fit.report.clone())
}
