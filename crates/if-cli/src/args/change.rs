//! Changing training examples, and training in two stages, as it is written.

use std::path::PathBuf;

use clap::Args;
use if_data::Source;

use super::{
    DeviceArgs, MeasureName, ModelArgs, ModelName, ObjectiveArgs, Precision, QueryArgs, SolveArgs,
    WeightsArgs,
};
use crate::parse::{count, non_negative, positive};

/// `influence perturb`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example: which pixels of which training images does this prediction hang on?
  influence perturb --model softmax --train digits:train --query digits:test[7] --l2 0.01 --picture p.svg

OUT.npy holds queries x examples x features: the change of the query's loss when that feature of that
training example grows by 1 (pixels are divided by 255), to first order.")]
pub struct PerturbArgs {
    /// The model and the queries.
    #[command(flatten)]
    pub base: QueryArgs,
    /// Training examples to look at, by their rows [default: those of the strongest slopes]
    #[arg(long, value_name = "ROW,...", value_delimiter = ',')]
    pub examples: Vec<usize>,
    /// Training examples to look at where --examples does not say which
    #[arg(long, value_name = "K", default_value = "5", value_parser = count, allow_negative_numbers = true, conflicts_with = "examples")]
    pub top: usize,
    /// What is explained of a query
    #[arg(long, value_enum, value_name = "MEASURE", default_value = "loss")]
    pub measure: MeasureName,
    /// Where the slopes go
    #[arg(long, value_name = "OUT.npy")]
    pub slopes: Option<PathBuf>,
    /// Draw the examples of the first query with their slopes, for square images
    #[arg(long, value_name = "OUT.svg")]
    pub picture: Option<PathBuf>,
}

/// `influence attack`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example: make the model err on one digit by changing thirty training images by half of their range at most
  influence attack --model softmax --train digits:train --target digits:test[7] --l2 0.01 \\
    --count 30 --radius 0.5 --picture a.svg

A network is retrained on the layers that --layers names, such as last: the others stay as they are, and
the attack reaches through them. OUT.npz holds the changed training set, x and y.")]
pub struct AttackArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The parameters.
    #[command(flatten)]
    pub weights: WeightsArgs,
    /// The example to be misclassified, such as digits:test[7]
    #[arg(long, value_name = "SOURCE")]
    pub target: Source,
    /// Training examples that may change, by their rows [default: those of the strongest slopes]
    #[arg(long, value_name = "ROW,...", value_delimiter = ',')]
    pub examples: Vec<usize>,
    /// How many, where --examples does not say which
    #[arg(long, value_name = "K", default_value = "1", value_parser = count, allow_negative_numbers = true, conflicts_with = "examples")]
    pub count: usize,
    /// How far a feature may move (pixels are divided by 255); none goes beyond the least and the largest number in the
    /// training set
    #[arg(long, value_name = "R", value_parser = positive, allow_negative_numbers = true)]
    pub radius: f64,
    /// Length of a step in every feature [default: a tenth of the radius]
    #[arg(long, value_name = "S", value_parser = positive, allow_negative_numbers = true)]
    pub step: Option<f64>,
    /// Steps at most
    #[arg(long, value_name = "N", default_value = "100", value_parser = count, allow_negative_numbers = true)]
    pub iterations: usize,
    /// Where the changed training set goes
    #[arg(long, value_name = "OUT.npz")]
    pub out: Option<PathBuf>,
    /// Draw the target, and each example before and after, for square images
    #[arg(long, value_name = "OUT.svg")]
    pub picture: Option<PathBuf>,
    /// The device.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// The objective.
    #[command(flatten)]
    pub objective: ObjectiveArgs,
    /// The solves.
    #[command(flatten)]
    pub solve: SolveArgs,
}

/// `influence multistage`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  influence multistage --pretrain-model m1.toml --pretrain-weights w1.safetensors --pretrain P.npz \\
    --model m2.toml --weights w2.safetensors --train T.npz --query Q.npz --embedding-layers 0,2 \\
    --l2-pretrain 1e-4 --l2 1e-3 --damping 0.01 --curvature gauss-newton --scores OUT.npy

Both stages are networks from files. The first may come from influence train; the second, which keeps layers
or pulls them back, from wherever it was trained (PyTorch: save its state_dict). Scores are queries x pretraining
examples, positive = proponent: removal of a pretraining example changes the loss by about score / m, with
m the number of pretraining examples. Without --updated the second stage kept the shared layers as they were.")]
pub struct MultiStageArgs {
    /// The network of the first stage
    #[arg(long, value_name = "M1.toml")]
    pub pretrain_model: ModelName,
    /// Its parameters
    #[arg(long, value_name = "W1.safetensors")]
    pub pretrain_weights: PathBuf,
    /// Pretraining examples
    #[arg(long, value_name = "SOURCE")]
    pub pretrain: Source,
    /// The network of the second stage
    #[arg(long, value_name = "M2.toml")]
    pub model: ModelName,
    /// Its parameters
    #[arg(long, value_name = "W2.safetensors")]
    pub weights: PathBuf,
    /// Fine-tuning examples
    #[arg(long, value_name = "SOURCE")]
    pub train: Source,
    /// Examples that are explained, of the second stage's kind
    #[arg(long, value_name = "SOURCE")]
    pub query: Source,
    /// Label column of csv tables [default: the last]
    #[arg(long, value_name = "COLUMN")]
    pub label: Option<String>,
    /// Layers that both stages share, by name
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', required = true)]
    pub embedding_layers: Vec<String>,
    /// Strength of the first stage's regulariser (l2/2) |theta|^2
    #[arg(long, value_name = "L1", value_parser = non_negative, allow_negative_numbers = true)]
    pub l2_pretrain: f64,
    /// Strength of the second stage's
    #[arg(long, value_name = "L2", value_parser = non_negative, allow_negative_numbers = true)]
    pub l2: f64,
    /// The second stage moved the shared layers W from W1, under alpha |W - W1|^2
    #[arg(long, requires = "alpha")]
    pub updated: bool,
    /// Strength of that pull, above 0
    #[arg(long, value_name = "A", value_parser = positive, allow_negative_numbers = true, requires = "updated")]
    pub alpha: Option<f64>,
    /// The second stage's l2 covers its other layers only
    #[arg(long, requires = "updated")]
    pub l2_head_only: bool,
    /// Where the scores go; certificates go to OUT.json beside them
    #[arg(long, value_name = "OUT.npy")]
    pub scores: PathBuf,
    /// The device.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Arithmetic, and the type of OUT.npy
    #[arg(long, value_enum, value_name = "PRECISION", default_value = "f64")]
    pub precision: Precision,
    /// The solves of both stages.
    #[command(flatten)]
    pub solve: SolveArgs,
}
