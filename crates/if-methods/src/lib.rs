#![doc = include_str!("../README.md")]

mod damping_path;
mod error;
mod evaluation;
mod influence;
mod leave_out;
mod mislabel;
mod ranking;
mod scores;

pub use damping_path::{DampingPath, DampingReport, PathPoint, PointStatus, QueryPath, Spectrum, TOP};
pub use error::MethodError;
pub use evaluation::{Agreement, pearson, slope_through_origin, spearman};
pub use influence::{Influence, QUERY_BLOCK};
pub use leave_out::{LossChanges, leave_out, leave_out_near, loss_changes, loss_changes_near};
pub use mislabel::{RecallCurve, random_order};
pub use ranking::{Extremes, Ranked, descending};
pub use scores::{ScoreRows, ScoreUnit, Scores};
