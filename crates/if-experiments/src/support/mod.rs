//! What the experiments share: data and models, retraining without examples, and how both are shown.

mod images;
mod over_seeds;
mod problem;
mod removal;
mod show;
mod two_stages;

pub use images::{conv, dense, draw, nine, pixels_of, resampled};
pub use over_seeds::{OverSeeds, agreement_cells};
pub use problem::{F64, Problem, fit, influence, load, newton, predict, predicted};
pub use removal::{FACTORED, Removals, strongest, union};
pub use show::{Pictured, Targets, agreement_row, ink, judged, pairs_plot};
pub use two_stages::{Embedding, TwoStages, WAYS};
