//! How systems are solved, as it is written.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::parse::{Damping, bytes, count, damping, fraction, positive, repeats};

/// `--solver`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SolverName {
    /// Conjugate gradients
    Cg,
    /// Conjugate gradients in which all queries of a block share one search space: fewer products each
    BlockCg,
    /// Stochastic Neumann series on minibatches (Agarwal et al. 2017), averaged over its tail and repeats
    Lissa,
    /// Neumann series on all examples
    Neumann,
    /// The explicit matrix, factored; with --per-layer its diagonal blocks
    Cholesky,
    /// The explicit matrix in its eigenvectors: exact, and knows the whole spectrum
    Eigen,
    /// Gauss-Newton solved in examples x outputs instead of parameters: exact where these are few
    Dual,
    /// The largest eigenpairs that Lanczos finds, and nothing else (Schioppa et al. 2022)
    Arnoldi,
    /// A random low-rank sketch plus damping (Frangella et al. 2021)
    Nystroem,
    /// Kronecker factors of each layer (Martens & Grosse 2015)
    Kfac,
    /// K-FAC with corrected eigenvalues (George et al. 2018)
    Ekfac,
    /// Sum and inverse exchanged, layer by layer (Kwon et al. 2023)
    Datainf,
    /// The diagonal of the Gauss-Newton matrix
    Diagonal,
    /// No curvature: inner products of gradients
    Identity,
}

/// `--preconditioner`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PreconditionerName {
    /// Plain conjugate gradients
    None,
    /// The diagonal of the Gauss-Newton matrix
    Diagonal,
    /// K-FAC
    Kfac,
    /// EK-FAC
    Ekfac,
    /// A random low-rank sketch: one for all queries
    Nystroem,
}

/// `--removal`.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum RemovalName {
    /// The other examples keep their weight 1/n
    Fixed,
    /// They get 1/(n - 1)
    #[value(alias = "renormalized")]
    Renormalised,
}

/// `--curvature`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum CurvatureName {
    /// Second derivative of the loss
    Hessian,
    /// Its positive semidefinite part; the same for linear models
    GaussNewton,
    /// Mean outer product of the loss gradients (empirical Fisher)
    Fisher,
}

/// `--labels`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LabelsName {
    /// The expectation over all classes
    Exact,
    /// One label per example, drawn from the model's probabilities
    Sampled,
}

/// `--preset`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PresetName {
    /// Koh & Liang 2017
    KohLiang,
    /// FastIF (Guo et al. 2021) on MNLI
    FastifMnli,
    /// FastIF on HANS
    FastifHans,
    /// FastIF on ANLI
    FastifAnli,
}

/// How `(C + (l2 + damping) I) x = b` is solved, and what removal means.
#[derive(Args, Debug)]
#[command(next_help_heading = "Influence")]
pub struct SolveArgs {
    /// What happens to the other examples' weight when one is removed
    #[arg(long, value_enum, value_name = "REMOVAL", default_value = "fixed")]
    pub removal: RemovalName,
    /// How systems are solved [default: cg; fastif, correct and multistage: block-cg; audit: cholesky for small linear models]
    #[arg(long, value_enum, value_name = "SOLVER")]
    pub solver: Option<SolverName>,
    /// Added to the diagonal, in units of the curvature; auto: a tenth of the mean eigenvalue [default: 0, of a preset its own]
    #[arg(long, value_name = "auto|D", value_parser = damping, allow_negative_numbers = true)]
    pub damping: Option<Damping>,
    /// Which second derivative [default: hessian; dual, kfac, ekfac and diagonal: gauss-newton; datainf: fisher]
    #[arg(long, value_enum, value_name = "CURVATURE")]
    pub curvature: Option<CurvatureName>,
    /// Layers whose parameters count, by name, or last; the others are constants [default: all]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub layers: Vec<String>,
    /// True relative residual to reach [default: 1e-8 in f64, 1e-4 in f32; lissa: 0.05]
    #[arg(long, value_name = "TOL", value_parser = fraction, allow_negative_numbers = true)]
    pub tolerance: Option<f64>,
    /// Iterations of cg, block-cg and neumann at most [default: 1000]
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub max_iterations: Option<usize>,
    /// Memory to keep to, such as 2GiB; the results have the same bits for any
    #[arg(long, value_name = "BYTES", default_value = "1536MiB", value_parser = bytes)]
    pub memory_budget: usize,
    /// Folder that keeps fitted factors and sketches, and takes them from there as long as nothing they depend on changes
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// The settings of one solver.
    #[command(flatten)]
    pub own: OwnArgs,
}

/// What only some solvers take.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Settings of single solvers")]
pub struct OwnArgs {
    /// What cg is preconditioned by [default: none]
    #[arg(long, value_enum, value_name = "NAME")]
    pub preconditioner: Option<PreconditionerName>,
    /// Factor each layer alone (cholesky): a block-diagonal approximation
    #[arg(long)]
    pub per_layer: bool,
    /// Of nystroem and arnoldi, as solver or preconditioner [default: 200]
    #[arg(long, value_name = "R", value_parser = count, allow_negative_numbers = true)]
    pub rank: Option<usize>,
    /// Labels in the statistics of kfac, ekfac and diagonal [default: exact up to 20 outputs]
    #[arg(long, value_enum, value_name = "LABELS")]
    pub labels: Option<LabelsName>,
    /// Steps of lissa [default: from the spectrum]
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub depth: Option<usize>,
    /// Runs of lissa that are averaged [default: 4]
    #[arg(long, value_name = "N", value_parser = repeats)]
    pub repeats: Option<usize>,
    /// What lissa and neumann divide products by: above the largest eigenvalue of a batch [default: from the spectrum]
    #[arg(long, value_name = "S", value_parser = positive, allow_negative_numbers = true)]
    pub scale: Option<f64>,
    /// Examples in a product of lissa [default: from the spectrum]
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub batch: Option<usize>,
    /// Published settings of lissa, with their damping translated to --damping
    #[arg(long, value_enum, value_name = "PRESET")]
    pub preset: Option<PresetName>,
    /// Of lissa, nystroem, arnoldi and sampled labels [default: 0]
    #[arg(long, value_name = "N")]
    pub solver_seed: Option<u64>,
}
