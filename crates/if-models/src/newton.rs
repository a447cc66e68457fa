//! Training to the optimum: Newton's method with conjugate gradients (truncated Newton).

use if_linalg::{Backend, Block, Cg, Observer, Real, Solver};
use serde::{Deserialize, Serialize};

use crate::curvature::Curvature;
use crate::risk::EmpiricalRisk;

/// When to stop, and how hard to try.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewtonCg {
    /// Norm of the gradient of the objective (in units of the mean loss) to reach.
    pub gradient_tolerance: f64,
    /// Newton steps at most.
    pub max_iterations: usize,
    /// Bytes for activations kept between products.
    pub cache: usize,
}

impl Default for NewtonCg {
    fn default() -> Self {
        Self { gradient_tolerance: 1e-8, max_iterations: 100, cache: 1 << 30 }
    }
}

/// Trained parameters and how close to an optimum they are.
#[must_use = "the fit says whether it reached the tolerance"]
pub struct Fit<B: Backend> {
    /// The parameters (`k = 1`).
    pub theta: Block<B>,
    /// How it went.
    pub report: FitReport,
}

/// How training went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FitReport {
    /// Objective in units of the mean loss.
    pub objective: f64,
    /// What is driven to zero: the norm of the gradient, or for the hinge the bound
    /// `sqrt(2 gap / l2)` on the distance to the optimum.
    pub optimality: f64,
    /// What was asked for.
    pub tolerance: f64,
    /// Newton steps, or passes over the data.
    pub iterations: usize,
}

impl FitReport {
    /// Whether the tolerance was reached.
    pub fn converged(&self) -> bool {
        self.optimality <= self.tolerance
    }
}

/// Step halvings before a search direction is given up.
const HALVINGS: usize = 40;

impl NewtonCg {
    /// Minimises `risk` from `start`.
    ///
    /// Each step solves `(G + l2 I) d = -grad J` with the Gauss-Newton matrix `G` (the Hessian for
    /// linear models, never indefinite) to a relative residual of `min(0.1, |grad J|)`, which makes
    /// the convergence quadratic, and takes the largest `t = 1, 1/2, 1/4, ...` that either lowers the
    /// objective as Armijo asks, or, where differences of the objective drown in rounding, the norm
    /// of the gradient.
    pub fn minimise<B: Backend>(
        &self,
        risk: &EmpiricalRisk<B>,
        start: &Block<B>,
        observer: &dyn Observer,
    ) -> Fit<B> {
        let mut theta = start.clone();
        let (mut objective, mut gradient) = risk.gradient(&theta);
        let mut norm = gradient.norms()[0];
        let mut iterations = 0;
        while norm > self.gradient_tolerance && iterations < self.max_iterations && !observer.cancelled() {
            observer.progress("training", iterations, self.max_iterations);
            let direction = self.direction(risk, &theta, &gradient, norm);
            let slope = direction.dots(&gradient)[0];
            let Some(step) = line_search(risk, &theta, &direction, (objective, norm, slope)) else { break };
            theta = step.theta;
            (objective, gradient, norm) = (step.objective, step.gradient, step.norm);
            iterations += 1;
        }
        let report =
            FitReport { objective, optimality: norm, tolerance: self.gradient_tolerance, iterations };
        Fit { theta, report }
    }

    fn direction<B: Backend>(
        &self,
        risk: &EmpiricalRisk<B>,
        theta: &Block<B>,
        gradient: &Block<B>,
        norm: f64,
    ) -> Block<B> {
        let system = risk.operator(theta, Curvature::GaussNewton, 0.0, self.cache);
        // Nothing is gained by solving further than the tolerance on the gradient, or the arithmetic.
        let useful = (0.3 * self.gradient_tolerance / norm).max(20.0 * B::Elem::EPSILON);
        let cg = Cg { tolerance: norm.min(0.1).max(useful), max_iterations: 1000 };
        let prepared = cg.prepare(&system).expect("conjugate gradients need no preparation");
        // A solve that stopped early is still a descent direction; the line search judges it.
        let mut direction = prepared.solve(gradient, &()).x;
        let descent = direction.clone();
        direction.axpby(-1.0, &descent, 0.0);
        direction
    }
}

struct Step<B: Backend> {
    theta: Block<B>,
    objective: f64,
    gradient: Block<B>,
    norm: f64,
}

fn line_search<B: Backend>(
    risk: &EmpiricalRisk<B>,
    theta: &Block<B>,
    direction: &Block<B>,
    (objective, norm, slope): (f64, f64, f64),
) -> Option<Step<B>> {
    let rounding = 10.0 * B::Elem::EPSILON * objective.abs();
    let mut t = 1.0;
    for _ in 0..HALVINGS {
        let mut candidate = theta.clone();
        candidate.axpby(t, direction, 1.0);
        let (value, gradient) = risk.gradient(&candidate);
        let new_norm = gradient.norms()[0];
        let armijo = value <= objective + 1e-4 * t * slope;
        let by_gradient = value <= objective + rounding && new_norm < norm;
        if armijo && value < objective - rounding || by_gradient {
            return Some(Step { theta: candidate, objective: value, gradient, norm: new_norm });
        }
        t *= 0.5;
    }
    None
}
