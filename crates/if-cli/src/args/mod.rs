//! The command line as it is written.

mod attribute;
mod change;
mod correct;
mod device;
mod fragility;
mod lds;
mod remove;
mod solve;

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use if_data::Source;
use serde::Serialize;

use crate::parse::{bytes, count, fraction, non_negative, positive, threads};

pub use attribute::{AttributeArgs, CheckpointArg, FastIfArgs, IndexName, MethodName};
pub use change::{AttackArgs, MultiStageArgs, PerturbArgs};
pub use correct::{ClustersArgs, CorrectArgs};
pub use device::{DeviceArgs, DeviceName, Precision};
pub use fragility::FragilityArgs;
pub use lds::LdsArgs;
pub use remove::{DrawArgs, DrawName, GroupArgs, OrderName, SelectArgs, WhatIfArgs};
pub use solve::{
    CurvatureName, LabelsName, PreconditionerName, PresetName, RemovalName, SolveArgs, SolverName,
};

/// Which training examples made the model predict this?
///
/// Training-data attribution by influence functions, with a certificate for every solve and a
/// command that retrains and compares.
#[derive(Debug, Parser)]
#[command(name = "influence", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What all commands share.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Start here, nothing else is needed:
  influence explain --model softmax --train digits:train --query digits:test[7] --l2 0.01
  influence verify  --model softmax --train digits:train --query digits:test[7] --l2 0.01
  influence audit   --model softmax --train digits:train --l2 0.01 --flip 0.1

SOURCE is NAME:SPLIT[a..b] of a known dataset (influence data list), T.npz with x and y,
a pair X.npy,Y.npy, T.csv, or a pair of idx files; rows [i] or [a..b] can follow any of them.

Exit codes: 0 done; 2 bad input, nothing written; 3 written, but something did not converge or is not finite;
130 interrupted, nothing written but what --resume goes on with; 1 anything else.";

/// What all commands share.
#[derive(Args, Debug)]
pub struct GlobalArgs {
    /// Print one JSON document on stdout instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Threads; the results have the same bits for any number [default: all processors]
    #[arg(long, global = true, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a linear model to the optimum, or a network
    Train(TrainArgs),
    /// Score every training example for every query
    Attribute(AttributeArgs),
    /// Score a few likely training examples for every query: the nearest in the inputs of a layer
    Fastif(FastIfArgs),
    /// Correct errors by steps on the training examples that are most helpful for them, beside controls
    Correct(CorrectArgs),
    /// Put queries and training examples that act on each other into common clusters, from a file of scores
    Clusters(ClustersArgs),
    /// Show the training examples that matter most for a query
    Explain(ExplainArgs),
    /// Rank training examples by self-influence, to find wrong labels
    Audit(AuditArgs),
    /// Retrain without the most influential examples, and compare with the prediction
    Verify(VerifyArgs),
    /// Retrain on random subsets, and tell how good scores are: the linear datamodelling score
    Lds(LdsArgs),
    /// Tell how far retraining bears influence out, over depth, width, weight decay and the size of the data
    Fragility(FragilityArgs),
    /// Predict what happens to queries without groups of training examples
    Group(GroupArgs),
    /// What if one group were not there: every order side by side, and how far to trust them
    WhatIf(WhatIfArgs),
    /// Find the group of a size that matters most to a query
    Select(SelectArgs),
    /// Show which features of training examples a query's loss depends on
    Perturb(PerturbArgs),
    /// Change training examples a little so that a test example is misclassified
    Attack(AttackArgs),
    /// Score pretraining examples for the predictions of a fine-tuned network
    Multistage(MultiStageArgs),
    /// Show the spectrum, and how stable the top 10 proponents are along the damping
    Damping(DampingArgs),
    /// List, fetch, check and show datasets
    #[command(subcommand)]
    Data(DataCommand),
}

/// `--model`.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelName {
    /// Softmax regression.
    Softmax,
    /// Binary logistic regression.
    Logistic,
    /// Linear support vector machine.
    Svm,
    /// A network described in a file.
    File(PathBuf),
    /// Dense layers of these widths with relu between them, for the data at hand.
    Mlp(Vec<usize>),
    /// 3x3 convolutions of these planes, each with relu and max pooling, and a dense layer.
    Cnn(Vec<usize>),
}

/// `256,128`.
fn sizes(text: &str) -> Result<Vec<usize>, String> {
    let size = |part: &str| part.parse().ok().filter(|size| *size > 0);
    text.split(',').map(size).collect::<Option<_>>().ok_or("expected sizes such as 256,128".into())
}

impl FromStr for ModelName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "softmax" => Ok(Self::Softmax),
            "logistic" => Ok(Self::Logistic),
            "svm" => Ok(Self::Svm),
            _ if text.ends_with(".toml") => Ok(Self::File(text.into())),
            _ => match text.split_once(':') {
                Some(("mlp", widths)) => sizes(widths).map(Self::Mlp),
                Some(("cnn", planes)) => sizes(planes).map(Self::Cnn),
                _ => Err(
                    "expected softmax, logistic, svm or FILE.toml; to train also mlp:256,128 or cnn:16,32"
                        .into(),
                ),
            },
        }
    }
}

/// `--family`.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum FamilyName {
    /// J = mean of the losses + l2/2 |theta|^2
    Mean,
    /// J = sum of the losses + l2/2 |theta|^2, biases not regularised
    Sum,
}

/// `--measure`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum MeasureName {
    /// The training loss
    Loss,
    /// The label's output over all others, as log-odds
    Margin,
    /// The label's output
    Logit,
}

/// A model and its training examples.
#[derive(Args, Debug)]
pub struct ModelArgs {
    /// softmax, logistic, svm, or a network described in FILE.toml; train also takes mlp:256,128 and cnn:16,32
    #[arg(long, value_name = "MODEL")]
    pub model: ModelName,
    /// Training examples
    #[arg(long, value_name = "SOURCE")]
    pub train: Source,
    /// Label column of csv tables [default: the last]
    #[arg(long, value_name = "COLUMN")]
    pub label: Option<String>,
    /// Temperature of the smooth hinge at which an svm is attributed [default: 0.001]
    #[arg(long, value_name = "T", value_parser = positive, allow_negative_numbers = true)]
    pub temperature: Option<f64>,
}

/// The objective that is, or was, minimised.
#[derive(Args, Debug)]
pub struct ObjectiveArgs {
    /// Strength of the regulariser (l2/2) |theta|^2
    #[arg(long, value_name = "L2", value_parser = non_negative, allow_negative_numbers = true)]
    pub l2: f64,
    /// The rest of it.
    #[command(flatten)]
    pub conventions: ConventionArgs,
}

/// What an objective is beside its l2.
#[derive(Args, Clone, Copy, Debug)]
pub struct ConventionArgs {
    /// Mean or sum of the losses
    #[arg(long, value_enum, value_name = "FAMILY", default_value = "mean")]
    pub family: FamilyName,
    /// l2 does not cover biases
    #[arg(long)]
    pub no_regularise_bias: bool,
}

/// Where the parameters come from.
#[derive(Args, Debug)]
pub struct WeightsArgs {
    /// Parameters: fc.weight and perhaps fc.bias, or those of the network [default: a linear model is trained to the optimum first]
    #[arg(long, value_name = "W.safetensors")]
    pub weights: Option<PathBuf>,
    /// Train without a bias
    #[arg(long, conflicts_with = "weights")]
    pub no_bias: bool,
}

/// A model with its training examples, and queries: what most questions start from.
#[derive(Args, Debug)]
pub struct QueryArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The parameters.
    #[command(flatten)]
    pub weights: WeightsArgs,
    /// Examples of which something is asked, such as digits:test[7]
    #[arg(long, value_name = "SOURCE")]
    pub query: Source,
    /// The objective.
    #[command(flatten)]
    pub objective: ObjectiveArgs,
    /// The device.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// The solves.
    #[command(flatten)]
    pub solve: SolveArgs,
}

/// `influence train`.
#[derive(Args, Debug)]
pub struct TrainArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The objective.
    #[command(flatten)]
    pub objective: ObjectiveArgs,
    /// Examples for the test accuracy
    #[arg(long, value_name = "SOURCE")]
    pub test: Option<Source>,
    /// Train without a bias
    #[arg(long)]
    pub no_bias: bool,
    /// Gradient norm to reach; for an svm the distance to the optimum [default: 1e-8; svm: 1e-6; lbfgs in
    /// f32: 1e-4]
    #[arg(long, value_name = "G", value_parser = positive, allow_negative_numbers = true)]
    pub gradient_norm: Option<f64>,
    /// Start from these parameters
    #[arg(long, value_name = "W.safetensors")]
    pub init: Option<PathBuf>,
    /// Where the parameters go; a network is described in W.toml beside them
    #[arg(long, value_name = "W.safetensors")]
    pub out: PathBuf,
    /// Networks only.
    #[command(flatten)]
    pub network: NetworkArgs,
}

/// Training of networks.
#[derive(Args, Debug)]
#[command(next_help_heading = "Networks")]
pub struct NetworkArgs {
    /// How steps are taken: adam or sgd on minibatches, or lbfgs on all examples until the gradient norm
    /// is reached, for small networks without kinks such as relu's [default: adam]
    #[arg(long, value_enum, value_name = "OPTIMIZER")]
    pub optimizer: Option<OptimizerName>,
    /// Passes over the examples [default: 10]
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub epochs: Option<usize>,
    /// Examples in a step [default: 128]
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub batch: Option<usize>,
    /// Largest learning rate [default: adam 1e-3; sgd 0.05]
    #[arg(long, value_name = "RATE", value_parser = positive, allow_negative_numbers = true)]
    pub learning_rate: Option<f64>,
    /// Of sgd [default: 0.9]
    #[arg(long, value_name = "M", value_parser = non_negative, allow_negative_numbers = true)]
    pub momentum: Option<f64>,
    /// What becomes of the learning rate [default: cosine]
    #[arg(long, value_enum, value_name = "SCHEDULE")]
    pub schedule: Option<ScheduleName>,
    /// Epochs between the changes of --schedule step [default: 10]
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub step_epochs: Option<usize>,
    /// Factor of each change of --schedule step [default: 0.1]
    #[arg(long, value_name = "F", value_parser = positive, allow_negative_numbers = true)]
    pub step_factor: Option<f64>,
    /// Steps of lbfgs at most [default: 1000]
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub max_iterations: Option<usize>,
    /// Of initial parameters and the order of the examples [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// The device.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Arithmetic, and the type of the weights [default: f32; lbfgs: f64]
    #[arg(long, value_enum, value_name = "PRECISION")]
    pub precision: Option<Precision>,
    /// Folder for checkpoints of adam or sgd and the manifest that replays the run
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// Go on with the run in --run from its last checkpoint
    #[arg(long)]
    pub resume: bool,
    /// Steps between checkpoints [default: an epoch]; the last step always has one
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub checkpoint_every: Option<usize>,
    /// Checkpoints at these steps, instead or beside
    #[arg(long, value_name = "STEP,...", value_delimiter = ',', value_parser = count, allow_negative_numbers = true)]
    pub checkpoint_at: Vec<usize>,
}

impl NetworkArgs {
    /// Whether a run of `per_epoch` steps an epoch has a checkpoint at `step`, its last one apart.
    pub fn is_checkpoint(&self, step: usize, per_epoch: usize) -> bool {
        let every = self.checkpoint_every.or_else(|| self.checkpoint_at.is_empty().then_some(per_epoch));
        every.is_some_and(|every| step.is_multiple_of(every)) || self.checkpoint_at.contains(&step)
    }

    /// An option that was given: it would be passed over where no network is trained.
    pub fn given(&self) -> Option<&'static str> {
        let common = [
            (self.optimizer.is_some(), "--optimizer"),
            (self.max_iterations.is_some(), "--max-iterations"),
            (self.seed.is_some(), "--seed"),
            (self.precision.is_some(), "--precision"),
            (matches!(self.device.device, DeviceName::Cuda(_) | DeviceName::AllCuda), "--device cuda"),
        ];
        self.given_for_minibatches().or_else(|| first(&common))
    }

    /// An option that was given, of those that say how minibatches are trained on.
    pub fn given_for_minibatches(&self) -> Option<&'static str> {
        first(&[
            (self.epochs.is_some(), "--epochs"),
            (self.batch.is_some(), "--batch"),
            (self.learning_rate.is_some(), "--learning-rate"),
            (self.momentum.is_some(), "--momentum"),
            (self.schedule.is_some(), "--schedule"),
            (self.step_epochs.is_some(), "--step-epochs"),
            (self.step_factor.is_some(), "--step-factor"),
            (self.run.is_some(), "--run"),
            (self.resume, "--resume"),
            (self.checkpoint_every.is_some(), "--checkpoint-every"),
            (!self.checkpoint_at.is_empty(), "--checkpoint-at"),
        ])
    }
}

fn first(options: &[(bool, &'static str)]) -> Option<&'static str> {
    options.iter().find_map(|(given, name)| given.then_some(*name))
}

/// `--optimizer`.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum OptimizerName {
    /// Kingma and Ba 2015
    Adam,
    /// Stochastic gradient descent with momentum
    Sgd,
    /// All examples at once, to an optimum
    Lbfgs,
}

/// `--schedule`.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum ScheduleName {
    /// The same for all steps
    Constant,
    /// Half a cosine down to 0
    Cosine,
    /// Multiplied by --step-factor every --step-epochs
    Step,
}

/// `influence explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// The model and the queries.
    #[command(flatten)]
    pub base: QueryArgs,
    /// What is explained of a query
    #[arg(long, value_enum, value_name = "MEASURE", default_value = "loss")]
    pub measure: MeasureName,
    /// Proponents and opponents to show
    #[arg(long, value_name = "K", default_value = "5", value_parser = count, allow_negative_numbers = true)]
    pub top: usize,
    /// Draw images even where stdout is no terminal
    #[arg(long)]
    pub pictures: bool,
    /// Arithmetic [default: f64; networks: f32]
    #[arg(long, value_enum, value_name = "PRECISION")]
    pub precision: Option<Precision>,
}

/// `influence audit`.
#[derive(Args, Debug)]
pub struct AuditArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The parameters.
    #[command(flatten)]
    pub weights: WeightsArgs,
    /// Examples to show
    #[arg(long, value_name = "K", default_value = "20", value_parser = count, allow_negative_numbers = true)]
    pub top: usize,
    /// First flip the labels of this fraction of the examples, and show how many of them are found
    #[arg(long, value_name = "FRACTION", conflicts_with = "weights", value_parser = fraction, allow_negative_numbers = true)]
    pub flip: Option<f64>,
    /// Seed of --flip and of the random baseline
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Write every example with all its ranks as a csv table
    #[arg(long, value_name = "OUT.csv")]
    pub output: Option<PathBuf>,
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

/// `influence verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The model and the queries.
    #[command(flatten)]
    pub base: QueryArgs,
    /// Training examples to leave out for each query: those with the largest scores, whatever their sign
    #[arg(long, value_name = "K", default_value = "20", value_parser = count, allow_negative_numbers = true)]
    pub top: usize,
}

/// `influence damping`.
#[derive(Args, Debug)]
pub struct DampingArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The parameters.
    #[command(flatten)]
    pub weights: WeightsArgs,
    /// Examples whose proponents are followed
    #[arg(long, value_name = "SOURCE")]
    pub query: Source,
    /// The objective.
    #[command(flatten)]
    pub objective: ObjectiveArgs,
    /// Damping that all others are compared with [default: the recommended one]
    #[arg(long, value_name = "D", value_parser = non_negative, allow_negative_numbers = true)]
    pub damping: Option<f64>,
    /// Which second derivative
    #[arg(long, value_enum, value_name = "CURVATURE", default_value = "hessian")]
    pub curvature: CurvatureName,
    /// Layers whose parameters count, by name, or last; the others are constants [default: all]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub layers: Vec<String>,
    /// Products for each query and each of 3 random starts, at most; as many vectors are kept in memory
    #[arg(long, value_name = "N", default_value = "100", value_parser = count, allow_negative_numbers = true)]
    pub steps: usize,
    /// True relative residual up to which a ranking is believed
    #[arg(long, value_name = "TOL", default_value = "1e-4", value_parser = fraction, allow_negative_numbers = true)]
    pub tolerance: f64,
    /// Write the spectrum and the path as a picture
    #[arg(long, value_name = "OUT.svg")]
    pub plot: Option<PathBuf>,
    /// The device.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Arithmetic [default: f64; networks: f32]
    #[arg(long, value_enum, value_name = "PRECISION")]
    pub precision: Option<Precision>,
    /// Memory to keep to, such as 2GiB; the results have the same bits for any
    #[arg(long, value_name = "BYTES", default_value = "1536MiB", value_parser = bytes)]
    pub memory_budget: usize,
}

/// `influence data`.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// List the known datasets and where they are
    List,
    /// Download a dataset into the cache folder
    Fetch {
        /// Its name
        name: String,
        /// Take the files from URL/FILE instead of where they are published
        #[arg(long, value_name = "URL")]
        mirror: Option<String>,
    },
    /// Check the files of one dataset, or of all that are here, against their checksums
    Verify {
        /// Its name
        name: Option<String>,
    },
    /// Show what a source holds
    Show {
        /// Such as mnist:test[0..100] or T.npz
        source: Source,
        /// Label column of csv tables [default: the last]
        #[arg(long, value_name = "COLUMN")]
        label: Option<String>,
    },
}
