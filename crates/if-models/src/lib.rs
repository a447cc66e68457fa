//! Functions and their derivatives.

mod assembly;
mod chord;
mod curvature;
mod dataset;
mod error;
mod gram;
mod inputs;
pub mod layer;
mod lbfgs;
mod network;
mod newton;
mod passes;
mod risk;
mod spec;
mod svm;
pub mod testing;
mod train;
mod weights;

pub use chord::Chord;
pub use curvature::{Curvature, CurvatureOperator};
pub use dataset::Dataset;
pub use error::ModelError;
pub use gram::{Gram, GramNewton};
pub use if_linalg::{Activation, HostArray, Loss};
pub use inputs::{Batch, Inputs, ROW_BLOCK, Rows};
pub use lbfgs::Lbfgs;
pub use network::{Directions, Network, Point, Tape};
pub use newton::{Fit, FitReport, NewtonCg};
pub use risk::{EmpiricalRisk, Family, Removal, RiskSettings};
pub use spec::{Approximation, LayerSpec, ModelSpec};
pub use svm::HingeSvm;
pub use train::{Optimizer, Schedule, StepReport, TrainState, Training};
pub use weights::Tensors;
