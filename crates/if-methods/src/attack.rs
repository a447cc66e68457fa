//! Training-set attacks: training examples changed so little that nobody sees it, so that a test example is misclassified.
//! Koh & Liang 2017, section 5.2.
//!
//! ```text
//! repeat   theta <- optimum on the training set as it is now
//!          x_i   <- Pi(x_i + step sign(slope_i))         slope_i of the target's loss, see [`Influence::perturbation`]
//! ```
//!
//! `Pi` keeps every feature within `radius` of what it was and between the bounds. The model is whatever is retrained: a
//! linear model, or the layers that [`Network::select`] leaves, such as the last one on frozen features, with slopes
//! that reach through the frozen layers to the pixels.
//!
//! Deviations:
//! 1. Pixels are not rounded to 8 bits on the way: the box is small, and steps are smaller.
//! 2. The system is solved anew in each step, at the parameters of that step.
//!
//! What frozen first layers give is computed once, and again for the changed examples alone ([`Unfrozen`]).

use if_linalg::{Backend, Block, Loss, Observer, Solver};
use if_models::{Curvature, Dataset, EmpiricalRisk, Inputs, Network, NewtonCg, RiskSettings, Unfrozen};
use serde::{Deserialize, Serialize};

use crate::{Influence, MethodError, descending};

/// Settings of an attack.
///
/// ```
/// use if_linalg::{Block, Cholesky, Cpu};
/// use if_methods::Attack;
/// use if_models::{Curvature, Dataset, EmpiricalRisk, HostArray, Inputs, Loss};
/// use if_models::{Network, NewtonCg, RiskSettings};
///
/// let x = ndarray::ArrayD::from_shape_fn(vec![40, 2], |i| (5.0 * i[0] as f64 + i[1] as f64).cos());
/// let data = Dataset::new(HostArray::F64(x), (0..40).map(|i| (i % 2) as f64).collect())?;
/// let network = Network::linear(&Cpu::<f64>::new(), 2, 1, true, Loss::Logistic);
/// let settings = RiskSettings::mean(0.1);
/// let train = Inputs::new(&network, &data, usize::MAX)?;
/// let start = Block::zeros(network.backend(), network.layout(), 1);
/// let theta = NewtonCg::default().minimise(&EmpiricalRisk::new(&network, &train, settings)?, &start, &()).theta;
///
/// let attack = Attack {
///     step: 0.05,
///     radius: 0.5,
///     bounds: [-1.0, 1.0],
///     iterations: 20,
///     gradient_tolerance: 1e-8,
///     curvature: Curvature::Hessian,
///     damping: 0.0,
/// };
/// let target = Inputs::new(&network, &data.slice(0, 1), usize::MAX)?;
/// let solver = Cholesky { tolerance: 1e-8, memory_budget: usize::MAX };
/// let found = attack.run(&network, &theta, (&data, settings), (&[3, 5, 7], &target), &solver, &())?;
/// println!("misclassified: {}, log-odds {:?}", found.flipped(), found.margins);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attack {
    /// Length of a step in every feature.
    pub step: f64,
    /// How far a feature may move from where it was.
    pub radius: f64,
    /// What a feature may be at all.
    pub bounds: [f64; 2],
    /// Steps at most; fewer where the target is misclassified before, or no feature can move any further.
    pub iterations: usize,
    /// Norm of the gradient that retraining goes to.
    pub gradient_tolerance: f64,
    /// Which second derivative slopes are taken with.
    pub curvature: Curvature,
    /// In units of the curvature.
    pub damping: f64,
}

/// Bytes for activations kept between products.
const CACHE: usize = 1 << 30;

/// What an attack came to.
pub struct Attacked<B: Backend> {
    /// Features of the attacked examples as they are now, one after another.
    pub features: Vec<f64>,
    /// Log-odds of the target's label before each step and after the last: below 0 it is misclassified.
    pub margins: Vec<f64>,
    /// The parameters that the changed training set gives.
    pub theta: Block<B>,
}

impl<B: Backend> Attacked<B> {
    /// Whether the target's label has less than even odds in the end.
    pub fn flipped(&self) -> bool {
        self.margins.last().is_some_and(|margin| *margin < 0.0)
    }
}

impl Attack {
    /// Changes `examples` of `data` so that the only example of `target` is misclassified by `network`, trained on them
    /// from `theta` on under `settings`.
    ///
    /// # Errors
    /// Settings out of range, more than one target, an example that there is not, a system that cannot be solved or a
    /// retraining that stops short, [`MethodError::Cancelled`].
    pub fn run<B: Backend>(
        &self,
        network: &Network<B>,
        theta: &Block<B>,
        (data, settings): (&Dataset, RiskSettings),
        (examples, target): (&[usize], &Inputs<B>),
        solver: &dyn Solver<B>,
        observer: &dyn Observer,
    ) -> Result<Attacked<B>, MethodError> {
        self.check(data, examples, target)?;
        let width = data.width();
        let mut original = vec![0.0f64; examples.len() * width];
        for (row, &i) in original.chunks_exact_mut(width).zip(examples) {
            data.features().read_row(i, row);
        }
        let margin = network.measured_by(Loss::Margin)?;
        let mut train = Inputs::new(network, data, usize::MAX)?;
        let mut chosen = Inputs::new(network, &data.select(examples), usize::MAX)?;
        let mut trained = Unfrozen::new(network, theta, data)?;
        let mut attacked = Attacked { features: original.clone(), margins: Vec::new(), theta: theta.clone() };
        for iteration in 0..=self.iterations {
            if observer.cancelled() {
                return Err(MethodError::Cancelled);
            }
            for (row, features) in attacked.features.chunks_exact(width).enumerate() {
                train.set_features(examples[row], features);
                chosen.set_features(row, features);
            }
            trained.set_examples(examples, &chosen);
            let risk = EmpiricalRisk::new(trained.network(), trained.inputs(), settings)?;
            attacked.theta = self.retrain(&risk, &attacked.theta)?;
            attacked.margins.push(-margin.example_losses(target, &attacked.theta)[0]);
            observer.progress("attack", iteration, self.iterations);
            if attacked.flipped() || iteration == self.iterations {
                break;
            }
            let operator = risk.operator(&attacked.theta, self.curvature, self.damping, CACHE);
            let prepared = solver.prepare(&operator)?;
            // Slopes reach through all layers.
            let whole = EmpiricalRisk::new(network, &train, settings)?;
            let influence = Influence::new(&whole, &attacked.theta, &*prepared);
            let features = &mut attacked.features;
            let mut moved = false;
            let report = influence.perturbation(target, &chosen, &(), |_, slopes| {
                for ((x, slope), start) in features.iter_mut().zip(slopes).zip(&original) {
                    let to = self.project(*x + self.step * sign(*slope), *start);
                    moved |= to != *x;
                    *x = to;
                }
                Ok::<(), MethodError>(())
            })?;
            if !report.none_failed() {
                return Err(MethodError::Unsolved(report.summary()));
            }
            if !moved {
                break;
            }
        }
        Ok(attacked)
    }

    /// The training examples, strongest first, whose features the target's loss depends on most: by the sum of the
    /// slopes' absolute values.
    ///
    /// # Errors
    /// [`MethodError::Cancelled`] where the observer asks to stop.
    pub fn victims<B: Backend>(
        influence: &Influence<B>,
        target: &Inputs<B>,
        observer: &dyn Observer,
    ) -> Result<Vec<usize>, MethodError> {
        let mut sums = Vec::new();
        let width = influence.risk.network().inputs();
        influence.perturbation(target, influence.risk.inputs(), observer, |_, slopes| {
            sums = slopes.chunks_exact(width).map(|row| row.iter().map(|s| s.abs()).sum()).collect();
            Ok::<(), MethodError>(())
        })?;
        Ok(descending(&sums))
    }

    fn check<B: Backend>(
        &self,
        data: &Dataset,
        examples: &[usize],
        target: &Inputs<B>,
    ) -> Result<(), MethodError> {
        let setting = |name, expected: &str, found: String| {
            Err(MethodError::Setting { name, expected: expected.into(), found })
        };
        if !(self.step > 0.0 && self.radius > 0.0) {
            return setting(
                "attack",
                "a step and a radius above 0",
                format!("{} and {}", self.step, self.radius),
            );
        }
        if target.len() != 1 {
            return setting("attack", "one target", format!("{} targets", target.len()));
        }
        match examples.iter().find(|&&i| i >= data.len()) {
            Some(i) => {
                let expected = format!("training examples below {}", data.len());
                Err(MethodError::Setting { name: "attack", expected, found: i.to_string() })
            }
            None if examples.is_empty() => setting("attack", "at least one example to change", "none".into()),
            None => Ok(()),
        }
    }

    /// The optimum near `theta` that an attack starts from.
    ///
    /// # Errors
    /// Retraining that stops short of the gradient's norm.
    pub fn retrain<B: Backend>(
        &self,
        risk: &EmpiricalRisk<B>,
        theta: &Block<B>,
    ) -> Result<Block<B>, MethodError> {
        let newton = NewtonCg { gradient_tolerance: self.gradient_tolerance, ..NewtonCg::default() };
        let fit = newton.minimise(risk, theta, &());
        if fit.report.converged() {
            return Ok(fit.theta);
        }
        Err(MethodError::Unsolved(format!(
            "retraining stopped at a gradient of norm {:.1e}, above {:.0e}",
            fit.report.optimality, self.gradient_tolerance
        )))
    }

    fn project(&self, x: f64, start: f64) -> f64 {
        let [low, high] = self.bounds;
        x.clamp(start - self.radius, start + self.radius).clamp(low, high)
    }
}

/// 0 where a feature does not matter.
fn sign(slope: f64) -> f64 {
    if slope == 0.0 { 0.0 } else { slope.signum() }
}
