//! One file per experiment.

mod digits_loo;
mod softmax_loo;

pub use digits_loo::DigitsLoo;
pub use softmax_loo::SoftmaxLoo;
