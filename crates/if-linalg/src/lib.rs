//! Numbers for influence functions: blocks of vectors, linear operators, and solvers of
//! `(H + damping I) x = b` that say how far their answer can be trusted.
//!
//! This crate knows nothing of models or data. Give it any symmetric operator:
//!
//! ```
//! use if_linalg::{Block, Cg, Cpu, DenseOperator, Shifted, Solver, SymmetricMatrix, LinearOperator};
//!
//! let cpu = Cpu::<f64>::new();
//! let hessian = SymmetricMatrix::from_rows(2, vec![2.0, 1.0, 1.0, 2.0]);
//! let hessian = DenseOperator::new(&cpu, &hessian);
//! let system = Shifted { operator: &hessian, shift: 0.1 };
//!
//! let b = Block::from_f64(&cpu, system.layout(), &[1.0, 0.0]);
//! let cg = Cg { tolerance: 1e-10, max_iterations: 100 };
//! let solution = cg.prepare(&system)?.solve(&b, &());
//!
//! println!("{}", solution.report.summary());
//! assert!(solution.report.all_converged());
//! assert!((solution.x.to_f64()[0] - 2.1 / 3.41).abs() < 1e-9);
//! # Ok::<(), if_linalg::LinalgError>(())
//! ```

mod backend;
mod block;
mod dense;
mod error;
#[cfg(not(feature = "lapack"))]
mod factor_faer;
#[cfg(feature = "lapack")]
mod factor_lapack;
mod host;
mod lanczos;
mod loss;
mod observer;
mod operator;
mod real;
mod report;
mod solver;
pub mod testing;

pub use backend::{Backend, Cpu, View, ViewMut};
pub use block::{Block, Layout, Segment};
pub use dense::{CholeskyFactor, NotPositiveDefinite, SymmetricMatrix};
pub use error::LinalgError;
pub use host::HostArray;
pub use lanczos::lanczos_extremes;
pub use loss::{Loss, sigmoid, softplus};
pub use observer::Observer;
pub use operator::{
    Definiteness, DenseOperator, FiniteSumOperator, LinearOperator, LowRank, Scaled, Shifted, Sum, by_columns,
};
pub use real::Real;
pub use report::{ColumnReport, Solution, SolveReport, Termination};
pub use solver::{Cg, Cholesky, Prepared, Solver};
