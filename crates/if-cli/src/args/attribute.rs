//! Scores of training examples, as it is written.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use if_data::Source;
use if_models::{ProjectionKind, QueryRank};
use serde::Serialize;

use super::{ConventionArgs, DeviceArgs, MeasureName, ModelArgs, ObjectiveArgs, Precision, SolveArgs};
use crate::parse::{count, index_name, non_negative, query_rank};

/// `--method`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum MethodName {
    /// Influence functions, at the given weights
    Influence,
    /// TracIn: inner products of gradients, summed over checkpoints (Pruthi et al. 2020)
    Tracin,
    /// TRAK: a linearised model in random features, averaged over checkpoints (Park et al. 2023)
    Trak,
    /// Ideal TracIn: what every recorded step of a --run took off the queries' losses
    TracinIdeal,
    /// Representer points: a prediction as a sum over training examples (Yeh et al. 2018)
    Representer,
}

/// `--projection-kind`.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum ProjectionName {
    /// Normal numbers
    Gaussian,
    /// Signs
    Rademacher,
    /// Outer products of signs, layer by layer: cheaper, and less exact for the same numbers
    Factored,
}

impl From<ProjectionName> for ProjectionKind {
    fn from(name: ProjectionName) -> Self {
        match name {
            ProjectionName::Gaussian => Self::Gaussian,
            ProjectionName::Rademacher => Self::Rademacher,
            ProjectionName::Factored => Self::Factored,
        }
    }
}

/// `--checkpoint`: a file and the learning rate there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckpointArg {
    /// The parameters.
    pub weights: PathBuf,
    /// Of the steps around them.
    pub learning_rate: f64,
}

impl FromStr for CheckpointArg {
    type Err = String;

    /// `FILE:RATE`, split at the last colon.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.rsplit_once(':').filter(|(file, _)| !file.is_empty());
        let rate = parts.and_then(|(file, rate)| Some((file, crate::parse::positive(rate).ok()?)));
        let (file, learning_rate) =
            rate.ok_or("expected FILE:RATE, such as c0.safetensors:0.1, with a learning rate above 0")?;
        Ok(Self { weights: file.into(), learning_rate })
    }
}

/// `influence attribute`.
#[derive(Args, Debug)]
pub struct AttributeArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// How examples are scored
    #[arg(long, value_enum, value_name = "METHOD", default_value = "influence")]
    pub method: MethodName,
    /// Parameters: fc.weight and perhaps fc.bias, or those of the network
    #[arg(long, value_name = "W.safetensors")]
    pub weights: Option<PathBuf>,
    /// Of tracin and trak: parameters during training and the learning rate there; once for each
    #[arg(long, value_name = "C.safetensors:RATE")]
    pub checkpoint: Vec<CheckpointArg>,
    /// Of tracin, trak and tracin-ideal: a folder that influence train --run kept, with all its checkpoints
    #[arg(long, value_name = "DIR", conflicts_with = "checkpoint")]
    pub training_run: Option<PathBuf>,
    /// Numbers of a random projection of gradients: trak [default: 512], or to estimate tracin by
    #[arg(long, value_name = "DIM", value_parser = count, allow_negative_numbers = true)]
    pub projection: Option<usize>,
    /// How the projection is drawn
    #[arg(long, value_enum, value_name = "KIND", default_value = "rademacher")]
    pub projection_kind: ProjectionName,
    /// Of the projection
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub projection_seed: u64,
    /// Of tracin with --projection: where the sketches of the training examples are kept, and found by later queries
    #[arg(long, value_name = "SKETCH.npy", requires = "projection")]
    pub sketch: Option<PathBuf>,
    /// Examples that are explained
    #[arg(long, value_name = "SOURCE")]
    pub query: Source,
    /// What is explained of a query
    #[arg(long, value_enum, value_name = "MEASURE", default_value = "loss")]
    pub measure: MeasureName,
    /// Where the scores go, queries x training examples; certificates go to OUT.json beside them
    #[arg(long, value_name = "OUT.npy")]
    pub scores: PathBuf,
    /// Go on after the blocks of queries that an interrupted run with the same settings left beside --scores
    #[arg(long)]
    pub resume: bool,
    /// Truncate each solved query, layer by layer: to a rank such as 8, or to a relative error such as 0.01
    #[arg(long, value_name = "RANK|ERROR", value_parser = query_rank, allow_negative_numbers = true)]
    pub query_rank: Option<QueryRank>,
    /// The device.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Arithmetic, and the type of OUT.npy [default: f64; networks: f32]
    #[arg(long, value_enum, value_name = "PRECISION")]
    pub precision: Option<Precision>,
    /// Strength of the regulariser (l2/2) |theta|^2; tracin takes losses alone
    #[arg(long, value_name = "L2", value_parser = non_negative, allow_negative_numbers = true)]
    pub l2: Option<f64>,
    /// The rest of the objective.
    #[command(flatten)]
    pub conventions: ConventionArgs,
    /// The solves.
    #[command(flatten)]
    pub solve: SolveArgs,
}

/// `--index`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IndexName {
    /// All distances.
    Exact,
    /// A graph that is searched.
    #[cfg(feature = "usearch")]
    Usearch,
}

/// `influence fastif`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  influence train --model mlp:64 --train mnist:train[0..10000] --l2 1e-4 --out net.safetensors
  influence fastif --model net.toml --weights net.safetensors --train mnist:train[0..10000] \\
    --query mnist:test[0..20] --l2 1e-4 --damping 0.01 --curvature gauss-newton --solver block-cg \\
    --features 3 --candidates 1000 --scores OUT.json

Recall says how many of the 10 strongest proponents and opponents of all are among the candidates; it is
measured on a sample of the queries, whose training examples are all scored.")]
pub struct FastIfArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Its parameters
    #[arg(long, value_name = "W.safetensors")]
    pub weights: PathBuf,
    /// Examples that are explained
    #[arg(long, value_name = "SOURCE")]
    pub query: Source,
    /// The layer by whose inputs examples are like each other, by name; fc for the features of a linear model
    #[arg(long, value_name = "NAME")]
    pub features: String,
    /// Training examples that are scored for each query
    #[arg(long, value_name = "K", value_parser = count, allow_negative_numbers = true)]
    pub candidates: usize,
    /// How they are found: exact, or usearch, by a graph (HNSW) that misses some and pays off for millions of examples
    #[arg(long, value_name = "INDEX", value_parser = index_name, default_value = "exact")]
    pub index: IndexName,
    /// Queries, drawn by --seed, on which recall and speed-up are measured; 0: not at all
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub check: usize,
    /// Seed of that sample
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Where the scores go
    #[arg(long, value_name = "OUT.json")]
    pub scores: PathBuf,
    /// The device.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Arithmetic [default: f64; networks: f32]
    #[arg(long, value_enum, value_name = "PRECISION")]
    pub precision: Option<Precision>,
    /// The objective.
    #[command(flatten)]
    pub objective: ObjectiveArgs,
    /// The solves.
    #[command(flatten)]
    pub solve: SolveArgs,
}
