//! One file per experiment.

mod children;
mod counterexamples;
mod credit;
mod digits_loo;
mod group_effects;
mod hinge;
mod mislabel;
mod second_order;
mod selection;
mod softmax_loo;

pub use children::Children;
pub use counterexamples::Counterexamples;
pub use credit::Credit;
pub use digits_loo::DigitsLoo;
pub use group_effects::GroupEffects;
pub use hinge::Hinge;
pub use mislabel::Mislabel;
pub use second_order::SecondOrder;
pub use selection::GroupSelection;
pub use softmax_loo::SoftmaxLoo;
