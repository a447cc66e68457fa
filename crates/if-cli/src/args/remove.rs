//! Removing groups, as it is written.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use if_methods::Order;

use super::{Precision, QueryArgs};
use crate::parse::{count, group_sizes};

/// `--order`.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum OrderName {
    /// The sum of the influences of its examples; renormalised: k/(1-p)
    First,
    /// With what the examples do to each other (Basu et al. 2020); fixed: two terms of the Neumann series
    Second,
    /// A Newton step on what remains (Koh et al. 2019)
    Newton,
    /// The sum of the Newton steps of its examples, each alone (rescaled influence)
    Rescaled,
}

impl From<OrderName> for Order {
    fn from(name: OrderName) -> Self {
        match name {
            OrderName::First => Self::First,
            OrderName::Second => Self::Second,
            OrderName::Newton => Self::Newton,
            OrderName::Rescaled => Self::Rescaled,
        }
    }
}

/// Which groups.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct GroupSource {
    /// Groups as a table: header group,index, a name and a 0-based row of the training examples
    #[arg(long, value_name = "G.csv")]
    pub groups: Option<PathBuf>,
    /// One group for each value of this column of the training table, which is then no feature, or of this array of an npz file
    #[arg(long, value_name = "COLUMN")]
    pub group_by: Option<String>,
    /// Draw groups
    #[arg(long, value_enum, value_name = "KIND")]
    pub draw: Option<DrawName>,
}

/// `--draw`.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum DrawName {
    /// Any examples
    Random,
    /// Examples of one class
    SameClass,
    /// Neighbours when sorted by one feature
    FeatureWindow,
    /// What lies nearest to an example in its features
    FeatureCluster,
    /// What lies nearest to an example in its loss gradient
    GradientCluster,
    /// From the strongest proponents of the first query
    PositiveTail,
    /// From its strongest opponents
    NegativeTail,
}

/// How groups are drawn.
#[derive(Args, Debug)]
pub struct DrawArgs {
    /// Sizes of drawn groups: numbers of examples, or fractions of all [default: 0.01,0.02,0.05]
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',', value_parser = group_sizes)]
    pub draw_size: Vec<f64>,
    /// Groups of each size [default: 5]
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub draw_count: Option<usize>,
    /// Seed of --draw [default: 0]
    #[arg(long, value_name = "S")]
    pub draw_seed: Option<u64>,
    /// Write the groups as a table that --groups reads
    #[arg(long, value_name = "G.csv")]
    pub save_groups: Option<PathBuf>,
}

impl DrawArgs {
    /// Whether something is said of how groups are drawn.
    pub fn is_given(&self) -> bool {
        !self.draw_size.is_empty() || self.draw_count.is_some() || self.draw_seed.is_some()
    }

    /// Sizes of groups.
    pub fn sizes(&self) -> &[f64] {
        if self.draw_size.is_empty() { &[0.01, 0.02, 0.05] } else { &self.draw_size }
    }

    /// Groups of each size.
    pub fn count(&self) -> usize {
        self.draw_count.unwrap_or(5)
    }
}

/// `influence group`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example, nothing else is needed:
  influence group --model softmax --train digits:train --query digits:test[0..20] --l2 0.01 \\
    --draw same-class --order newton --retrain --effects effects.csv

OUT.csv has the columns group, size, query, effect: the predicted change of the query's loss without the
group (positive: the loss rises); with --retrain also actual, with --proximal proximal, with --order second first_order and interaction.
Certificates go to OUT.json beside it.")]
pub struct GroupArgs {
    /// The model and the queries.
    #[command(flatten)]
    pub base: QueryArgs,
    /// Which groups.
    #[command(flatten)]
    pub source: GroupSource,
    /// How they are drawn.
    #[command(flatten)]
    pub draw: DrawArgs,
    /// How far the removal is followed
    #[arg(long, value_enum, value_name = "ORDER", default_value = "first")]
    pub order: OrderName,
    /// The loss at the changed parameters, not its derivative along the change
    #[arg(long)]
    pub evaluated: bool,
    /// Also retrain without each group; networks by L-BFGS from their weights on
    #[arg(long)]
    pub retrain: bool,
    /// Instead: the optimum near these weights and their outputs (proximal Bregman response), which is what damped
    /// Gauss-Newton influence predicts, also of a network that is not at an optimum
    #[arg(long, conflicts_with = "retrain")]
    pub proximal: bool,
    /// Where the effects go
    #[arg(long, value_name = "OUT.csv")]
    pub effects: PathBuf,
    /// Also write how the parameters are predicted to change, groups x parameters
    #[arg(long, value_name = "OUT.npy")]
    pub parameter_changes: Option<PathBuf>,
    /// Arithmetic [default: f64; networks: f32 without --retrain]
    #[arg(long, value_enum, value_name = "PRECISION")]
    pub precision: Option<Precision>,
}

/// `influence what-if`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example: what if the second hundred were not there?
  printf 'index\\n' > g.csv; seq 100 199 >> g.csv
  influence what-if --model softmax --train digits:train --query digits:test[0..5] --l2 0.01 \\
    --group g.csv --retrain")]
pub struct WhatIfArgs {
    /// The model and the queries.
    #[command(flatten)]
    pub base: QueryArgs,
    /// The group: a table with the header index, 0-based rows of the training examples, or group,index for several
    #[arg(long, value_name = "FILE")]
    pub group: PathBuf,
    /// Also retrain without it; a network by L-BFGS from its weights on
    #[arg(long)]
    pub retrain: bool,
    /// Instead: the optimum near these weights and their outputs (proximal Bregman response), which is what damped
    /// Gauss-Newton influence predicts, also of a network that is not at an optimum
    #[arg(long, conflicts_with = "retrain")]
    pub proximal: bool,
}

/// `influence select`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example: the 20 training examples that together carry a prediction
  influence select --model softmax --train digits:train --query digits:test[7] --l2 0.01 --size 20 --retrain")]
pub struct SelectArgs {
    /// The model and the queries.
    #[command(flatten)]
    pub base: QueryArgs,
    /// Training examples of a group
    #[arg(long, value_name = "K", value_parser = count, allow_negative_numbers = true)]
    pub size: usize,
    /// The group whose removal lowers the loss most, in place of the one that raises it most
    #[arg(long)]
    pub opponents: bool,
    /// Also retrain without each group, and without as many random examples
    #[arg(long)]
    pub retrain: bool,
    /// Seed of the random groups
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Write the groups as a table that influence group --groups reads
    #[arg(long, value_name = "G.csv")]
    pub save_groups: Option<PathBuf>,
}
