//! How `influence train` trains a network: what the options say, and which of them go together.

use if_models::{Lbfgs, Optimizer, Schedule, Training};
use serde::Serialize;

use crate::args::{NetworkArgs, OptimizerName, Precision, ScheduleName, TrainArgs};
use crate::error::Failure;

/// Minibatches for a number of epochs, or all examples until an optimum is reached.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum Plan {
    /// `--optimizer adam` and `sgd`.
    Minibatches(Training),
    /// `--optimizer lbfgs`.
    Lbfgs {
        /// When to stop.
        lbfgs: Lbfgs,
        /// Of the initial parameters.
        seed: u64,
    },
}

impl Plan {
    /// The settings and the precision, with their defaults.
    pub fn new(args: &TrainArgs) -> Result<(Self, Precision), Failure> {
        if args.no_bias {
            return Err(Failure::input("--no-bias belongs to models of one layer"));
        }
        let network = &args.network;
        let optimizer = network.optimizer.unwrap_or(OptimizerName::Adam);
        if optimizer == OptimizerName::Lbfgs {
            let precision = network.precision.unwrap_or(Precision::F64);
            return Ok((lbfgs(args, precision)?, precision));
        }
        if network.max_iterations.is_some() || args.gradient_norm.is_some() {
            let option = if args.gradient_norm.is_some() { "--gradient-norm" } else { "--max-iterations" };
            return Err(Failure::input(format!(
                "{option} belongs to --optimizer lbfgs: minibatches are trained on for --epochs"
            )));
        }
        let training = minibatches(network, optimizer)?.validate()?;
        Ok((Self::Minibatches(training), network.precision.unwrap_or(Precision::F32)))
    }
}

fn lbfgs(args: &TrainArgs, precision: Precision) -> Result<Plan, Failure> {
    if let Some(option) = args.network.given_for_minibatches() {
        return Err(Failure::input(format!(
            "{option} belongs to --optimizer adam and sgd: lbfgs takes all examples in every step, and keeps no checkpoints"
        )));
    }
    let reached = match precision {
        Precision::F64 => 1e-8,
        Precision::F32 | Precision::Tf32 | Precision::Bf16 => 1e-4,
    };
    let usual = Lbfgs::default();
    let lbfgs = Lbfgs {
        gradient_tolerance: args.gradient_norm.unwrap_or(reached),
        max_iterations: args.network.max_iterations.unwrap_or(usual.max_iterations),
        ..usual
    };
    Ok(Plan::Lbfgs { lbfgs, seed: args.network.seed.unwrap_or(0) })
}

fn minibatches(network: &NetworkArgs, optimizer: OptimizerName) -> Result<Training, Failure> {
    let (optimizer, usual) = match optimizer {
        OptimizerName::Sgd => (Optimizer::Sgd { momentum: network.momentum.unwrap_or(0.9) }, 0.05),
        _ if network.momentum.is_some() => {
            return Err(Failure::input("--momentum belongs to --optimizer sgd"));
        }
        _ => (Optimizer::adam(), 1e-3),
    };
    let schedule = match network.schedule.unwrap_or(ScheduleName::Cosine) {
        ScheduleName::Step => Schedule::Step {
            epochs: network.step_epochs.unwrap_or(10),
            factor: network.step_factor.unwrap_or(0.1),
        },
        _ if network.step_epochs.is_some() || network.step_factor.is_some() => {
            return Err(Failure::input("--step-epochs and --step-factor belong to --schedule step"));
        }
        ScheduleName::Constant => Schedule::Constant,
        ScheduleName::Cosine => Schedule::Cosine,
    };
    let of_a_run = [
        (network.resume, "--resume"),
        (network.checkpoint_every.is_some(), "--checkpoint-every"),
        (!network.checkpoint_at.is_empty(), "--checkpoint-at"),
    ];
    if let (None, Some((_, option))) = (&network.run, of_a_run.iter().find(|(given, _)| *given)) {
        return Err(Failure::input(format!("{option} goes with --run, the folder of the run")));
    }
    Ok(Training {
        optimizer,
        learning_rate: network.learning_rate.unwrap_or(usual),
        schedule,
        epochs: network.epochs.unwrap_or(10),
        batch: network.batch.unwrap_or(128),
        seed: network.seed.unwrap_or(0),
    })
}
