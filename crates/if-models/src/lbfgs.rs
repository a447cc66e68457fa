//! Training to an optimum, without products: L-BFGS (Nocedal & Wright 2006, algorithms 7.4 and 7.5).

use std::collections::VecDeque;

use if_linalg::{Backend, Block, Observer};
use serde::{Deserialize, Serialize};

use crate::newton::{Fit, Iterate};
use crate::risk::EmpiricalRisk;

/// When to stop, and how much to remember. For small networks on all their examples at once: deterministic,
/// and unlike minibatches it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lbfgs {
    /// Norm of the gradient of the objective (in units of the mean loss) to reach.
    pub gradient_tolerance: f64,
    /// Steps at most.
    pub max_iterations: usize,
    /// Steps remembered.
    pub memory: usize,
}

impl Default for Lbfgs {
    fn default() -> Self {
        Self { gradient_tolerance: 1e-8, max_iterations: 1000, memory: 20 }
    }
}

/// Steps that lower neither the objective nor the gradient: what is left is rounding.
const IDLE: usize = 20;

impl Lbfgs {
    /// Minimises `risk` from `start`: to a stationary point, which for networks need not be the lowest.
    ///
    /// The objective falls with every step, but for rounding. Where no step lowers it, not even along the
    /// gradient, training stops; the report says how far it came. With relu that is the rule: its minima
    /// often lie at kinks, where the gradient does not vanish.
    pub fn minimise<B: Backend>(
        &self,
        risk: &EmpiricalRisk<B>,
        start: &Block<B>,
        observer: &dyn Observer,
    ) -> Fit<B> {
        let mut memory = Memory { pairs: VecDeque::new(), most: self.memory };
        let mut at = Iterate::new(risk, start.clone());
        let (mut iterations, mut idle, mut lowest) = (0, 0, at.norm);
        while at.norm > self.gradient_tolerance
            && iterations < self.max_iterations
            && idle < IDLE
            && !observer.cancelled()
        {
            observer.progress("training", iterations, self.max_iterations);
            let direction = memory.direction(&at);
            let Some(next) = line_search(risk, &at, &direction) else {
                if memory.pairs.is_empty() {
                    break;
                }
                // What is remembered may mislead; the gradient does not.
                memory.pairs.clear();
                continue;
            };
            memory.remember(&at, &next);
            let useful = next.norm < lowest || next.objective < at.objective - at.rounding();
            (idle, lowest) = (if useful { 0 } else { idle + 1 }, lowest.min(next.norm));
            at = next;
            iterations += 1;
        }
        at.fit(self.gradient_tolerance, iterations)
    }
}

/// A step `s` and the change `y` of the gradient along it.
struct Pair<B: Backend> {
    s: Block<B>,
    y: Block<B>,
    sy: f64,
    yy: f64,
}

struct Memory<B: Backend> {
    /// Oldest first.
    pairs: VecDeque<Pair<B>>,
    most: usize,
}

/// Pairs with `s.y` below this part of `|s| |y|` say nothing about the curvature but rounding.
const LEAST_COSINE: f64 = 1e-10;

impl<B: Backend> Memory<B> {
    fn remember(&mut self, from: &Iterate<B>, to: &Iterate<B>) {
        let difference = |a: &Block<B>, b: &Block<B>| {
            let mut d = a.clone();
            d.axpby(-1.0, b, 1.0);
            d
        };
        let (s, y) = (difference(&to.theta, &from.theta), difference(&to.gradient, &from.gradient));
        let (ss, sy, yy) = (s.dots(&s)[0], s.dots(&y)[0], y.dots(&y)[0]);
        if sy > LEAST_COSINE * (ss * yy).sqrt() {
            self.pairs.push_back(Pair { s, y, sy, yy });
        }
        if self.pairs.len() > self.most {
            self.pairs.pop_front();
        }
    }

    /// `-H g` by the two-loop recursion, with `H = (s.y / y.y) I` before the first pair; the gradient, no
    /// longer than 1, where nothing is remembered.
    fn direction(&self, at: &Iterate<B>) -> Block<B> {
        let mut q = at.gradient.clone();
        let mut alphas = Vec::with_capacity(self.pairs.len());
        for Pair { s, y, sy, .. } in self.pairs.iter().rev() {
            let alpha = s.dots(&q)[0] / sy;
            q.axpby(-alpha, y, 1.0);
            alphas.push(alpha);
        }
        let scale = self.pairs.back().map_or(1.0 / at.norm.max(1.0), |Pair { sy, yy, .. }| sy / yy);
        let mut direction = q.clone();
        direction.axpby(-scale, &q, 0.0);
        for (Pair { s, y, sy, .. }, alpha) in self.pairs.iter().zip(alphas.iter().rev()) {
            let beta = y.dots(&direction)[0] / sy;
            direction.axpby(-alpha - beta, s, 1.0);
        }
        direction
    }
}

/// Of the slope: how much of the promised decrease a step keeps.
const DECREASE: f64 = 1e-4;
/// Of the slope: what a step may leave of it.
const CURVATURE: f64 = 0.9;
/// Trials before a direction is given up.
const TRIALS: usize = 60;

/// A step that satisfies the weak Wolfe conditions, by doubling and bisection (Lewis & Overton 2013,
/// algorithm 2.6). They give `s.y > 0`, which is all that the recursion needs, and the step 1 is nearly
/// always taken, so that interpolation would gain little.
///
/// Where differences of the objective drown in rounding, the slope judges the decrease in its place (Hager &
/// Zhang 2005, the approximate Wolfe conditions).
fn line_search<B: Backend>(
    risk: &EmpiricalRisk<B>,
    from: &Iterate<B>,
    direction: &Block<B>,
) -> Option<Iterate<B>> {
    let slope = direction.dots(&from.gradient)[0];
    if slope >= 0.0 {
        return None;
    }
    let (mut low, mut high, mut t) = (0.0, f64::INFINITY, 1.0);
    for _ in 0..TRIALS {
        let to = from.moved(risk, t, direction);
        let new_slope = direction.dots(&to.gradient)[0];
        let armijo = to.objective <= from.objective + DECREASE * t * slope;
        let by_slope =
            to.objective <= from.objective + from.rounding() && new_slope <= (2.0 * DECREASE - 1.0) * slope;
        if !(armijo || by_slope) {
            high = t;
        } else if new_slope < CURVATURE * slope {
            low = t;
        } else {
            return Some(to);
        }
        t = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * low };
    }
    None
}
