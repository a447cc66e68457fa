//! How good scores are, as it is written.

use std::path::PathBuf;

use clap::Args;
use if_data::Source;

use super::{DeviceArgs, MeasureName, ModelArgs, ObjectiveArgs};
use crate::parse::{count, fraction, subsets};

/// `influence lds`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example, nothing else is needed:
  influence train --model softmax --train digits:train --l2 0.01 --out W.safetensors
  influence attribute --model softmax --weights W.safetensors --train digits:train \\
    --query digits:test[0..20] --l2 0.01 --scores S.npy
  influence lds --model softmax --train digits:train --query digits:test[0..20] --l2 0.01 \\
    --scores S.npy --out LDS.json

The linear datamodelling score (Park et al. 2023) of scores is the rank correlation, over random subsets of the
training examples, of their sum over a subset with minus the query's loss after training on that subset alone;
averaged over queries. Models are retrained as influence train trains them. The retrainings are kept in LDS.retrained:
with --resume they are not made again, for other scores or more subsets.")]
pub struct LdsArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Train without a bias
    #[arg(long)]
    pub no_bias: bool,
    /// Examples that the scores are about
    #[arg(long, value_name = "SOURCE")]
    pub query: Source,
    /// The objective.
    #[command(flatten)]
    pub objective: ObjectiveArgs,
    /// Of networks: a folder that influence train --run kept; every retraining repeats that training on a subset
    #[arg(long, value_name = "DIR")]
    pub training_run: Option<PathBuf>,
    /// Scores, query x train, positive = proponent; several may be given
    #[arg(long, value_name = "OUT.npy", required = true)]
    pub scores: Vec<PathBuf>,
    /// What is measured of a query
    #[arg(long, value_enum, value_name = "MEASURE", default_value = "loss")]
    pub measure: MeasureName,
    /// Subsets to retrain on, at least 5
    #[arg(long, value_name = "N", default_value = "50", value_parser = subsets)]
    pub subsets: usize,
    /// Share of the training examples in a subset
    #[arg(long, value_name = "SHARE", default_value = "0.5", value_parser = fraction, allow_negative_numbers = true)]
    pub share: f64,
    /// Of networks: trainings on every subset, each with a seed of its own, all of them others than that of the run
    #[arg(long, value_name = "R", default_value = "1", value_parser = count, allow_negative_numbers = true)]
    pub repeats: usize,
    /// Seed of subsets, random scores and intervals
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Where the results go
    #[arg(long, value_name = "OUT.json")]
    pub out: PathBuf,
    /// Take the retrainings in OUT.retrained, and make only those that are not there
    #[arg(long)]
    pub resume: bool,
    /// The device.
    #[command(flatten)]
    pub device: DeviceArgs,
}
