//! What the experiments share: data and models, retraining without examples, and how both are shown.

mod checkpoints;
mod group_removal;
mod hospital;
mod images;
mod over_seeds;
mod pairs;
mod problem;
mod recall;
mod removal;
mod show;
mod synthetic;
mod two_stages;

pub use checkpoints::train_with_checkpoints;
pub use group_removal::{all_converged, group_effects, loss_change, retrained};
pub use hospital::Hospital;
pub use images::{conv, dense, draw, nine, pixels_of, resampled};
pub use over_seeds::{OverSeeds, agreement_cells, each_seed, line, ranking_cells};
pub use pairs::{PAIRS_DAMPING, PAIRS_L2, PairModel, PairSplits, pair_influence};
pub use problem::{F64, Problem, binary, fit, influence, load, newton, predict, predicted, two_digits};
pub use recall::Recalls;
pub use removal::{FACTORED, Removals, strongest, union};
pub use show::{Pictured, Targets, agreement_row, ink, judged, pairs_plot};
pub use synthetic::{dataset, logistic_labels, two_normals};
pub use two_stages::{Embedding, TwoStages, WAYS};
