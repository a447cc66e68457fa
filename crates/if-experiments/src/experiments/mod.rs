//! One file per experiment.

mod counterexamples;
mod digits_loo;
mod hinge;
mod mislabel;
mod softmax_loo;

pub use counterexamples::Counterexamples;
pub use digits_loo::DigitsLoo;
pub use hinge::Hinge;
pub use mislabel::Mislabel;
pub use softmax_loo::SoftmaxLoo;
