#![doc = include_str!("../README.md")]

mod attack;
mod co_clustering;
mod correction;
mod damping_path;
mod error;
mod evaluation;
mod fast_if;
mod fine_tuning;
mod fragility;
mod group;
#[cfg(feature = "usearch")]
mod hnsw;
mod influence;
mod leave_out;
mod mislabel;
mod multi_stage;
mod perturbation;
mod ranking;
mod representer;
mod scores;
mod seed_noise;
mod tracin;
mod trak;

pub use attack::{Attack, Attacked};
pub use co_clustering::{CoClusters, arranged, by_largest};
pub use correction::{Correction, Pull, nearest_to_mean};
pub use damping_path::{DampingPath, DampingReport, PathPoint, PointStatus, QueryPath, Spectrum, TOP};
pub use error::MethodError;
pub use evaluation::{Agreement, DatamodelScore, pearson, slope_through_origin, spearman};
pub use fast_if::{nearest, recall};
pub use fine_tuning::FineTuning;
pub use fragility::{ByLissa, Fragility, FragilityTrial};
pub use group::{
    GroupDraw, GroupEffects, GroupInfluence, Order, ParameterChanges, Selected, Selection, Tail,
};
#[cfg(feature = "usearch")]
pub use hnsw::nearest_by_graph;
pub use influence::{Influence, QUERY_BLOCK};
pub use leave_out::{LossChanges, leave_out, leave_out_near, loss_changes, loss_changes_near};
pub use mislabel::{RecallCurve, random_order};
pub use multi_stage::{MultiStage, Stage, Tuning};
pub use ranking::{Extremes, Ranked, descending};
pub use representer::{Representers, representers};
pub use scores::{ScoreRows, ScoreUnit, Scores, Truncation};
pub use seed_noise::SeedNoise;
pub use tracin::{Checkpoint, TracIn, ideal_tracin, sketch_products};
pub use trak::trak;
