//! Block conjugate gradients: all right-hand sides search one Krylov space together.
//!
//! O'Leary 1980, in the form of Dubrulle 2001 (BCGrQ) that keeps the residuals as a product `R = C Q` with
//! orthonormal rows `Q`. Vectors are rows; `S` are the directions:
//!
//! ```text
//! R = C Q                                 S = Q
//! Z = S A     T = S Z^T     X += C T^-1 S
//! Q - T^-1 Z = zeta Q'      S = Q' + zeta^T S      C = C zeta
//! ```
//!
//! The residual of column `j` has norm `|C_j|`. With `k` right-hand sides an iteration costs at most `k` products, and
//! after `m` iterations the solution is the best of `m k` dimensions: the more queries, the fewer products
//! each needs.
//!
//! Deviations:
//! 1. The factors come from the eigenvectors of `R R^T`, twice. Directions that rounding cannot tell from
//!    zero are dropped: equal, dependent or finished right-hand sides make the block smaller, not singular.
//! 2. `C` only *proposes* convergence, as the recursive residual of [`Cg`](super::Cg) does: the true residual is
//!    recomputed, and columns above the tolerance start again from it.
//! 3. A direction with `s A s <= 0` ends all columns that have not converged as `NegativeCurvature` or
//!    `Singular`: they share it.

use super::orthonormal::{factors, matrix, product, symmetric, transposed};
use super::{Prepared, Solver, proposal, true_residuals, verdict};
use crate::{
    Backend, Block, ColumnReport, LinalgError, LinearOperator, Observer, Solution, SolveReport, Termination,
};

/// Conjugate gradients with one Krylov space for all right-hand sides.
#[derive(Clone, Debug)]
pub struct BlockCg {
    /// True relative residual to reach, `|b - A x| <= tolerance |b|`.
    pub tolerance: f64,
    /// Iterations at most.
    pub max_iterations: usize,
}

impl<B: Backend> Solver<B> for BlockCg {
    fn name(&self) -> &'static str {
        "block-cg"
    }

    fn prepare<'a>(
        &self,
        operator: &'a dyn LinearOperator<B>,
    ) -> Result<Box<dyn Prepared<B> + 'a>, LinalgError>
    where
        Self: 'a,
    {
        Ok(Box::new(PreparedBlockCg { settings: self.clone(), operator }))
    }
}

struct PreparedBlockCg<'a, B: Backend> {
    settings: BlockCg,
    operator: &'a dyn LinearOperator<B>,
}

impl<B: Backend> Prepared<B> for PreparedBlockCg<'_, B> {
    fn solve(&self, b: &Block<B>, observer: &dyn Observer) -> Solution<B> {
        let mut run = Run::new(self, b);
        while !run.active.is_empty() {
            let ended = run.descend(observer);
            run.check(ended);
            observer.progress("block conjugate gradients", b.k() - run.active.len(), b.k());
        }
        run.finish()
    }
}

/// The columns that are not finished, and the report of those that are.
struct Run<'a, B: Backend> {
    settings: &'a BlockCg,
    operator: &'a dyn LinearOperator<B>,
    b: &'a Block<B>,
    b_norms: Vec<f64>,
    solution: Block<B>,
    columns: Vec<Option<ColumnReport>>,
    /// Columns of `b` in the block.
    active: Vec<usize>,
    /// Their residuals over the norm of `b`, so that all weigh the same.
    residuals: Block<B>,
    /// The largest relative residual when the block last started.
    last_true: f64,
    iterations: usize,
    /// Rayleigh quotients seen.
    eigenvalues: Option<[f64; 2]>,
}

impl<'a, B: Backend> Run<'a, B> {
    fn new(prepared: &'a PreparedBlockCg<'a, B>, b: &'a Block<B>) -> Self {
        let b_norms = b.norms();
        let zeros = Block::zeros(b.backend(), b.layout(), b.k());
        let mut run = Self {
            settings: &prepared.settings,
            operator: prepared.operator,
            b,
            solution: zeros,
            columns: vec![None; b.k()],
            active: Vec::new(),
            residuals: b.select(&[]),
            last_true: 1.0,
            iterations: 0,
            eigenvalues: None,
            b_norms,
        };
        for j in 0..b.k() {
            match run.b_norms[j] {
                0.0 => run.end(j, Termination::Converged, 0.0),
                norm if !norm.is_finite() => run.end(j, Termination::NonFinite, f64::NAN),
                _ => run.active.push(j),
            }
        }
        run.residuals = run.relative(b.select(&run.active));
        run
    }

    /// The vectors of the active columns over the norms of their right-hand sides.
    fn relative(&self, mut vectors: Block<B>) -> Block<B> {
        let scale: Vec<f64> = self.active.iter().map(|&j| 1.0 / self.b_norms[j]).collect();
        let source = vectors.clone();
        vectors.row_axpby(&scale, &source, &vec![0.0; scale.len()]);
        vectors
    }

    /// Iterates from the residuals until all columns should have converged, or nothing more is to be had:
    /// then the reason. Adds what was found to the solution.
    fn descend(&mut self, observer: &dyn Observer) -> Termination {
        let (backend, layout, k) = (self.b.backend(), self.b.layout(), self.active.len());
        let mut x = Block::zeros(backend, layout, k);
        let (mut q, mut c) = factors(&self.residuals);
        let mut s = q.clone();
        let ended = loop {
            if observer.cancelled() {
                break Termination::Cancelled;
            }
            let mut z = Block::zeros(backend, layout, s.k());
            self.operator.apply(&s, &mut z);
            self.iterations += 1;
            let (t, g) = (s.gram(&z), s.gram(&s));
            let inverse = match self.inverse(&t, &g) {
                Ok(inverse) => inverse,
                Err(termination) => break termination,
            };
            let r = s.k();
            x.combine(&product(matrix(&c, k, r), matrix(&inverse, r, r)), &s, 1.0);
            q.combine(&negative(&inverse), &z, 1.0);
            let (next, zeta) = factors(&q);
            let mut directions = next.clone();
            directions.combine(&transposed(&zeta, [r, next.k()]), &s, 1.0);
            c = product(matrix(&c, k, r), matrix(&zeta, r, next.k()));
            (q, s) = (next, directions);
            let largest = row_norms(&c, k).into_iter().fold(0.0, f64::max);
            let limit = (self.iterations, self.settings.max_iterations);
            if let Some(ended) = proposal::<B::Elem>(largest, self.settings.tolerance, limit) {
                break ended;
            }
        };
        for (row, &j) in self.active.iter().enumerate() {
            let mut column = self.solution.select(&[j]);
            column.axpby(self.b_norms[j], &x.select(&[row]), 1.0);
            self.solution.set_row(j, &column, 0);
        }
        ended
    }

    /// `T^-1` by its eigenvectors, where every direction has positive curvature; `g = S S^T`.
    fn inverse(&mut self, t: &[f64], g: &[f64]) -> Result<Vec<f64>, Termination> {
        let r = t.len().isqrt();
        if t.iter().chain(g).any(|v| !v.is_finite()) {
            return Err(Termination::NonFinite);
        }
        let (values, vectors) = symmetric(r, t).eigen();
        let curvature = |i: usize| {
            let y = &vectors[i * r..(i + 1) * r];
            let gy = product(matrix(g, r, r), matrix(y, r, 1));
            values[i] / y.iter().zip(&gy).map(|(y, gy)| y * gy).sum::<f64>()
        };
        let curvatures: Vec<f64> = (0..r).map(curvature).collect();
        let lowest = curvatures.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = curvatures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let [seen_low, seen_high] = self.eigenvalues.unwrap_or([lowest, highest]);
        self.eigenvalues = Some([lowest.min(seen_low), highest.max(seen_high)]);
        let largest = highest.abs().max(lowest.abs()).max(seen_high);
        if let Some(termination) = Termination::of_curvature::<B::Elem>(lowest, largest) {
            return Err(termination);
        }
        let scaled: Vec<f64> = (0..r * r).map(|at| vectors[at] / values[at / r]).collect();
        Ok(product(matrix(&vectors, r, r).t(), matrix(&scaled, r, r)))
    }

    /// Recomputes the residuals; ends the columns that are done and, unless `proposed` is final, leaves the
    /// others with theirs.
    fn check(&mut self, proposed: Termination) {
        let b = self.b.select(&self.active);
        let (residuals, relative) = true_residuals(self.operator, &b, &self.solution.select(&self.active));
        let worst = relative.iter().copied().fold(0.0, f64::max);
        let BlockCg { tolerance, max_iterations } = *self.settings;
        let limit = (self.iterations, max_iterations);
        let mut stay = Vec::new();
        for (row, (&j, &residual)) in self.active.clone().iter().zip(&relative).enumerate() {
            let termination = verdict(proposed, residual, tolerance, [worst, self.last_true], limit);
            match termination {
                Some(termination) => self.end(j, termination, residual),
                None => stay.push(row),
            }
        }
        self.active = stay.iter().map(|&row| self.active[row]).collect();
        self.residuals = self.relative(residuals.select(&stay));
        self.last_true = worst;
    }

    fn end(&mut self, j: usize, termination: Termination, residual: f64) {
        if termination == Termination::NonFinite {
            self.solution.fill_row(j, f64::NAN);
        }
        // One product for each iteration, and one for the residual.
        let products = if self.b_norms[j] == 0.0 || self.iterations == 0 { 0 } else { self.iterations + 1 };
        let eigenvalues = self.eigenvalues.filter(|_| products > 0);
        let iterations = self.iterations;
        self.columns[j] = Some(ColumnReport { termination, iterations, products, residual, eigenvalues });
    }

    fn finish(self) -> Solution<B> {
        let columns = self.columns.into_iter().map(|c| c.expect("every column has ended")).collect();
        let report = SolveReport {
            solver: "block-cg".into(),
            tolerance: self.settings.tolerance,
            damping: self.operator.damping(),
            columns,
        };
        Solution { x: self.solution, report }
    }
}

fn negative(a: &[f64]) -> Vec<f64> {
    a.iter().map(|v| -v).collect()
}

fn row_norms(a: &[f64], rows: usize) -> Vec<f64> {
    let cols = a.len() / rows;
    (0..rows).map(|i| a[i * cols..(i + 1) * cols].iter().map(|v| v * v).sum::<f64>().sqrt()).collect()
}
