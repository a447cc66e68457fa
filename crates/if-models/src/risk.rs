//! The objective, and every constant in it.

use if_linalg::{Backend, Block, Real, View, ViewMut};
use serde::{Deserialize, Serialize};

use crate::ModelError;
use crate::curvature::{Curvature, CurvatureOperator};
use crate::inputs::{Inputs, Part, Rows};
use crate::kronecker::LabelExpectation;
use crate::layer::Scratch;
use crate::network::Network;
use crate::tape::{Point, Tape};

/// Which objective the numbers refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// `J = (1/n) sum l_i + (l2/2) |theta|^2`: Koh & Liang 2017.
    Mean,
    /// `J = sum l_i + (l2/2) |w|^2`, bias unregularised: Koh et al. 2019. It is `n` times MEAN at
    /// `l2 / n` with fixed removal, and computed as such.
    Sum,
}

/// What happens to the weights of the examples that stay when others are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Removal {
    /// They keep `1/n`. The removed example contributes `grad l_i`; the loss changes by about `score / n`.
    Fixed,
    /// They get `1/(n - 1)`, at the same l2. The example contributes `grad l_i + l2 theta`, and the
    /// loss changes by about `score / (n - 1)`.
    Renormalised,
}

/// The regulariser and the conventions of an [`EmpiricalRisk`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RiskSettings {
    /// MEAN or SUM.
    pub family: Family,
    /// Fixed or renormalised; SUM is always fixed.
    pub removal: Removal,
    /// Strength of `(l2/2) |theta|^2`, in the units of `family`.
    pub l2: f64,
    /// Whether l2 covers biases (never for SUM).
    pub regularise_bias: bool,
}

impl RiskSettings {
    /// MEAN, fixed removal, biases regularised.
    pub fn mean(l2: f64) -> Self {
        Self { family: Family::Mean, removal: Removal::Fixed, l2, regularise_bias: true }
    }

    /// Checks ranges and combinations.
    ///
    /// # Errors
    /// A negative l2, or renormalised removal under SUM.
    pub fn validate(self) -> Result<Self, ModelError> {
        if self.l2 < 0.0 || !self.l2.is_finite() {
            return Err(ModelError::Setting {
                name: "l2",
                expected: "a number of at least 0",
                found: self.l2,
            });
        }
        if self.family == Family::Sum && self.removal == Removal::Renormalised {
            return Err(ModelError::Unsupported(
                "family sum has no renormalised removal: the sum over the examples that stay is not rescaled"
                    .into(),
            ));
        }
        Ok(self)
    }
}

/// `J(theta) = (1/n) sum_i l_i(theta) + (l2/2) |theta|^2`, the one owner of `1/n`, `l2` and damping.
///
/// Internally always MEAN: SUM is `n J` at `l2 / n` with unregularised biases and fixed removal.
/// `H` is the Hessian of the data term alone; systems are `(H + (l2 + damping) I) x = b`, with
/// `damping` in units of `H`.
pub struct EmpiricalRisk<'a, B: Backend> {
    network: &'a Network<B>,
    inputs: &'a Inputs<B>,
    settings: RiskSettings,
    /// Weight of every example, `1/n` or what removal made of it.
    weights: B::Buffer,
    removed: Vec<usize>,
}

/// Damping by itself, as a part of the mean eigenvalue: what the field's tools take (Grosse et al. 2023).
const AUTO_DAMPING: f64 = 0.1;
/// Examples of a minibatch in one task. A constant: it fixes the order of summation.
const BATCH_PART: usize = 64;

impl<'a, B: Backend> EmpiricalRisk<'a, B> {
    /// All examples at weight `1/n`.
    ///
    /// # Errors
    /// Settings out of range, see [`RiskSettings::validate`], or a single example with renormalised
    /// removal, which leaves nothing to renormalise.
    pub fn new(
        network: &'a Network<B>,
        inputs: &'a Inputs<B>,
        settings: RiskSettings,
    ) -> Result<Self, ModelError> {
        let settings = settings.validate()?;
        if settings.removal == Removal::Renormalised && inputs.len() < 2 {
            return Err(ModelError::Unsupported(
                "renormalised removal needs at least 2 training examples, found 1".into(),
            ));
        }
        Ok(Self::weighted(network, inputs, settings, Vec::new()))
    }

    fn weighted(
        network: &'a Network<B>,
        inputs: &'a Inputs<B>,
        settings: RiskSettings,
        removed: Vec<usize>,
    ) -> Self {
        let n = inputs.len();
        let stay = match settings.removal {
            Removal::Fixed => n,
            Removal::Renormalised => n - removed.len(),
        };
        let mut weights = vec![B::Elem::from_f64(1.0 / stay as f64); n];
        removed.iter().for_each(|&i| weights[i] = B::Elem::ZERO);
        Self { network, inputs, settings, weights: inputs.backend().upload(&weights), removed }
    }

    /// The objective after `examples` are removed as the settings say.
    ///
    /// # Panics
    /// Where no example is left.
    pub fn without(&self, examples: &[usize]) -> Self {
        let mut removed = self.removed.clone();
        removed.extend(examples);
        removed.sort_unstable();
        removed.dedup();
        assert!(removed.len() < self.n(), "removing all {} examples", self.n());
        Self::weighted(self.network, self.inputs, self.settings, removed)
    }

    /// Number of examples, those removed included.
    pub fn n(&self) -> usize {
        self.inputs.len()
    }

    /// The network.
    pub fn network(&self) -> &'a Network<B> {
        self.network
    }

    /// The examples.
    pub fn inputs(&self) -> &'a Inputs<B> {
        self.inputs
    }

    /// The conventions.
    pub fn settings(&self) -> RiskSettings {
        self.settings
    }

    /// l2 in units of the mean loss: `l2`, or `l2 / n` under SUM.
    pub fn mean_l2(&self) -> f64 {
        match self.settings.family {
            Family::Mean => self.settings.l2,
            Family::Sum => self.settings.l2 / self.n() as f64,
        }
    }

    /// Factor from a score `g_q^T (H + ...)^-1 g_i` to the predicted change of the query's loss on
    /// removal of the example: `1/n`, or `1/(n - 1)` where removal renormalises.
    pub fn removal_factor(&self) -> f64 {
        match self.settings.removal {
            Removal::Fixed => 1.0 / self.n() as f64,
            Removal::Renormalised => 1.0 / (self.n() - 1) as f64,
        }
    }

    /// Weight of every example in the mean: `1/n`, or what removal made of it.
    pub fn example_weights(&self) -> Vec<f64> {
        let weights = self.inputs.backend().download(View::new(&self.weights, 0, self.n(), 1));
        weights.into_iter().map(Real::to_f64).collect()
    }

    /// Whether l2 covers the biases.
    pub fn regularises_bias(&self) -> bool {
        self.settings.regularise_bias && self.settings.family == Family::Mean
    }

    /// The objective in units of the mean loss, and its gradient.
    pub fn gradient(&self, theta: &Block<B>) -> (f64, Block<B>) {
        let (losses, mut gradient) = self.data_gradient(theta);
        self.add_l2(theta, &mut gradient);
        (self.objective_of(&losses, theta), gradient)
    }

    /// The objective in units of the mean loss.
    pub fn objective(&self, theta: &Block<B>) -> f64 {
        self.objective_of(&self.network.example_losses(self.inputs, theta), theta)
    }

    fn objective_of(&self, losses: &[f64], theta: &Block<B>) -> f64 {
        let data: f64 = losses.iter().zip(self.example_weights()).map(|(l, w)| l * w).sum();
        let mut penalty = Block::zeros(theta.backend(), theta.layout(), 1);
        self.add_l2(theta, &mut penalty);
        data + 0.5 * penalty.dots(theta)[0]
    }

    /// Losses of the examples `batch`, and `(1/b) sum grad l_i + l2 theta` over them: what a step of
    /// minibatch training goes along. Removed examples count like the others.
    pub fn batch_gradient(&self, theta: &Block<B>, batch: &[usize]) -> (Vec<f64>, Block<B>) {
        let (network, backend) = (self.network, self.inputs.backend());
        let mut gradient = Block::zeros(backend, network.layout(), 1);
        let mut losses = Vec::with_capacity(batch.len());
        // Only as many sums at once as the device can work on.
        for wave in batch.chunks(BATCH_PART * 2 * backend.concurrency()) {
            let sums = backend.map(wave.len().div_ceil(BATCH_PART), |part| {
                let rows = Rows::Indices(&wave[part * BATCH_PART..wave.len().min((part + 1) * BATCH_PART)]);
                let mut sum = Block::zeros(backend, network.layout(), 1);
                let losses =
                    network.with_scratch(|scratch| self.add_gradient(scratch, theta, rows, false, &mut sum));
                (losses, sum)
            });
            for (some, sum) in sums {
                losses.extend(some);
                gradient.axpby(1.0 / batch.len() as f64, &sum, 1.0);
            }
        }
        self.add_l2(theta, &mut gradient);
        (losses, gradient)
    }

    /// Losses of all examples, and `sum_i w_i grad l_i`.
    fn data_gradient(&self, theta: &Block<B>) -> (Vec<f64>, Block<B>) {
        let (network, inputs) = (self.network, self.inputs);
        let mut gradient = Block::zeros(inputs.backend(), network.layout(), 1);
        let losses = network.sum_blocks(inputs.blocks(), &mut gradient, |scratch, b, _, sum| {
            self.add_gradient(scratch, theta, inputs.block(b), true, sum)
        });
        (losses.concat(), gradient)
    }

    /// Adds the gradients of `rows` to `sum`, by their weights or as they are; returns the losses.
    fn add_gradient(
        &self,
        scratch: &mut Scratch<B>,
        theta: &Block<B>,
        rows: Rows,
        weighted: bool,
        sum: &mut Block<B>,
    ) -> Vec<f64> {
        let network = self.network;
        let mut losses = Vec::with_capacity(rows.len());
        for (first, count) in network.parts(rows.len()) {
            let part = rows.part(first, count);
            let batch = self.inputs.batch(part);
            let tape = network.forward(scratch, theta, &batch);
            let at = Point::new(theta, &batch, &tape);
            if weighted {
                let delta = self.weighted_delta(scratch, &tape, part);
                network.add_gradients(scratch, at, View::new(&delta, 0, count, network.outputs()), (sum, 0));
                scratch.give(delta);
            } else {
                network.add_gradients(scratch, at, network.delta(&tape), (sum, 0));
            }
            losses
                .extend(self.inputs.backend().download(network.losses(&tape)).into_iter().map(Real::to_f64));
            network.release(scratch, tape);
        }
        losses
    }

    /// `w_i dl_i/dz`, `rows x outputs`.
    pub(crate) fn weighted_delta(&self, scratch: &mut Scratch<B>, tape: &Tape<B>, rows: Rows) -> B::Buffer {
        let (backend, outputs) = (self.inputs.backend(), self.network.outputs());
        let mut delta = scratch.take(tape.rows * outputs);
        backend.copy(self.network.delta(tape), ViewMut::new(&mut delta, 0, tape.rows, outputs));
        self.weigh(rows, ViewMut::new(&mut delta, 0, tape.rows, outputs));
        delta
    }

    /// Multiplies every row (direction-major, `rows.len()` to a direction) by its example's weight.
    pub(crate) fn weigh(&self, rows: Rows, y: ViewMut<B>) {
        self.inputs.backend().scale_rows(self.weights_of(rows).view(rows.len(), 1), y);
    }

    /// The weights of `rows`, one column.
    pub(crate) fn weights_of(&self, rows: Rows) -> Part<'_, B> {
        self.inputs.column(&self.weights, rows)
    }

    /// `y += l2 x`, biases spared where they are not regularised.
    pub fn add_l2(&self, x: &Block<B>, y: &mut Block<B>) {
        let (l2, k) = (self.mean_l2(), x.k());
        if self.regularises_bias() {
            y.axpby(l2, x, 1.0);
            return;
        }
        let segments = self.network.layout().segments();
        for ((s, segment), bias) in segments.iter().enumerate().zip(self.network.biases()) {
            let (rows, cols) = (k * segment.rows, segment.cols - usize::from(bias));
            let source = x.stacked(s, 0, k).col_range(0, cols);
            let mut target = y.stacked_mut(s, 0, k);
            let (l2, ones) = (vec![l2; rows], vec![1.0; rows]);
            self.inputs.backend().row_axpby(&l2, source, &ones, target.part(0, rows, cols));
        }
    }

    /// The damping that goes by itself: a tenth of the mean eigenvalue of the Gauss-Newton matrix (its trace over `p`,
    /// exact up to 20 classes), or of the empirical Fisher matrix where that is the curvature. The Hessian has the
    /// Gauss-Newton matrix's: its own eigenvalues may cancel.
    pub fn auto_damping(&self, theta: &Block<B>, curvature: Curvature) -> f64 {
        let expectation = LabelExpectation::of(curvature, self.network.outputs(), 0);
        let diagonal = self.network.squared_gradients(self.inputs, theta, expectation, |_| None).to_f64();
        AUTO_DAMPING * diagonal.iter().sum::<f64>() / diagonal.len() as f64
    }

    /// `(C + l2 I + damping I)` with `C` the chosen curvature of the data term at `theta`. Activations
    /// are kept between products where they fit `cache` bytes.
    pub fn operator<'r>(
        &'r self,
        theta: &'r Block<B>,
        curvature: Curvature,
        damping: f64,
        cache: usize,
    ) -> CurvatureOperator<'r, 'a, B> {
        CurvatureOperator::new(self, theta, curvature, damping, cache)
    }
}
