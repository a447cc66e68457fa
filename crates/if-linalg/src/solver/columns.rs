//! Right-hand sides of an iteration: those still in the block, and the certificates of those that are done.

use super::true_residuals;
use crate::{Backend, Block, ColumnReport, LinearOperator, Solution, SolveReport, Termination};

/// Starts with the columns that need no iteration (`b = 0`, or not finite) already ended.
pub(super) struct Columns<'a, B: Backend> {
    operator: &'a dyn LinearOperator<B>,
    b: &'a Block<B>,
    /// Columns of `b` that have not ended, in order.
    active: Vec<usize>,
    solution: Block<B>,
    reports: Vec<Option<ColumnReport>>,
}

impl<'a, B: Backend> Columns<'a, B> {
    pub fn new(operator: &'a dyn LinearOperator<B>, b: &'a Block<B>) -> Self {
        let solution = Block::zeros(b.backend(), b.layout(), b.k());
        let active = (0..b.k()).collect();
        let mut columns = Self { operator, b, active, solution, reports: vec![None; b.k()] };
        let zeros = columns.solution.clone();
        let known = b.norms().into_iter().map(|norm| match norm {
            0.0 => Some((Termination::Converged, 0.0)),
            norm if !norm.is_finite() => Some((Termination::NonFinite, f64::NAN)),
            _ => None,
        });
        columns.end(&zeros, known.collect(), |_, (termination, residual)| ColumnReport {
            termination,
            iterations: 0,
            products: 0,
            residual,
            eigenvalues: None,
        });
        columns
    }

    /// Number of columns that have not ended.
    pub fn k(&self) -> usize {
        self.active.len()
    }

    /// Which right-hand sides have not ended, in order.
    pub fn active(&self) -> &[usize] {
        &self.active
    }

    /// The right-hand sides of the active columns.
    pub fn b(&self) -> Block<B> {
        self.b.select(&self.active)
    }

    /// `b - A x` for the active columns, and its size relative to `b`.
    pub fn residuals(&self, x: &Block<B>) -> (Block<B>, Vec<f64>) {
        true_residuals(self.operator, &self.b(), x)
    }

    /// Ends the active columns that have a termination and a residual, with their row of `x`, or NaN where that
    /// is not to be used; `report` is given the row. Returns the positions of those that stay.
    pub fn end(
        &mut self,
        x: &Block<B>,
        ends: Vec<Option<(Termination, f64)>>,
        report: impl Fn(usize, (Termination, f64)) -> ColumnReport,
    ) -> Vec<usize> {
        let mut stay = Vec::new();
        for (row, end) in ends.into_iter().enumerate() {
            let Some(end) = end else {
                stay.push(row);
                continue;
            };
            let j = self.active[row];
            match end.0 {
                Termination::NonFinite | Termination::Diverged => self.solution.fill_row(j, f64::NAN),
                _ => self.solution.set_row(j, x, row),
            }
            self.reports[j] = Some(report(row, end));
        }
        self.active = stay.iter().map(|&row| self.active[row]).collect();
        stay
    }

    /// The solutions, once every column has ended.
    pub fn finish(self, solver: String, tolerance: f64) -> Solution<B> {
        let columns = self.reports.into_iter().map(|c| c.expect("every column has ended")).collect();
        let damping = self.operator.damping();
        Solution { x: self.solution, report: SolveReport { solver, tolerance, damping, columns } }
    }
}
