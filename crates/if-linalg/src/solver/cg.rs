//! Conjugate gradients on a block of right-hand sides.
//!
//! Hestenes & Stiefel 1952, one recurrence per column:
//! `alpha = r.z / p.Ap`, `x += alpha p`, `r -= alpha A p`, `beta = r'.z' / r.z`, `p = z' + beta p`, with `z = M r` for
//! a preconditioner `M`, an approximation of `A^-1`, and `z = r` without.
//!
//! Deviations:
//! 1. All columns share each product; a column that is done leaves the block.
//! 2. The recursive residual only *proposes* convergence. The true one, `b - A x`, is recomputed,
//!    and where it is still above the tolerance the column restarts from it (in `f32` the recursive
//!    residual can be ten times too small). A restart that no longer helps ends as `Stagnated`.
//! 3. `p.Ap <= 0` ends a column as `NegativeCurvature`, or as `Singular` where rounding cannot tell
//!    the curvature from zero, with the last iterate.
//! 4. Extreme eigenvalues are Ritz values without a preconditioner; with one, the tridiagonal belongs to `M A`, and
//!    the extreme Rayleigh quotients `p.Ap / p.p` are reported.

use super::quotients::Quotients;
use super::{Prepared, Solver, failed, proposal, true_residuals, verdict};
use crate::lanczos::tridiagonal_extremes;
use crate::{
    Approximation, Backend, Block, CgProducts, CgStep, ColumnReport, Inverse, LinalgError, LinearOperator,
    Observer, Solution, SolveReport, Termination,
};

/// Batched conjugate gradients.
#[derive(Clone, Debug)]
pub struct Cg {
    /// True relative residual to reach, `|b - A x| <= tolerance |b|`.
    pub tolerance: f64,
    /// Iterations a column may take.
    pub max_iterations: usize,
}

impl<B: Backend> Solver<B> for Cg {
    fn name(&self) -> &'static str {
        "cg"
    }

    fn prepare<'a>(
        &self,
        operator: &'a dyn LinearOperator<B>,
    ) -> Result<Box<dyn Prepared<B> + 'a>, LinalgError>
    where
        Self: 'a,
    {
        Ok(Box::new(PreparedCg {
            name: "cg".into(),
            settings: self.clone(),
            operator,
            preconditioner: Ok(None),
        }))
    }
}

/// [`Cg`] with a preconditioner: fewer products where it is near the inverse, more where it is not.
pub struct PreconditionedCg<'s, B: Backend> {
    /// When to stop.
    pub cg: Cg,
    /// The preconditioner.
    pub preconditioner: Box<dyn Approximation<B> + 's>,
}

impl<B: Backend> Solver<B> for PreconditionedCg<'_, B> {
    fn name(&self) -> &'static str {
        "cg"
    }

    fn prepare<'a>(
        &self,
        operator: &'a dyn LinearOperator<B>,
    ) -> Result<Box<dyn Prepared<B> + 'a>, LinalgError>
    where
        Self: 'a,
    {
        let name = format!("cg, preconditioned by {}", self.preconditioner.name());
        let settings = self.cg.clone();
        let preconditioner = self.preconditioner.fit(operator)?.map(Some);
        Ok(Box::new(PreparedCg { name, settings, operator, preconditioner }))
    }
}

struct PreparedCg<'a, B: Backend> {
    name: String,
    settings: Cg,
    operator: &'a dyn LinearOperator<B>,
    /// Perhaps none, or why the one asked for could not be made.
    preconditioner: Result<Option<Box<dyn Inverse<B> + 'a>>, Termination>,
}

impl<B: Backend> Prepared<B> for PreparedCg<'_, B> {
    fn solve(&self, b: &Block<B>, observer: &dyn Observer) -> Solution<B> {
        let Self { name, settings, operator, preconditioner } = self;
        let preconditioner = match preconditioner {
            Ok(preconditioner) => preconditioner.as_deref(),
            Err(termination) => return failed(name, *operator, b, *termination, settings.tolerance),
        };
        let mut run = Run::new(self, preconditioner, b);
        while !run.active.is_empty() {
            if observer.cancelled() {
                run.stop_all(Termination::Cancelled);
                break;
            }
            run.iterate();
            observer.progress("conjugate gradients", b.k() - run.active.len(), b.k());
        }
        run.finish()
    }
}

/// The columns still in the block, and the finished ones.
struct Run<'a, B: Backend> {
    name: &'a str,
    settings: &'a Cg,
    operator: &'a dyn LinearOperator<B>,
    preconditioner: Option<&'a dyn Inverse<B>>,
    b: &'a Block<B>,
    b_norms: Vec<f64>,
    solution: Block<B>,
    columns: Vec<Option<ColumnReport>>,
    /// Column of `b` that each vector of the blocks below belongs to.
    active: Vec<usize>,
    x: Block<B>,
    r: Block<B>,
    p: Block<B>,
    state: Vec<Column>,
}

/// Scalars of one column.
#[derive(Clone, Default)]
struct Column {
    /// `r.z` and `p.p`.
    rz: f64,
    pp: f64,
    iterations: usize,
    products: usize,
    /// True residual at the last restart.
    last_true: f64,
    quotients: Quotients,
    preconditioned: bool,
    /// The Lanczos tridiagonal of the first Krylov sequence, and the coefficients it grows from.
    diagonal: Vec<f64>,
    off: Vec<f64>,
    previous: Option<(f64, f64)>,
    restarted: bool,
}

impl<'a, B: Backend> Run<'a, B> {
    fn new(
        prepared: &'a PreparedCg<'a, B>,
        preconditioner: Option<&'a dyn Inverse<B>>,
        b: &'a Block<B>,
    ) -> Self {
        let PreparedCg { name, settings, operator, .. } = prepared;
        let b_norms = b.norms();
        let mut columns = vec![None; b.k()];
        let mut solution = Block::zeros(b.backend(), b.layout(), b.k());
        let mut active = Vec::new();
        for (j, norm) in b_norms.iter().enumerate() {
            match *norm {
                0.0 => columns[j] = Some(Column::default().report(Termination::Converged, 0.0)),
                norm if !norm.is_finite() => {
                    solution.fill_row(j, f64::NAN);
                    columns[j] = Some(Column::default().report(Termination::NonFinite, f64::NAN));
                }
                _ => active.push(j),
            }
        }
        let r = b.select(&active);
        let p = preconditioned(preconditioner, &r);
        let state = (r.dots(&p).into_iter().zip(p.dots(&p)))
            .map(|(rz, pp)| {
                let preconditioned = preconditioner.is_some();
                Column { rz, pp, last_true: 1.0, preconditioned, ..Column::default() }
            })
            .collect();
        let x = Block::zeros(b.backend(), b.layout(), active.len());
        let operator = *operator;
        Self {
            name,
            settings,
            operator,
            preconditioner,
            b,
            b_norms,
            solution,
            columns,
            active,
            x,
            r,
            p,
            state,
        }
    }

    fn iterate(&mut self) {
        let mut q = Block::zeros(self.b.backend(), self.b.layout(), self.active.len());
        self.operator.apply(&self.p, &mut q);
        let rz: Vec<f64> = self.state.iter().map(|column| column.rz).collect();
        let floor: Vec<f64> =
            self.state.iter().map(|column| column.quotients.floor::<B::Elem>(column.pp)).collect();
        let step = CgStep { rz: &rz, floor: &floor };
        let sums = Block::cg_step(step, &self.p, &q, &mut self.x, &mut self.r);
        let z = self.preconditioner.map(|_| preconditioned(self.preconditioner, &self.r));
        let products = self.p.cg_turn(sums, &self.r, z.as_ref());
        let ends = (0..self.state.len()).map(|i| self.advance(i, &products)).collect();
        self.check(ends);
    }

    /// Takes what came out of vector `i`. `Some(Converged)` only proposes; [`check`](Self::check) decides.
    fn advance(&mut self, i: usize, products: &CgProducts) -> Option<Termination> {
        let [pq, rr, rz, pp] = [&products.pq, &products.rr, &products.rz, &products.pp].map(|all| all[i]);
        let norm = self.b_norms[self.active[i]];
        let column = &mut self.state[i];
        column.products += 1;
        if let Some(end) = column.quotients.judge::<B::Elem>(pq, column.pp) {
            return Some(end);
        }
        column.iterations += 1;
        column.extend_tridiagonal(column.rz / pq, rz / column.rz);
        (column.rz, column.pp) = (rz, pp);
        let limit = (column.iterations, self.settings.max_iterations);
        proposal::<B::Elem>(rr.sqrt() / norm, self.settings.tolerance, limit)
    }

    /// Recomputes the residual of every column that proposes to end, and ends or restarts it.
    fn check(&mut self, mut ends: Vec<Option<Termination>>) {
        let ending: Vec<usize> = (0..ends.len()).filter(|&i| ends[i].is_some()).collect();
        if ending.is_empty() {
            return;
        }
        let b = self.b.select(&ending.iter().map(|&i| self.active[i]).collect::<Vec<_>>());
        let (residual, relative) = true_residuals(self.operator, &b, &self.x.select(&ending));
        let directions = preconditioned(self.preconditioner, &residual);
        let (rz, pp) = (residual.dots(&directions), directions.dots(&directions));
        for (row, (&i, relative)) in ending.iter().zip(relative).enumerate() {
            let proposed = ends[i].expect("only ending columns are listed");
            self.state[i].products += 1;
            match self.decide(i, proposed, relative) {
                Some(termination) => self.end(i, termination, relative),
                None => {
                    self.r.set_row(i, &residual, row);
                    self.p.set_row(i, &directions, row);
                    let column = &mut self.state[i];
                    (column.rz, column.pp, column.last_true) = (rz[row], pp[row], relative);
                    column.restarted = true;
                    ends[i] = None;
                }
            }
        }
        let stay: Vec<usize> = (0..ends.len()).filter(|&i| ends[i].is_none()).collect();
        if stay.len() < ends.len() {
            self.x = self.x.select(&stay);
            self.r = self.r.select(&stay);
            self.p = self.p.select(&stay);
            self.state = stay.iter().map(|&i| self.state[i].clone()).collect();
            self.active = stay.iter().map(|&i| self.active[i]).collect();
        }
    }

    /// How vector `i` ends, given its true residual; `None`: it goes on from that residual.
    fn decide(&self, i: usize, proposed: Termination, relative: f64) -> Option<Termination> {
        let Column { iterations, last_true, .. } = self.state[i];
        let Cg { tolerance, max_iterations } = *self.settings;
        verdict(proposed, relative, tolerance, [relative, last_true], (iterations, max_iterations))
    }

    fn end(&mut self, i: usize, termination: Termination, relative: f64) {
        let j = self.active[i];
        if termination == Termination::NonFinite {
            self.solution.fill_row(j, f64::NAN);
        } else {
            self.solution.set_row(j, &self.x, i);
        }
        self.columns[j] = Some(self.state[i].report(termination, relative));
    }

    fn stop_all(&mut self, termination: Termination) {
        self.check(vec![Some(termination); self.active.len()]);
    }

    fn finish(self) -> Solution<B> {
        let columns = self.columns.into_iter().map(|c| c.expect("every column has ended")).collect();
        let report = SolveReport {
            solver: self.name.to_owned(),
            tolerance: self.settings.tolerance,
            damping: self.operator.damping(),
            columns,
        };
        Solution { x: self.solution, report }
    }
}

impl Column {
    /// CG is Lanczos: `T_jj = 1/alpha_j + beta_{j-1}/alpha_{j-1}`, `T_j,j+1 = sqrt(beta_j)/alpha_j`.
    fn extend_tridiagonal(&mut self, alpha: f64, beta: f64) {
        if self.restarted {
            return;
        }
        let carried = self.previous.map_or(0.0, |(alpha, beta)| {
            self.off.push(beta.sqrt() / alpha);
            beta / alpha
        });
        self.diagonal.push(1.0 / alpha + carried);
        self.previous = Some((alpha, beta));
    }

    fn report(&self, termination: Termination, residual: f64) -> ColumnReport {
        let seen = !self.diagonal.is_empty() && !self.preconditioned;
        let quotients = self.quotients.extremes().filter(|_| self.preconditioned);
        let mut eigenvalues = seen.then(|| tridiagonal_extremes(&self.diagonal, &self.off)).or(quotients);
        // The last direction is in no tridiagonal; the smallest eigenvalue is at most its curvature.
        if let (Some([low, _]), Termination::NegativeCurvature { curvature }) =
            (&mut eigenvalues, termination)
        {
            *low = low.min(curvature);
        }
        ColumnReport {
            termination,
            iterations: self.iterations,
            products: self.products,
            residual,
            eigenvalues,
        }
    }
}

/// `M r`, or `r` without a preconditioner.
fn preconditioned<B: Backend>(preconditioner: Option<&dyn Inverse<B>>, r: &Block<B>) -> Block<B> {
    let Some(inverse) = preconditioner else { return r.clone() };
    let mut z = Block::zeros(r.backend(), r.layout(), r.k());
    inverse.apply(r, &mut z);
    z
}
