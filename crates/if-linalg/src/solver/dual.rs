//! Exact solves in the space of the examples: for fewer terms of curvature than parameters.
//!
//! Woodbury 1950. With `C = sum_c u_c u_c^T = U^T U` of `r` rows `u_c`, such as a Gauss-Newton matrix of `n` examples
//! with `k` outputs (`r = n k`), and `A = C + shift I`:
//!
//! ```text
//! x = (b - U^T (shift I + U U^T)^-1 U b) / shift
//! ```
//!
//! The `r x r` matrix is factored once, in `f64` whatever the backend computes in; a right-hand side costs two
//! products with `U`, whatever the conditioning.
//!
//! Deviations:
//! 1. The difference loses `|C| / shift` in accuracy. Columns above the tolerance are refined, `x + W (b - A x)` with
//!    `W` the formula above and `A` the full operator, for as long as that halves the true residual. In `f32` and for
//!    right-hand sides in the span of `U`, where gradients of the loss lie, the first step gains two or three digits.

use std::sync::Arc;

use super::{Prepared, Solver, WORTHWHILE, certified, failed, fits, spectrum, true_residuals};
use crate::{
    Backend, Block, CholeskyFactor, LinalgError, LinearOperator, Observer, Solution, SymmetricMatrix,
    Termination,
};

/// A square root of the curvature, `C = sum_c u_c u_c^T`: weights such as `1/n` are inside the `r` vectors `u_c`.
/// Nothing asks for the vectors themselves.
pub trait CurvatureRoot<B: Backend>: Send + Sync {
    /// Number of vectors, `r`.
    fn rank(&self) -> usize;

    /// `<u_c, u_d>` for all pairs, `r x r`.
    fn gram(&self) -> SymmetricMatrix;

    /// `<x_j, u_c>` for every vector of `x`: `x.k() x r`, row-major.
    fn project(&self, x: &Block<B>) -> Vec<f64>;

    /// `y_j = sum_c c_jc u_c` for every vector of `y`, with `c` as [`project`](Self::project) returns it.
    fn expand(&self, c: &[f64], y: &mut Block<B>);
}

/// The solver of an operator whose curvature has a known root.
pub struct Dual<'s, B: Backend> {
    /// The root of `C`, where the operator is `C` plus its [`damping`](LinearOperator::damping) times the identity. One
    /// that does not belong to the operator shows in the residuals.
    pub root: Arc<dyn CurvatureRoot<B> + 's>,
    /// Relative residual above which a column is reported as [`Termination::Stagnated`].
    pub tolerance: f64,
    /// Bytes the `r x r` matrix may take.
    pub memory_budget: usize,
}

const NAME: &str = "dual";

impl<B: Backend> Solver<B> for Dual<'_, B> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare<'a>(
        &self,
        operator: &'a dyn LinearOperator<B>,
    ) -> Result<Box<dyn Prepared<B> + 'a>, LinalgError>
    where
        Self: 'a,
    {
        fits(self.root.rank(), 1, self.memory_budget)?;
        let shift = operator.damping();
        let factor = factorise(self.root.as_ref(), shift);
        let inverse = factor.map(|factor| Woodbury { root: self.root.clone(), factor, shift });
        let eigenvalues = spectrum(operator);
        Ok(Box::new(PreparedDual { operator, inverse, eigenvalues, tolerance: self.tolerance }))
    }
}

/// `L` of `shift I + U U^T`.
fn factorise<B: Backend>(root: &dyn CurvatureRoot<B>, shift: f64) -> Result<CholeskyFactor, Termination> {
    // A shift that is not a number is not above 0 either.
    if shift.is_nan() || shift <= 0.0 {
        return Err(Termination::Singular);
    }
    let mut gram = root.gram();
    gram.add_diagonal(shift);
    if !gram.is_finite() {
        return Err(Termination::NonFinite);
    }
    // A Gram matrix is not negative: what fails is a shift below its rounding.
    gram.cholesky().map_err(|_| Termination::Singular)
}

/// `(I - U^T (shift I + U U^T)^-1 U) / shift`.
struct Woodbury<'a, B: Backend> {
    root: Arc<dyn CurvatureRoot<B> + 'a>,
    factor: CholeskyFactor,
    shift: f64,
}

impl<B: Backend> Woodbury<'_, B> {
    fn apply(&self, b: &Block<B>) -> Block<B> {
        let mut c = self.root.project(b);
        self.factor.solve(&mut c);
        let mut x = Block::zeros(b.backend(), b.layout(), b.k());
        self.root.expand(&c, &mut x);
        x.axpby(1.0 / self.shift, b, -1.0 / self.shift);
        x
    }
}

struct PreparedDual<'a, B: Backend> {
    operator: &'a dyn LinearOperator<B>,
    inverse: Result<Woodbury<'a, B>, Termination>,
    eigenvalues: Option<[f64; 2]>,
    tolerance: f64,
}

impl<B: Backend> Prepared<B> for PreparedDual<'_, B> {
    fn solve(&self, b: &Block<B>, _: &dyn Observer) -> Solution<B> {
        let inverse = match &self.inverse {
            Ok(inverse) => inverse,
            Err(termination) => return failed(NAME, self.operator, b, *termination, self.tolerance),
        };
        let (x, residuals, products) = self.refine(inverse, b);
        let otherwise = (Termination::Stagnated, self.eigenvalues);
        let mut solution = certified(NAME, self.operator, (x, residuals), self.tolerance, otherwise);
        let columns = solution.report.columns.iter_mut().zip(products);
        columns.for_each(|(column, products)| column.products = products);
        solution
    }
}

impl<B: Backend> PreparedDual<'_, B> {
    /// Solutions, their true residuals, and the products each took.
    fn refine(&self, inverse: &Woodbury<B>, b: &Block<B>) -> (Block<B>, Vec<f64>, Vec<usize>) {
        let mut x = inverse.apply(b);
        let (mut r, mut residuals) = true_residuals(self.operator, b, &x);
        let mut products = vec![1; b.k()];
        let mut active: Vec<usize> = (0..b.k()).filter(|&j| residuals[j] > self.tolerance).collect();
        while !active.is_empty() {
            let mut refined = inverse.apply(&r.select(&active));
            refined.axpby(1.0, &x.select(&active), 1.0);
            let (left, relative) = true_residuals(self.operator, &b.select(&active), &refined);
            let mut stay = Vec::new();
            for (row, (&j, relative)) in active.iter().zip(relative).enumerate() {
                products[j] += 1;
                if relative > self.tolerance && relative <= WORTHWHILE * residuals[j] {
                    stay.push(j);
                }
                if relative < residuals[j] {
                    x.set_row(j, &refined, row);
                    r.set_row(j, &left, row);
                    residuals[j] = relative;
                }
            }
            active = stay;
        }
        (x, residuals, products)
    }
}
