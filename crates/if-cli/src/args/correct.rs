//! What is done with influence after FastIF, as it is written.

use std::path::PathBuf;

use clap::Args;
use if_data::Source;

use super::{Precision, QueryArgs};
use crate::parse::{count, positive};

/// `influence correct`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  influence train --model mlp:32 --train digits:train[0..400] --l2 1e-4 --epochs 40 --batch 32 \\
    --learning-rate 0.003 --out net.safetensors
  influence correct --model net.toml --weights net.safetensors --train digits:train[0..400] \\
    --query digits:train[400..1437] --test digits:test --l2 1e-4 --damping 0.01 --curvature gauss-newton \\
    --out corrected.safetensors

In every round some errors of --query are drawn, and steps are taken on the training examples that are most
helpful for them. As controls the same is done on random examples, and on the most harmful ones: where random
ones do as well, it was more training that helped, not influence. Any change of the weights sets some errors
right: look at the loss, and at --test examples, which no error was drawn from. OUT.safetensors holds the
weights after the most helpful.")]
pub struct CorrectArgs {
    /// Draw from all of --query, and not only from what the model gets wrong
    #[arg(long)]
    pub all: bool,
    /// Examples on which the model is judged before and after, beside --query; may be given several times
    #[arg(long, value_name = "SOURCE")]
    pub test: Vec<Source>,
    /// Rounds, each of which draws errors anew
    #[arg(long, value_name = "N", default_value = "10", value_parser = count, allow_negative_numbers = true)]
    pub rounds: usize,
    /// Errors drawn in a round, at most
    #[arg(long, value_name = "N", default_value = "10", value_parser = count, allow_negative_numbers = true)]
    pub anchors: usize,
    /// Training examples that the steps of a round are taken on
    #[arg(long, value_name = "N", default_value = "10", value_parser = count, allow_negative_numbers = true)]
    pub examples: usize,
    /// Steps in a round
    #[arg(long, value_name = "N", default_value = "1", value_parser = count, allow_negative_numbers = true)]
    pub steps: usize,
    /// Length of a step along the gradient
    #[arg(long, value_name = "RATE", default_value = "0.03", value_parser = positive, allow_negative_numbers = true)]
    pub learning_rate: f64,
    /// Choose among the training examples nearest to the errors in the inputs of this layer; fc of a linear model
    #[arg(long, value_name = "NAME", requires = "candidates")]
    pub features: Option<String>,
    /// How many of them
    #[arg(long, value_name = "K", value_parser = count, allow_negative_numbers = true, requires = "features")]
    pub candidates: Option<usize>,
    /// Seed of the errors that are drawn, and of the random examples
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Where the corrected weights go
    #[arg(long, value_name = "OUT.safetensors")]
    pub out: PathBuf,
    /// Arithmetic, and the type of the weights [default: f64; networks: f32]
    #[arg(long, value_enum, value_name = "PRECISION")]
    pub precision: Option<Precision>,
    /// The model, and where its errors are looked for.
    #[command(flatten)]
    pub base: QueryArgs,
}

/// `influence clusters`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  influence train --model softmax --train digits:train --l2 0.01 --out w.safetensors
  influence attribute --model softmax --weights w.safetensors --train digits:train --query digits:test[0..100] \\
    --l2 0.01 --scores s.npy
  influence clusters --scores s.npy --train digits:train --query digits:test[0..100] --clusters 10 --top 10 \\
    --out clusters.json --plot clusters.svg

Each query's scores are first divided by the largest of them. Within a cluster training examples are proponents
of the queries more than elsewhere; one may lack a side.")]
pub struct ClustersArgs {
    /// Scores as influence attribute writes them, queries x training examples; rows are named as in S.json beside them
    #[arg(long, value_name = "S.npy")]
    pub scores: PathBuf,
    /// The training examples of these scores, to count their labels
    #[arg(long, value_name = "SOURCE")]
    pub train: Option<Source>,
    /// The queries of these scores, to count their labels
    #[arg(long, value_name = "SOURCE")]
    pub query: Option<Source>,
    /// Label column of csv tables [default: the last]
    #[arg(long, value_name = "COLUMN")]
    pub label: Option<String>,
    /// Clusters
    #[arg(long, value_name = "K", value_parser = count, allow_negative_numbers = true)]
    pub clusters: usize,
    /// Keep only training examples that are among the N with the largest scores of some query, whatever their sign
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub top: Option<usize>,
    /// Seed of the starts of the search
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Where the clusters go
    #[arg(long, value_name = "OUT.json")]
    pub out: PathBuf,
    /// Draw the scores, in the order of the clusters
    #[arg(long, value_name = "OUT.svg")]
    pub plot: Option<PathBuf>,
}
