#![doc = include_str!("../README.md")]

mod activation;
mod backend;
mod block;
mod bytes;
mod dense;
mod error;
#[cfg(not(feature = "lapack"))]
mod factor_faer;
#[cfg(feature = "lapack")]
mod factor_lapack;
mod host;
mod inverse;
mod lanczos;
mod lanes;
mod loss;
mod mapped;
mod observer;
mod operator;
mod real;
mod report;
mod signs;
mod solver;
mod tanh;
pub mod testing;
mod window;

pub use activation::Activation;
#[cfg(feature = "cuda")]
pub use backend::cuda::{Cuda, CudaBuffer, CudaError, CudaOptions, CudaReal, Products, cuda_devices};
pub use backend::{Adam, Backend, CgProducts, CgStep, Cpu, View, ViewMut, side_by_side};
pub use block::{Block, Layout, Segment};
pub use bytes::Bytes;
pub use dense::{CholeskyFactor, NotPositiveDefinite, SymmetricMatrix};
pub use error::LinalgError;
pub use host::HostArray;
pub use inverse::{Approximation, Inverse};
pub use lanczos::{Lanczos, Ritz, lanczos, lanczos_extremes};
pub use loss::{Loss, Target, sigmoid, softplus};
pub use mapped::Mapped;
pub use observer::Observer;
pub use operator::{
    Definiteness, DenseOperator, FiniteSumOperator, LinearOperator, LowRank, Scaled, Shifted, Sum, by_columns,
};
pub use real::Real;
pub use report::{ColumnReport, Solution, SolveReport, Termination, number_or_nan};
pub use signs::SignStream;
pub use solver::{
    Approximate, Arnoldi, BlockCg, Cg, Cholesky, Complement, CurvatureRoot, Dual, Eigen, Kronecker,
    KroneckerFactors, LayerBlocks, Lissa, LowRankFactors, LowRankInverse, Nearby, NearbyCg, Neumann,
    Nystroem, PreconditionedCg, Prepared, PublishedLissa, Solver,
};
pub use window::Window;
