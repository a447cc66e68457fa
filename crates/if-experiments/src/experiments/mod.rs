//! One file per experiment.

mod attack;
mod convnet;
mod digits_loo;
mod distance;
mod hinge;
mod mislabel;
mod softmax_loo;
mod two_stages;

pub use attack::TrainingSetAttack;
pub use convnet::ConvNet;
pub use digits_loo::DigitsLoo;
pub use distance::Distance;
pub use hinge::Hinge;
pub use mislabel::Mislabel;
pub use softmax_loo::SoftmaxLoo;
pub use two_stages::TwoStageInfluence;
