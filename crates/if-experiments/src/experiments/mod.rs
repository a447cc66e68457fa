//! One file per experiment.

mod digits_loo;
mod fast_if;
mod fragility;
mod hinge;
mod mislabel;
mod softmax_loo;
mod tracin;

pub use digits_loo::DigitsLoo;
pub use fast_if::FastIf;
pub use fragility::Fragility;
pub use hinge::Hinge;
pub use mislabel::Mislabel;
pub use softmax_loo::SoftmaxLoo;
pub use tracin::TracInMislabel;
