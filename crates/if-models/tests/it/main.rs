//! All integration tests in one program: the networks they instantiate are compiled once.

#[macro_use]
#[path = "../../../if-linalg/tests/it/devices.rs"]
mod devices;

mod common;
mod datainf;
mod dataset;
mod dual;
mod kronecker;
mod layers;
mod lbfgs;
mod lissa;
mod losses;
mod minibatch;
mod networks;
mod parity;
mod readme;
mod risk;
mod scoring;
mod training;
mod truncation;
mod unfrozen;
mod weights;
