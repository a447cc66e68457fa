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
        let mut at = Iterate::new(risk, start.clone());
        let mut iterations = 0;
        while at.norm > self.gradient_tolerance && iterations < self.max_iterations && !observer.cancelled() {
            observer.progress("training", iterations, self.max_iterations);
            let direction = self.direction(risk, &at);
            let Some(next) = line_search(risk, &at, &direction) else { break };
            at = next;
            iterations += 1;
        }
        at.fit(self.gradient_tolerance, iterations)
    }

    fn direction<B: Backend>(&self, risk: &EmpiricalRisk<B>, at: &Iterate<B>) -> Block<B> {
        let Iterate { theta, gradient, norm, .. } = at;
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

/// Parameters on the way to an optimum, and the objective there.
pub(crate) struct Iterate<B: Backend> {
    pub theta: Block<B>,
    pub objective: f64,
    pub gradient: Block<B>,
    /// Of the gradient.
    pub norm: f64,
}

impl<B: Backend> Iterate<B> {
    pub fn new(risk: &EmpiricalRisk<B>, theta: Block<B>) -> Self {
        let (objective, gradient) = risk.gradient(&theta);
        let norm = gradient.norms()[0];
        Self { theta, objective, gradient, norm }
    }

    /// `theta + t direction`.
    pub fn moved(&self, risk: &EmpiricalRisk<B>, t: f64, direction: &Block<B>) -> Self {
        let mut theta = self.theta.clone();
        theta.axpby(t, direction, 1.0);
        Self::new(risk, theta)
    }

    /// Differences of the objective that say nothing.
    pub fn rounding(&self) -> f64 {
        10.0 * B::Elem::EPSILON * self.objective.abs()
    }

    /// The end of the way.
    pub fn fit(self, tolerance: f64, iterations: usize) -> Fit<B> {
        let report = FitReport { objective: self.objective, optimality: self.norm, tolerance, iterations };
        Fit { theta: self.theta, report }
    }
}

fn line_search<B: Backend>(
    risk: &EmpiricalRisk<B>,
    from: &Iterate<B>,
    direction: &Block<B>,
) -> Option<Iterate<B>> {
    let (slope, rounding) = (direction.dots(&from.gradient)[0], from.rounding());
    let mut t = 1.0;
    for _ in 0..HALVINGS {
        let to = from.moved(risk, t, direction);
        let armijo = to.objective <= from.objective + 1e-4 * t * slope;
        let by_gradient = to.objective <= from.objective + rounding && to.norm < from.norm;
        if armijo && to.objective < from.objective - rounding || by_gradient {
            return Some(to);
        }
        t *= 0.5;
    }
    None
}
