//! Ground truth by retraining: the model without some examples, from where the whole one stands.

use std::sync::atomic::{AtomicUsize, Ordering};

use if_linalg::{Backend, Observer};
use if_models::{EmpiricalRisk, Fit, FitReport, Inputs};

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
    let measure = |fit: &Fit<B>| {
        let after = risk.network().example_losses(queries, &fit.theta);
        let change: Vec<f64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
        (change, fit.report.clone())
    };
    let (changes, fits) = leave_out(risk, groups, retrain, measure, observer)?.into_iter().unzip();
    Ok(LossChanges { changes, fits })
}
