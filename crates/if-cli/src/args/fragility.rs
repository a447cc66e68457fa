//! Whether influence can be believed of a kind of network, as it is written.

use clap::Args;
use if_data::Source;

use super::{DeviceArgs, ModelName};
use crate::parse::{bytes, count, non_negative, positive, share};

/// `influence fragility`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example: how do depth, width and weight decay bear on influence?
  influence fragility --model mlp:5 --model mlp:5,5 --model mlp:20 --l2 5e-3,1e-4 \\
    --train iris:train --test iris:test --cold

Every network is trained to an optimum, the training examples of the highest loss are left out one at a time, and
what that does to the loss of test points is predicted and measured (Basu, Pope & Feizi 2021). --model, --l2 and
--examples are axes: what stands first is the base, and each axis is walked along with the others at their base.
Layers of mlp and cnn are followed by tanh: with relu, training ends at kinks that no derivative sees.")]
pub struct FragilityArgs {
    /// mlp:5,5, cnn:4 or a network described in FILE.toml; several may be given
    #[arg(long, value_name = "MODEL", required = true)]
    pub model: Vec<ModelName>,
    /// Training examples
    #[arg(long, value_name = "SOURCE")]
    pub train: Source,
    /// Examples that test points are taken from
    #[arg(long, value_name = "SOURCE")]
    pub test: Source,
    /// Label column of csv tables [default: the last]
    #[arg(long, value_name = "COLUMN")]
    pub label: Option<String>,
    /// Strengths of the regulariser (l2/2) |theta|^2
    #[arg(long, value_name = "L2,...", value_delimiter = ',', value_parser = non_negative, allow_negative_numbers = true, required = true)]
    pub l2: Vec<f64>,
    /// Numbers of training examples, drawn by the seed [default: all]
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = count, allow_negative_numbers = true)]
    pub examples: Vec<usize>,
    /// Test points, each by the share of test examples whose loss is higher
    #[arg(long, value_name = "SHARE,...", value_delimiter = ',', default_value = "0,0.1,0.5", value_parser = share, allow_negative_numbers = true)]
    pub points: Vec<f64>,
    /// Training examples left out of each network, one at a time: those of the highest loss
    #[arg(long, value_name = "N", default_value = "25", value_parser = count, allow_negative_numbers = true)]
    pub left_out: usize,
    /// Train again from the initial parameters too, not from the optimum alone
    #[arg(long)]
    pub cold: bool,
    /// Predict by LiSSA too, to a residual of .05, its scale, batch and depth from the spectrum
    #[arg(long)]
    pub lissa: bool,
    /// Networks of each kind, from different initial parameters
    #[arg(long, value_name = "N", default_value = "3", value_parser = count, allow_negative_numbers = true)]
    pub seeds: usize,
    /// The first of the seeds
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Gradient norm that training goes on to
    #[arg(long, value_name = "G", default_value = "1e-8", value_parser = positive, allow_negative_numbers = true)]
    pub gradient_norm: f64,
    /// Steps of each training at most
    #[arg(long, value_name = "N", default_value = "5000", value_parser = count, allow_negative_numbers = true)]
    pub max_iterations: usize,
    /// Memory for the Hessian and its factors, such as 2GiB
    #[arg(long, value_name = "BYTES", default_value = "1536MiB", value_parser = bytes)]
    pub memory_budget: usize,
    /// The device.
    #[command(flatten)]
    pub device: DeviceArgs,
}
