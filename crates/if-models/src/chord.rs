//! Retraining near a known optimum: Newton's method with the curvature kept (the chord method).
//!
//! ```text
//! theta <- theta - C^-1 grad J'(theta)
//! ```
//!
//! `C` is the curvature of the whole objective at its optimum, factored once for all; `J'` is the
//! objective without some examples. An error shrinks with each step by about the leverage of what is
//! left out: for single examples a few steps, of one gradient and one solve, replace the hundred
//! products with the Hessian of Newton-CG.

use if_linalg::{Backend, Block, Observer, Prepared};
use serde::{Deserialize, Serialize};

use crate::newton::{Fit, FitReport, NewtonCg};
use crate::risk::EmpiricalRisk;

/// When to stop. What does not come there by chords goes on by [`NewtonCg`] to the same tolerance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chord {
    /// Norm of the gradient of the objective (in units of the mean loss) to reach.
    pub gradient_tolerance: f64,
    /// Steps at most.
    pub max_iterations: usize,
}

impl Default for Chord {
    fn default() -> Self {
        Self { gradient_tolerance: 1e-8, max_iterations: 40 }
    }
}

/// A step that leaves more than this of the gradient's norm is the last: Newton's own steps are
/// cheaper then.
const WORTHWHILE: f64 = 0.7;

struct Run<B: Backend> {
    theta: Block<B>,
    gradient: Block<B>,
    norm: f64,
    iterations: usize,
}

impl Chord {
    /// Minimises each of `risks` from `start`; `solver` solves with the curvature near there. All take
    /// their steps together, so that they share the solves.
    pub fn minimise<B: Backend>(
        &self,
        risks: &[EmpiricalRisk<B>],
        start: &Block<B>,
        solver: &dyn Prepared<B>,
        observer: &dyn Observer,
    ) -> Vec<Fit<B>> {
        let backend = start.backend();
        let mut runs = backend.map(risks.len(), |r| Run::new(&risks[r], start.clone(), 0));
        let mut active: Vec<usize> = (0..runs.len()).collect();
        loop {
            active.retain(|&r| {
                runs[r].norm > self.gradient_tolerance && runs[r].iterations < self.max_iterations
            });
            if active.is_empty() || observer.cancelled() {
                break;
            }
            let mut right = Block::zeros(backend, start.layout(), active.len());
            active.iter().enumerate().for_each(|(row, &r)| right.set_row(row, &runs[r].gradient, 0));
            let steps = solver.solve(&right, &()).x;
            let next = backend.map(active.len(), |row| {
                let r = active[row];
                let mut theta = runs[r].theta.clone();
                theta.axpby(-1.0, &steps.select(&[row]), 1.0);
                Run::new(&risks[r], theta, runs[r].iterations + 1)
            });
            let taken = active.iter().zip(next).filter_map(|(&r, next)| {
                let worthwhile = next.norm <= WORTHWHILE * runs[r].norm;
                // Also false where the norm is NaN.
                (next.norm < runs[r].norm).then(|| runs[r] = next);
                worthwhile.then_some(r)
            });
            active = taken.collect();
        }
        backend.map(runs.len(), |r| self.finish(&risks[r], &runs[r], observer))
    }

    fn finish<B: Backend>(&self, risk: &EmpiricalRisk<B>, run: &Run<B>, observer: &dyn Observer) -> Fit<B> {
        if run.norm > self.gradient_tolerance && !observer.cancelled() {
            let newton = NewtonCg { gradient_tolerance: self.gradient_tolerance, ..NewtonCg::default() };
            let mut fit = newton.minimise(risk, &run.theta, &());
            fit.report.iterations += run.iterations;
            return fit;
        }
        let report = FitReport {
            objective: risk.objective(&run.theta),
            optimality: run.norm,
            tolerance: self.gradient_tolerance,
            iterations: run.iterations,
        };
        Fit { theta: run.theta.clone(), report }
    }
}

impl<B: Backend> Run<B> {
    fn new(risk: &EmpiricalRisk<B>, theta: Block<B>, iterations: usize) -> Self {
        let gradient = risk.gradient(&theta).1;
        let norm = gradient.norms()[0];
        Self { theta, gradient, norm, iterations }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Curvature, Dataset, HostArray, Inputs, Loss, Network, RiskSettings};
    use if_linalg::{Cholesky, Cpu, Solver};

    #[test]
    fn the_same_optima_as_newton_cg_also_where_chords_do_not_contract() {
        let x =
            ndarray::ArrayD::from_shape_fn(vec![60, 3], |i| (7.0 * i[0] as f64 + 2.0 * i[1] as f64).sin());
        let y = (0..60).map(|i| f64::from(i % 3)).collect();
        let data = Dataset::new(HostArray::F64(x), y).unwrap();
        let network = Network::linear(&Cpu::<f64>::new(), 3, 3, true, Loss::CrossEntropy);
        let train = Inputs::new(&network, &data, usize::MAX).unwrap();
        let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(1e-3)).unwrap();
        let newton = NewtonCg { gradient_tolerance: 1e-12, ..NewtonCg::default() };
        let theta = newton.minimise(&risk, &Block::zeros(network.backend(), network.layout(), 1), &()).theta;

        let hessian = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
        let solver = Cholesky { tolerance: 1e-10, memory_budget: usize::MAX }.prepare(&hessian).unwrap();
        let most: Vec<usize> = (0..60).filter(|i| i % 3 != 0 || *i < 6).collect();
        let risks = [risk.without(&[4]), risk.without(&most), risk.without(&[])];
        let chord = Chord { gradient_tolerance: 1e-12, ..Chord::default() };
        let fits = chord.minimise(&risks, &theta, &*solver, &());
        for (fit, risk) in fits.iter().zip(&risks) {
            assert!(fit.report.converged(), "{:?}", fit.report);
            let mut difference = newton.minimise(risk, &theta, &()).theta;
            difference.axpby(-1.0, &fit.theta, 1.0);
            assert!(difference.norms()[0] < 1e-8, "{}", difference.norms()[0]);
        }
        assert_eq!(fits[2].report.iterations, 0);
    }
}
