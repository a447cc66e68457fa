//! The linear SVM: the hinge loss to its exact optimum, by dual coordinate descent.
//!
//! Hsieh et al. 2008, algorithm 1. With `C_i = w_i / l2` (`w_i` the example's weight in the mean) the
//! dual of `J / l2` is `max sum a_i - |theta|^2 / 2`, `0 <= a_i <= C_i`, `theta = sum a_i y_i x~_i`.
//!
//! Deviations:
//! 1. Between passes over all examples, ten passes over those strictly inside their bounds.
//! 2. Stops on the duality gap, which bounds the distance to the optimum:
//!    `|theta - theta*|^2 <= 2 gap`, because `J / l2` is 1-strongly convex.

use if_linalg::{Backend, Block, Loss, Observer, Real};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::newton::{Fit, FitReport};
use crate::risk::EmpiricalRisk;
use crate::{ModelError, Rows};

/// Settings of the dual coordinate descent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HingeSvm {
    /// Bound on the distance `|theta - theta*|` to reach.
    pub distance_tolerance: f64,
    /// Passes over all examples at most.
    pub max_passes: usize,
    /// Seed of the order in which examples are visited.
    pub seed: u64,
}

impl Default for HingeSvm {
    fn default() -> Self {
        Self { distance_tolerance: 1e-6, max_passes: 2000, seed: 0 }
    }
}

/// Passes over the free examples for each pass over all.
const INNER_PASSES: usize = 10;

impl HingeSvm {
    /// Minimises `risk`, whose network is one dense layer with one output and the hinge loss.
    /// `duals` are the dual variables of an earlier fit of the same examples, to start from (empty:
    /// from zero); they come back with the new ones.
    ///
    /// # Errors
    /// Another loss or network, an unregularised bias, or l2 = 0: the dual above is not theirs.
    pub fn minimise<B: Backend>(
        &self,
        risk: &EmpiricalRisk<B>,
        duals: &mut Vec<f64>,
        observer: &dyn Observer,
    ) -> Result<Fit<B>, ModelError> {
        let network = risk.network();
        let linear = network.is_linear() && network.outputs() == 1;
        let spared = !risk.regularises_bias() && network.biases().contains(&true);
        if network.loss() != Loss::Hinge || !linear || spared || risk.mean_l2() <= 0.0 || !risk.is_plain() {
            return Err(ModelError::Unsupported(
                "dual coordinate descent needs one dense layer with one output, the hinge loss, l2 > 0 and a regularised bias".into(),
            ));
        }
        let mut dual = Dual::new(risk, std::mem::take(duals));
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut order: Vec<usize> = (0..dual.y.len()).collect();
        let mut passes = 0;
        let mut distance = (2.0 * dual.gap()).sqrt();
        while distance > self.distance_tolerance && passes < self.max_passes && !observer.cancelled() {
            order.shuffle(&mut rng);
            order.iter().for_each(|&i| dual.step(i));
            let mut free: Vec<usize> = order.iter().copied().filter(|&i| dual.is_free(i)).collect();
            for _ in 0..INNER_PASSES {
                free.shuffle(&mut rng);
                free.iter().for_each(|&i| dual.step(i));
            }
            passes += 1;
            distance = (2.0 * dual.gap()).sqrt();
            observer.progress("training", passes, self.max_passes);
        }
        let theta = Block::from_f64(network.backend(), network.layout(), &dual.theta);
        let report = FitReport {
            objective: risk.objective(&theta),
            optimality: distance,
            tolerance: self.distance_tolerance,
            iterations: passes,
        };
        *duals = dual.a;
        Ok(Fit { theta, report })
    }
}

/// The dual problem on the host, in `f64`.
struct Dual {
    /// Rows of `x~` (features, then a one where there is a bias), flattened.
    x: Vec<f64>,
    cols: usize,
    y: Vec<f64>,
    squared: Vec<f64>,
    /// Upper bounds.
    c: Vec<f64>,
    a: Vec<f64>,
    theta: Vec<f64>,
}

impl Dual {
    fn new<B: Backend>(risk: &EmpiricalRisk<B>, mut a: Vec<f64>) -> Self {
        let (inputs, backend) = (risk.inputs(), risk.network().backend());
        let (n, cols) = (inputs.len(), risk.network().layout().dim());
        let batch = inputs.batch(Rows::Range(0, n));
        let host = |view| backend.download(view).into_iter().map(Real::to_f64).collect::<Vec<f64>>();
        let (x, y) = (host(batch.x().col_range(0, cols)), host(batch.targets()));
        let c: Vec<f64> = risk.example_weights().iter().map(|w| w / risk.mean_l2()).collect();
        a.resize(n, 0.0);
        a.iter_mut().zip(&c).for_each(|(a, c)| *a = a.clamp(0.0, *c));
        let squared = x.chunks(cols).map(|row| dot(row, row)).collect();
        let mut dual = Self { theta: vec![0.0; cols], x, cols, y, squared, c, a };
        for i in 0..n {
            let coefficient = dual.a[i] * dual.y[i];
            add(&mut dual.theta, coefficient, &dual.x[i * cols..(i + 1) * cols]);
        }
        dual
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.x[i * self.cols..(i + 1) * self.cols]
    }

    fn is_free(&self, i: usize) -> bool {
        self.a[i] > 0.0 && self.a[i] < self.c[i]
    }

    /// The exact maximum over `a_i` alone.
    fn step(&mut self, i: usize) {
        if self.squared[i] == 0.0 {
            // The margin is 0 whatever theta is: the dual rises with a_i.
            self.a[i] = self.c[i];
            return;
        }
        let gradient = self.y[i] * dot(&self.theta, self.row(i)) - 1.0;
        let new = (self.a[i] - gradient / self.squared[i]).clamp(0.0, self.c[i]);
        let change = (new - self.a[i]) * self.y[i];
        if change != 0.0 {
            self.a[i] = new;
            let cols = self.cols;
            add(&mut self.theta, change, &self.x[i * cols..(i + 1) * cols]);
        }
    }

    /// Primal minus dual value of `J / l2`: with `|theta|^2 = sum a_i m_i` it is
    /// `sum C_i max(0, 1 - m_i) - a_i (1 - m_i)`. No term is negative, so none of the gap is lost to
    /// cancellation, as it is in the difference of the two values.
    fn gap(&self) -> f64 {
        let term = |i: usize| {
            let slack = 1.0 - self.y[i] * dot(&self.theta, self.row(i));
            if slack > 0.0 { (self.c[i] - self.a[i]) * slack } else { -self.a[i] * slack }
        };
        (0..self.y.len()).map(term).sum()
    }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn add(y: &mut [f64], alpha: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += alpha * x);
}
