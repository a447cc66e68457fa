//! Many matrices near one, each with a right-hand side of its own: `A_j x_j = b_j`, where systems with `A` are solved.
//!
//! Conjugate gradients preconditioned by `A^-1`. With `z = A^-1 r` the product `A z` is `r` itself, so `A p` follows from
//! the recursion of `p`, and a step costs one solve with `A` and what tells `A_j p` from `A p`:
//!
//! ```text
//! z = A^-1 r      beta = r.z / r'.z'      p = z + beta p'      A p = r + beta A p'
//! q = A_j p       alpha = r.z / p.q       x += alpha p         r -= alpha q
//! ```
//!
//! Where `A - A_j` has rank `m` this ends, but for rounding, after `m + 1` steps: it is the low-rank update of the inverse
//! (Woodbury 1950) without its matrices, and where `m` is large but `A_j` still near, it ends long before.
//! All right-hand sides share the solves.

use super::columns::Columns;
use super::quotients::Quotients;
use super::{Prepared, proposal, verdict};
use crate::{Backend, Block, ColumnReport, LinearOperator, Observer, Real, Solution, Termination};

/// Symmetric matrices near `A`, one for each right-hand side.
pub trait Nearby<B: Backend>: Sync {
    /// `y_i = A_j x_i` with `j = columns[i]`, given `ax_i = A x_i`.
    fn apply(&self, columns: &[usize], x: &Block<B>, ax: &Block<B>, y: &mut Block<B>);
}

/// Settings of the iteration.
#[derive(Clone, Debug)]
pub struct NearbyCg {
    /// True relative residual to reach.
    pub tolerance: f64,
    /// Iterations at most.
    pub max_iterations: usize,
}

struct Run<B: Backend> {
    x: Block<B>,
    r: Block<B>,
    p: Block<B>,
    ap: Block<B>,
    state: Vec<State>,
}

/// Scalars of one column.
#[derive(Clone, Debug)]
struct State {
    norm: f64,
    /// `r.z`, 0 where the direction starts anew.
    rz: f64,
    last_true: f64,
    quotients: Quotients,
    iterations: usize,
    products: usize,
}

impl NearbyCg {
    /// Solves for every vector of `b`. `a` is `A`, and `solver` is prepared for it; what that does not solve to its
    /// tolerance is not solved here either. Never fails as a whole: each column has its certificate.
    pub fn solve<B: Backend>(
        &self,
        a: &dyn LinearOperator<B>,
        solver: &dyn Prepared<B>,
        near: &dyn Nearby<B>,
        b: &Block<B>,
        observer: &dyn Observer,
    ) -> Solution<B> {
        let mut columns = Columns::new(a, b);
        let mut run = Run::new(columns.b());
        while columns.k() > 0 {
            let mut ends = run.turn(solver, observer);
            run.step(near, columns.active(), &mut ends);
            run.propose::<B::Elem>(self, &mut ends);
            if observer.cancelled() {
                ends.iter_mut().for_each(|end| *end = Some(Termination::Cancelled));
            }
            run.check(self, (a, near), &mut columns, &ends);
            observer.progress("nearby systems", b.k() - columns.k(), b.k());
        }
        columns.finish("cg near a solved matrix".into(), self.tolerance)
    }
}

impl<B: Backend> Run<B> {
    fn new(b: Block<B>) -> Self {
        let zeros = Block::zeros(b.backend(), b.layout(), b.k());
        let state = |norm| State {
            norm,
            rz: 0.0,
            last_true: 1.0,
            quotients: Quotients::default(),
            iterations: 0,
            products: 0,
        };
        let state = b.norms().into_iter().map(state).collect();
        Self { x: zeros.clone(), p: zeros.clone(), ap: zeros, r: b, state }
    }

    /// The next direction. A column ends whose solve with `A` failed.
    fn turn(&mut self, solver: &dyn Prepared<B>, observer: &dyn Observer) -> Vec<Option<Termination>> {
        let Solution { x: mut z, report } = solver.solve(&self.r, observer);
        let failed = |column: &ColumnReport| match column.termination {
            Termination::Converged => None,
            // Nothing is known of `A z` then.
            Termination::Approximate => Some(Termination::Stagnated),
            other => Some(other),
        };
        let ends: Vec<_> = report.columns.iter().map(failed).collect();
        // What is not solved leaves the iterate as it is, whatever came of it.
        ends.iter().enumerate().filter(|(_, end)| end.is_some()).for_each(|(i, _)| z.fill_row(i, 0.0));
        let rz = self.r.dots(&z);
        let beta: Vec<f64> =
            self.state.iter().zip(&rz).map(|(s, rz)| if s.rz == 0.0 { 0.0 } else { rz / s.rz }).collect();
        let ones = vec![1.0; beta.len()];
        self.p.row_axpby(&ones, &z, &beta);
        self.ap.row_axpby(&ones, &self.r, &beta);
        self.state.iter_mut().zip(rz).for_each(|(state, rz)| state.rz = rz);
        ends
    }

    fn step(&mut self, near: &dyn Nearby<B>, columns: &[usize], ends: &mut [Option<Termination>]) {
        let mut q = Block::zeros(self.x.backend(), self.x.layout(), self.x.k());
        near.apply(columns, &self.p, &self.ap, &mut q);
        let (pq, pp) = (self.p.dots(&q), self.p.dots(&self.p));
        let mut alpha = vec![0.0; ends.len()];
        for (i, state) in self.state.iter_mut().enumerate() {
            state.products += 1;
            let judged = state.quotients.judge::<B::Elem>(pq[i], pp[i]);
            ends[i] = ends[i].or(judged);
            if ends[i].is_none() {
                state.iterations += 1;
                alpha[i] = state.rz / pq[i];
            }
        }
        let ones = vec![1.0; alpha.len()];
        self.x.row_axpby(&alpha, &self.p, &ones);
        alpha.iter_mut().for_each(|alpha| *alpha = -*alpha);
        self.r.row_axpby(&alpha, &q, &ones);
    }

    /// Which of the columns that go on seem to be done.
    fn propose<T: Real>(&self, settings: &NearbyCg, ends: &mut [Option<Termination>]) {
        let norms = self.r.norms();
        for ((end, state), norm) in ends.iter_mut().zip(&self.state).zip(norms) {
            let limit = (state.iterations, settings.max_iterations);
            *end = end.or_else(|| proposal::<T>(norm / state.norm, settings.tolerance, limit));
        }
    }

    /// Recomputes the residual of every column that seems to be done, and ends it or starts it again from there.
    fn check(
        &mut self,
        settings: &NearbyCg,
        (a, near): (&dyn LinearOperator<B>, &dyn Nearby<B>),
        columns: &mut Columns<B>,
        ends: &[Option<Termination>],
    ) {
        let ending: Vec<usize> = (0..ends.len()).filter(|&i| ends[i].is_some()).collect();
        if ending.is_empty() {
            return;
        }
        let x = self.x.select(&ending);
        let [mut ax, mut y] = [(); 2].map(|()| Block::zeros(x.backend(), x.layout(), x.k()));
        a.apply(&x, &mut ax);
        let which: Vec<usize> = ending.iter().map(|&i| columns.active()[i]).collect();
        near.apply(&which, &x, &ax, &mut y);
        let mut residuals = columns.b().select(&ending);
        residuals.axpby(-1.0, &y, 1.0);
        let mut decided = vec![None; ends.len()];
        for (row, (&i, norm)) in ending.iter().zip(residuals.norms()).enumerate() {
            let state = &mut self.state[i];
            state.products += 1;
            let relative = norm / state.norm;
            let proposed = ends[i].expect("only ending columns are listed");
            let limit = (state.iterations, settings.max_iterations);
            let verdict = verdict(proposed, relative, settings.tolerance, [relative, state.last_true], limit);
            decided[i] = verdict.map(|termination| (termination, relative));
            (state.last_true, state.rz) = (relative, 0.0);
            self.r.set_row(i, &residuals, row);
        }
        let stay = columns.end(&self.x, decided, |row, (termination, residual)| {
            let State { iterations, products, quotients, .. } = self.state[row];
            let eigenvalues = quotients.extremes();
            ColumnReport { termination, iterations, products, residual, eigenvalues }
        });
        if stay.len() < ends.len() {
            for block in [&mut self.x, &mut self.r, &mut self.p, &mut self.ap] {
                *block = block.select(&stay);
            }
            self.state = stay.iter().map(|&row| self.state[row].clone()).collect();
        }
    }
}
