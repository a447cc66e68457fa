//! What the experiments share: data and models, retraining without examples, and how both are shown.

mod problem;
mod recall;
mod removal;
mod show;

pub use problem::{F64, Problem, fit, influence, load, newton, predict, predicted};
pub use recall::Recalls;
pub use removal::{FACTORED, Removals, strongest, union};
pub use show::{Pictured, Targets, agreement_row, judged, pairs_plot};
