//! All integration tests in one program: the solvers they instantiate are compiled once.

#[macro_use]
mod devices;
mod convolution;
mod kernels;
mod lissa;
mod low_rank;
mod rows;
mod safety;
mod solvers;
