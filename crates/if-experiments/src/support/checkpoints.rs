//! Training that leaves checkpoints, for TracIn and for losses averaged over them.

use if_linalg::Block;
use if_methods::Checkpoint;
use if_models::{EmpiricalRisk, ModelError, Training};

use super::F64;
use crate::Context;

/// Where `training` ends, and a checkpoint after every `every` epochs.
pub fn train_with_checkpoints(
    context: &Context,
    training: &Training,
    risk: &EmpiricalRisk<F64>,
    every: usize,
) -> Result<(Block<F64>, Vec<Checkpoint<F64>>), ModelError> {
    let network = risk.network();
    let every = every * training.steps_per_epoch(risk.n());
    let mut state = training.start(network);
    let mut checkpoints = Vec::new();
    training.run::<F64, ModelError>(risk, &mut state, context, |state, step| {
        if step.step.is_multiple_of(every) {
            let (theta, learning_rate) = (state.theta.clone(), step.learning_rate);
            checkpoints.push(Checkpoint { network: network.clone(), theta, learning_rate });
        }
        Ok(())
    })?;
    Ok((state.theta, checkpoints))
}
