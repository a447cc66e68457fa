//! The most influential group of a size. Basu, You & Feizi 2020, section 5.
//!
//! Groups of `k` examples are corners of `{0 <= w <= 1, sum w = k}`. With `s = A^-1 g_q`, `f` and `c` those of `k`
//! examples and `D = l2 + damping` (0 where removal is fixed), the second-order effect on a query is quadratic in `w`:
//!
//! ```text
//! b = f sum_i w_i g_i        x = A^-1 b        C_w = (1/n) sum_i w_i C_i
//! effect(w)    = (2 - c) s . b + s^T (c C_w + (c - 1) D) x
//! d effect/dw_i = f g_i . [(2 - c) s + A^-1 (c C_w + (c - 1) D) s] + (c / n) s^T C_i x
//! ```
//!
//! It is maximised over all of the set by projected gradients, from the group that first order would choose, and the `k`
//! largest `w_i` are the group. A step costs two solves and three passes over the data: no `n x n` matrix.
//!
//! Deviations:
//! 1. The published relaxation has an L1 penalty; here the size is a constraint.
//! 2. Where the rounded group has a smaller second-order effect than first order's own, that one is returned.

use if_linalg::{Backend, Block, ColumnReport, Observer, Real, Solution, SolveReport};
use if_models::{Curvature, EmpiricalRisk, Inputs, Rows};
use serde::{Deserialize, Serialize};

use super::{GroupInfluence, Order, merged};
use crate::influence::against_train;
use crate::{MethodError, descending};

/// What is looked for.
///
/// ```
/// use if_linalg::{Block, Cholesky, Cpu, Solver};
/// use if_methods::{GroupInfluence, Selection};
/// use if_models::{Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, Loss};
/// use if_models::{Network, NewtonCg, RiskSettings};
///
/// let x = ndarray::ArrayD::from_shape_fn(vec![40, 2], |i| (5.0 * i[0] as f64 + i[1] as f64).cos());
/// let data = Dataset::new(HostArray::F64(x), (0..40).map(|i| (i % 2) as f64).collect())?;
/// let network = Network::linear(&Cpu::<f64>::new(), 2, 1, true, Loss::Logistic);
/// let train = Inputs::new(&network, &data, usize::MAX)?;
/// let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.1))?;
/// let start = Block::zeros(network.backend(), network.layout(), 1);
/// let theta = NewtonCg::default().minimise(&risk, &start, &()).theta;
/// let operator = risk.operator(&theta, Curvature::Hessian, 0.0, usize::MAX);
/// let solver = Cholesky { tolerance: 1e-8, memory_budget: usize::MAX }.prepare(&operator)?;
///
/// let query = Inputs::new(&network, &data.slice(0, 1), usize::MAX)?;
/// let found = GroupInfluence::new(&operator, &*solver).select(&query, Selection::of(5), &())?;
/// println!("without {:?} the loss changes by {}", found.group, found.effect);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// Examples of the group.
    pub size: usize,
    /// The group whose removal lowers the query's loss most, in place of the one that raises it most.
    pub opponents: bool,
    /// Steps at most.
    pub max_iterations: usize,
}

impl Selection {
    /// The group of `size` examples whose removal raises the loss most.
    pub fn of(size: usize) -> Self {
        Self { size, opponents: false, max_iterations: 50 }
    }
}

/// A group, and what its removal is predicted to do to the query's loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selected {
    /// By the relaxed programme, in rising order.
    pub group: Vec<usize>,
    /// Its second-order effect.
    pub effect: f64,
    /// The examples of largest first-order influence, in rising order.
    pub greedy: Vec<usize>,
    /// Their second-order effect.
    pub greedy_effect: f64,
    /// Steps taken.
    pub iterations: usize,
    /// One certificate for all solves on the way: as good as the worst.
    pub report: SolveReport,
}

/// A step must improve by this part of the effect to be worth another.
const WORTHWHILE: f64 = 1e-5;
/// Step halvings before the search ends.
const HALVINGS: usize = 20;

impl<B: Backend> GroupInfluence<'_, B> {
    /// Looks for the group that matters most to the only example of `query`.
    ///
    /// # Errors
    /// More than one query; a size of 0 or of all examples; another curvature than the Gauss-Newton matrix or the
    /// Hessian of a linear model; [`MethodError::Cancelled`].
    pub fn select(
        &self,
        query: &Inputs<B>,
        selection: Selection,
        observer: &dyn Observer,
    ) -> Result<Selected, MethodError> {
        let n = self.risk().n();
        let curvature = self.operator.curvature();
        if curvature != Curvature::GaussNewton
            && !(curvature == Curvature::Hessian && self.risk().network().is_linear())
        {
            return Err(MethodError::Curvature {
                method: "selection",
                expected: "gauss-newton, or the Hessian of a linear model",
                found: curvature.name(),
            });
        }
        if selection.size == 0 || selection.size >= n || query.len() != 1 {
            return Err(MethodError::Setting {
                name: "selection",
                expected: format!("one query and a size from 1 to {}", n - 1),
                found: format!("{} queries and size {}", query.len(), selection.size),
            });
        }
        let programme = Programme::new(self, query, selection, observer);
        let greedy = programme.largest(&programme.linear);
        let mut at = programme.at(indicator(&greedy, n));
        let mut iterations = 0;
        let mut step = None;
        let mut column = merged(&programme.column, &at.column);
        while iterations < selection.max_iterations && !observer.cancelled() {
            let Some(next) = programme.ascend(&at, &mut step) else { break };
            column = merged(&column, &next.column);
            let gained = next.effect - at.effect;
            at = next;
            iterations += 1;
            observer.progress("selecting a group", iterations, selection.max_iterations);
            if gained <= WORTHWHILE * at.effect.abs() {
                break;
            }
        }
        let rounded = programme.largest(&at.w);
        let candidates = [rounded, greedy.clone()];
        let found = self.effects(&candidates, query, (Order::Second, false), observer)?;
        let [rounded_effect, greedy_effect] = [found.effects[0][0], found.effects[1][0]];
        let mut report = found.report;
        report.columns = vec![report.columns.iter().fold(column, |all, one| merged(&all, one))];
        let better = programme.sign * rounded_effect >= programme.sign * greedy_effect;
        let [rounded, _] = candidates;
        Ok(Selected {
            group: if better { rounded } else { greedy.clone() },
            effect: if better { rounded_effect } else { greedy_effect },
            greedy,
            greedy_effect,
            iterations,
            report,
        })
    }
}

/// The relaxed programme; all effects times `sign`, so that it is maximised.
struct Programme<'p, 'a, B: Backend> {
    method: &'p GroupInfluence<'a, B>,
    observer: &'p dyn Observer,
    size: usize,
    sign: f64,
    /// `A^-1 g_q`, and its influence on each example.
    s: Block<B>,
    linear: Vec<f64>,
    /// Of the query's solve.
    column: ColumnReport,
}

/// A point of the programme, its value and its gradient.
struct At {
    w: Vec<f64>,
    effect: f64,
    gradient: Vec<f64>,
    column: ColumnReport,
}

impl<'p, 'a, B: Backend> Programme<'p, 'a, B> {
    fn new(
        method: &'p GroupInfluence<'a, B>,
        query: &Inputs<B>,
        selection: Selection,
        observer: &'p dyn Observer,
    ) -> Self {
        let sign = if selection.opponents { -1.0 } else { 1.0 };
        let network = method.risk().network().with_loss(method.measure);
        let gradient = network.example_gradients(query, method.operator.theta(), Rows::Range(0, 1));
        let Solution { x: s, report } = method.solver.solve(&gradient, observer);
        let linear = Self::scores(method.risk(), method.operator.theta(), &s);
        let linear = linear.into_iter().map(|score| sign * score).collect();
        Self { method, observer, size: selection.size, sign, s, linear, column: report.columns[0].clone() }
    }

    fn scores(risk: &EmpiricalRisk<B>, theta: &Block<B>, x: &Block<B>) -> Vec<f64> {
        against_train(risk, &[], theta, x).into_iter().map(Real::to_f64).collect()
    }

    fn largest(&self, values: &[f64]) -> Vec<usize> {
        let mut group = descending(values);
        group.truncate(self.size);
        group.sort_unstable();
        group
    }

    fn at(&self, w: Vec<f64>) -> At {
        let GroupInfluence { operator, solver, .. } = *self.method;
        let (risk, theta, s) = (operator.risk(), operator.theta(), &self.s);
        let (n, f) = (risk.n() as f64, risk.removal_factor_of(self.size));
        let growth = n * f;
        let b = risk.shared_removal_gradient(theta, &w, self.size);
        let Solution { x, report } = solver.solve(&b, self.observer);
        // (c C_w + (c - 1) D) s
        let taken = operator.apply_share(&w, self.size, s);
        let Solution { x: mut direction, report: other } = solver.solve(&taken, self.observer);
        let column = merged(&report.columns[0], &other.columns[0]);
        direction.axpby(2.0 - growth, s, 1.0);
        let effect = (2.0 - growth) * s.dots(&b)[0] + taken.dots(&x)[0];
        let forms = risk.network().curvature_forms(risk.inputs(), theta, s, &x);
        let scores = Self::scores(risk, theta, &direction);
        let gradient =
            scores.iter().zip(forms).map(|(score, form)| self.sign * (f * score + growth / n * form));
        At { gradient: gradient.collect(), effect: self.sign * effect, w, column }
    }

    /// The next point, or `None` where no step along the gradient is uphill.
    fn ascend(&self, from: &At, step: &mut Option<f64>) -> Option<At> {
        let largest = from.gradient.iter().fold(0.0f64, |largest, g| largest.max(g.abs()));
        let mut t = step.map_or(1.0 / largest, |step: f64| 2.0 * step);
        for _ in 0..HALVINGS {
            let moved = from.w.iter().zip(&from.gradient).map(|(w, g)| w + t * g).collect();
            let w = project(moved, self.size as f64);
            let slope: f64 = w.iter().zip(&from.w).zip(&from.gradient).map(|((to, w), g)| (to - w) * g).sum();
            if slope <= 0.0 {
                return None;
            }
            let to = self.at(w);
            if to.effect >= from.effect + 1e-4 * slope {
                *step = Some(t);
                return Some(to);
            }
            t *= 0.5;
        }
        None
    }
}

fn indicator(group: &[usize], n: usize) -> Vec<f64> {
    let mut w = vec![0.0; n];
    group.iter().for_each(|&i| w[i] = 1.0);
    w
}

/// The nearest point of `{0 <= w <= 1, sum w = size}`: `clip(w - tau)` with the right `tau`, by bisection.
fn project(mut w: Vec<f64>, size: f64) -> Vec<f64> {
    let [mut low, mut high] = [f64::INFINITY, f64::NEG_INFINITY];
    w.iter().for_each(|w| (low, high) = (low.min(w - 1.0), high.max(*w)));
    for _ in 0..100 {
        let tau = 0.5 * (low + high);
        let sum: f64 = w.iter().map(|w| (w - tau).clamp(0.0, 1.0)).sum();
        if sum > size { low = tau } else { high = tau }
    }
    let tau = 0.5 * (low + high);
    w.iter_mut().for_each(|w| *w = (*w - tau).clamp(0.0, 1.0));
    w
}

#[cfg(test)]
mod tests {
    use super::*;
    use if_linalg::{Cholesky, Cpu, Solver};
    use if_models::{Dataset, HostArray, Loss, Network, Removal, RiskSettings};

    /// Catches: a term of the gradient left out, the growth of the others' weights, a programme of another effect.
    #[test]
    fn the_programme_is_the_second_order_effect_and_its_gradient_its_derivative() {
        let (n, classes) = (30, 3);
        let x = ndarray::ArrayD::from_shape_fn(vec![n, 2], |i| (7.0 * i[0] as f64 + 2.0 * i[1] as f64).sin());
        let data = Dataset::new(HostArray::F64(x), (0..n).map(|i| (i % classes) as f64).collect()).unwrap();
        let network = Network::linear(&Cpu::<f64>::new(), 2, classes, true, Loss::CrossEntropy);
        let train = Inputs::new(&network, &data, usize::MAX).unwrap();
        let query = Inputs::new(&network, &data.slice(4, 5), usize::MAX).unwrap();
        for removal in [Removal::Fixed, Removal::Renormalised] {
            let settings = RiskSettings { removal, ..RiskSettings::mean(0.05) };
            let risk = EmpiricalRisk::new(&network, &train, settings).unwrap();
            let theta = network.initial(1);
            let operator = risk.operator(&theta, Curvature::Hessian, 0.1, usize::MAX);
            let solver = Cholesky { tolerance: 1e-10, memory_budget: usize::MAX }.prepare(&operator).unwrap();
            let method = GroupInfluence::new(&operator, &*solver);
            let programme = Programme::new(&method, &query, Selection::of(6), &());
            let group = vec![0, 3, 11, 12, 20, 29];
            let corner = programme.at(indicator(&group, n));
            let effect = method.effects(&[group], &query, (Order::Second, false), &()).unwrap().effects[0][0];
            assert!((corner.effect - effect).abs() < 1e-12 * effect.abs(), "{removal:?}");
            let inside: Vec<f64> = (0..n).map(|i| 0.1 + 0.2 * ((i * i) % 7) as f64 / 7.0).collect();
            let gradient = programme.at(inside.clone()).gradient;
            for i in [0, 7, 21] {
                let moved = |h: f64| {
                    let mut w = inside.clone();
                    w[i] += h;
                    programme.at(w).effect
                };
                let slope = (moved(1e-4) - moved(-1e-4)) / 2e-4;
                assert!((gradient[i] - slope).abs() < 1e-7 * slope.abs(), "{}: {slope}", gradient[i]);
            }
        }
    }

    #[test]
    fn projection_keeps_the_size_and_the_nearest_point() {
        for (from, expected) in
            [([1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0]), ([0.9, 0.5, -3.0, 7.0], [0.7, 0.3, 0.0, 1.0])]
        {
            for (found, expected) in project(from.to_vec(), 2.0).iter().zip(expected) {
                assert!((found - expected).abs() < 1e-12, "{found} against {expected}");
            }
        }
    }
}
