//! One file per experiment.

mod attack;
mod children;
mod convnet;
mod counterexamples;
mod credit;
mod digits_loo;
mod distance;
mod error_correction;
mod fast_if;
mod fragility;
mod group_effects;
mod hinge;
mod mislabel;
mod second_order;
mod selection;
mod softmax_loo;
mod tracin;
mod two_stages;

pub use attack::TrainingSetAttack;
pub use children::Children;
pub use convnet::ConvNet;
pub use counterexamples::Counterexamples;
pub use credit::Credit;
pub use digits_loo::DigitsLoo;
pub use distance::Distance;
pub use error_correction::ErrorCorrection;
pub use fast_if::FastIf;
pub use fragility::Fragility;
pub use group_effects::GroupEffects;
pub use hinge::Hinge;
pub use mislabel::Mislabel;
pub use second_order::SecondOrder;
pub use selection::GroupSelection;
pub use softmax_loo::SoftmaxLoo;
pub use tracin::TracInMislabel;
pub use two_stages::TwoStageInfluence;
