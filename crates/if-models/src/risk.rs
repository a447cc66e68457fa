//! The objective, and every constant in it.

use std::sync::Arc;

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
    extra: Extra<B>,
}

/// What some objectives have beside losses and l2, shared by all that are made from one.
struct Extra<B: Backend> {
    /// Whether l2 covers each segment; all of them where there is nothing.
    covered: Option<Arc<[bool]>>,
    anchor: Option<Arc<Anchor<B>>>,
    /// `t`, `n x outputs`, of the term `- sum_i t_i . z_i`.
    tilt: Option<Arc<B::Buffer>>,
}

impl<B: Backend> Clone for Extra<B> {
    fn clone(&self) -> Self {
        Self { covered: self.covered.clone(), anchor: self.anchor.clone(), tilt: self.tilt.clone() }
    }
}

/// `sum_s (strength_s / 2) |theta_s - at_s|^2` over the segments of the layout.
struct Anchor<B: Backend> {
    at: Block<B>,
    strengths: Vec<f64>,
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
        let extra = Extra { covered: None, anchor: None, tilt: None };
        let weights = inputs.backend().zeros(inputs.len());
        let risk = Self { network, inputs, settings, weights, removed: Vec::new(), extra };
        Ok(risk.without(&[]))
    }

    /// The objective after `examples` are removed as the settings say; other weights that it had are forgotten.
    ///
    /// # Panics
    /// Where no example is left.
    pub fn without(&self, examples: &[usize]) -> Self {
        let mut removed = self.removed.clone();
        removed.extend(examples);
        removed.sort_unstable();
        removed.dedup();
        assert!(removed.len() < self.n(), "removing all {} examples", self.n());
        let mut weights = vec![self.removal_factor_of(removed.len()); self.n()];
        removed.iter().for_each(|&i| weights[i] = 0.0);
        Self { removed, ..self.reweighted(&weights) }
    }

    /// The objective with these weights (length `n`) in place of `1/n`.
    pub fn reweighted(&self, weights: &[f64]) -> Self {
        assert_eq!(weights.len(), self.n(), "one weight for each example");
        let weights: Vec<B::Elem> = weights.iter().map(|w| B::Elem::from_f64(*w)).collect();
        Self {
            weights: self.inputs.backend().upload(&weights),
            removed: self.removed.clone(),
            extra: self.extra.clone(),
            ..*self
        }
    }

    /// The objective with `l2` only on the layers `names`.
    ///
    /// # Errors
    /// A name that no layer with parameters has.
    pub fn with_l2_on(&self, names: &[&str]) -> Result<Self, ModelError> {
        let covered = self.network.segments_named(names)?;
        Ok(Self { extra: Extra { covered: Some(covered.into()), ..self.extra.clone() }, ..self.same() })
    }

    /// The objective plus `(strength/2) |theta_s - at_s|^2` over the layers `names`, instead of such a term that it
    /// may have: their parameters are pulled towards those of `at`.
    ///
    /// # Errors
    /// A name that no layer with parameters has, or a strength that is not above 0.
    pub fn anchored(&self, at: &Block<B>, strength: f64, names: &[&str]) -> Result<Self, ModelError> {
        if !(strength > 0.0 && strength.is_finite()) {
            let (name, expected) = ("strength of an anchor", "a number above 0");
            return Err(ModelError::Setting { name, expected, found: strength });
        }
        let pulled = self.network.segments_named(names)?;
        let strengths = pulled.into_iter().map(|pulled| if pulled { strength } else { 0.0 }).collect();
        let anchor = Some(Arc::new(Anchor { at: at.clone(), strengths }));
        Ok(Self { extra: Extra { anchor, ..self.extra.clone() }, ..self.same() })
    }

    fn same(&self) -> Self {
        self.reweighted(&self.example_weights())
    }

    /// The proximal Bregman objective at `at` (Bae et al. 2022): what stays near the outputs `z_i(at)` and near `at`,
    ///
    /// ```text
    /// (1/n) sum_i [l_i(z_i) - l_i(z_i(at)) - dl_i/dz (z_i(at)) . (z_i - z_i(at))] + ((l2 + damping)/2) |theta - at|^2
    /// ```
    ///
    /// but for a constant. `at` is its minimum, and the curvature there is the Gauss-Newton matrix plus
    /// `l2 + damping`: [`without`](Self::without) a group it is what influence with that matrix and that damping
    /// predicts, where retraining answers another question. Removal is fixed.
    ///
    /// ```
    /// use if_linalg::{Block, Cpu};
    /// use if_models::{Dataset, EmpiricalRisk, HostArray, Inputs, Lbfgs, Loss, Network, RiskSettings};
    ///
    /// let x = ndarray::ArrayD::from_shape_fn(vec![20, 2], |i| (5.0 * i[0] as f64 + i[1] as f64).cos());
    /// let data = Dataset::new(HostArray::F64(x), (0..20).map(|i| (i % 2) as f64).collect())?;
    /// let network = Network::linear(&Cpu::<f64>::new(), 2, 1, true, Loss::Logistic);
    /// let train = Inputs::new(&network, &data, usize::MAX)?;
    /// let risk = EmpiricalRisk::new(&network, &train, RiskSettings::mean(0.01))?;
    /// // Weights that are no optimum of the risk are the optimum of this.
    /// let theta = Block::from_f64(network.backend(), network.layout(), &[1.0, -2.0, 0.5]);
    /// let proximal = risk.proximal(&theta, 0.1)?;
    /// let response = Lbfgs::default().minimise(&proximal.without(&[3]), &theta, &());
    /// assert!(response.report.converged());
    /// # Ok::<(), if_models::ModelError>(())
    /// ```
    ///
    /// # Errors
    /// `l2 + damping` that is not above 0.
    pub fn proximal(&self, at: &Block<B>, damping: f64) -> Result<Self, ModelError> {
        let all: Vec<&str> = self.network.layout().segments().iter().map(|s| s.name.as_str()).collect();
        let pulled = self.anchored(at, self.mean_l2() + damping, &all)?;
        let mut scratch = Scratch::new(self.inputs.backend());
        let (n, outputs) = (self.n(), self.network.outputs());
        let mut tilt = self.inputs.backend().zeros(n * outputs);
        for b in 0..self.inputs.blocks() {
            let rows = self.inputs.block(b);
            let tape = self.network.forward(&mut scratch, at, &self.inputs.batch(rows));
            let delta = self.weighted_delta(&mut scratch, &tape, rows);
            let target = ViewMut::new(&mut tilt, rows.index(0) * outputs, rows.len(), outputs);
            self.inputs.backend().copy(View::new(&delta, 0, rows.len(), outputs), target);
            scratch.give(delta);
            self.network.release(&mut scratch, tape);
        }
        let settings = RiskSettings { l2: 0.0, removal: Removal::Fixed, ..self.settings };
        Ok(Self { settings, extra: Extra { tilt: Some(Arc::new(tilt)), ..pulled.extra }, ..self.same() })
    }

    /// Whether it is nothing but losses and an l2 that covers every layer.
    pub(crate) fn is_plain(&self) -> bool {
        let Extra { covered, anchor, tilt } = &self.extra;
        covered.is_none() && anchor.is_none() && tilt.is_none()
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
        self.removal_factor_of(1)
    }

    /// Factor by which the weights of the others grow when `removed` examples are removed.
    pub(crate) fn growth(&self, removed: usize) -> f64 {
        match self.settings.removal {
            Removal::Fixed => 1.0,
            Removal::Renormalised => self.n() as f64 / (self.n() - removed) as f64,
        }
    }

    /// What the examples that stay weigh when `removed` others are removed: `1/n`, or `1/(n - removed)` where removal
    /// renormalises.
    pub fn removal_factor_of(&self, removed: usize) -> f64 {
        match self.settings.removal {
            Removal::Fixed => 1.0 / self.n() as f64,
            Removal::Renormalised => 1.0 / (self.n() - removed) as f64,
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
        self.add_penalty_gradient(theta, &mut gradient);
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
        let mut value = data + 0.5 * penalty.dots(theta)[0];
        if let Some(anchor) = &self.extra.anchor {
            let offset = anchor.offset(theta);
            let mut pull = Block::zeros(theta.backend(), theta.layout(), 1);
            anchor.add_pull(&offset, &mut pull);
            value += 0.5 * pull.dots(&offset)[0];
        }
        if let Some(tilt) = &self.extra.tilt {
            let (n, outputs) = (self.n(), self.network.outputs());
            let tilt = self.inputs.backend().download(View::new(&**tilt, 0, n, outputs));
            let z = self.network.example_outputs(self.inputs, theta);
            value -= tilt.iter().zip(z).map(|(t, z)| t.to_f64() * z).sum::<f64>();
        }
        value
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
        if let Some(tilt) = &self.extra.tilt {
            let mut own = scratch.take(tape.rows * outputs);
            let indices: Vec<usize> = (0..rows.len()).map(|i| rows.index(i)).collect();
            let all = View::new(&**tilt, 0, self.n(), outputs);
            backend.gather_rows(all, &indices, ViewMut::new(&mut own, 0, tape.rows, outputs));
            let (minus, ones) = (vec![-1.0; tape.rows], vec![1.0; tape.rows]);
            let target = ViewMut::new(&mut delta, 0, tape.rows, outputs);
            backend.row_axpby(&minus, View::new(&own, 0, tape.rows, outputs), &ones, target);
            scratch.give(own);
        }
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

    /// `y += l2 theta + strength (theta - at)`: the gradient of what is added to the mean loss.
    fn add_penalty_gradient(&self, theta: &Block<B>, y: &mut Block<B>) {
        self.add_l2(theta, y);
        if let Some(anchor) = &self.extra.anchor {
            anchor.add_pull(&anchor.offset(theta), y);
        }
    }

    /// `y += l2 x + strength x`: the same for the second derivative.
    pub(crate) fn add_penalty_product(&self, x: &Block<B>, y: &mut Block<B>) {
        self.add_l2(x, y);
        if let Some(anchor) = &self.extra.anchor {
            anchor.add_pull(x, y);
        }
    }

    /// `y += l2 x`, biases spared where they are not regularised.
    pub fn add_l2(&self, x: &Block<B>, y: &mut Block<B>) {
        let (l2, k) = (self.mean_l2(), x.k());
        if self.regularises_bias() && self.extra.covered.is_none() {
            y.axpby(l2, x, 1.0);
            return;
        }
        let segments = self.network.layout().segments();
        for ((s, segment), bias) in segments.iter().enumerate().zip(self.network.biases()) {
            if self.extra.covered.as_ref().is_some_and(|covered| !covered[s]) {
                continue;
            }
            let spared = bias && !self.regularises_bias();
            let (rows, cols) = (k * segment.rows, segment.cols - usize::from(spared));
            let source = x.stacked(s, 0, k).col_range(0, cols);
            let mut target = y.stacked_mut(s, 0, k);
            let (l2, ones) = (vec![l2; rows], vec![1.0; rows]);
            self.inputs.backend().row_axpby(&l2, source, &ones, target.part(0, rows, cols));
        }
    }

    /// The least second derivative that the penalty has along any parameter.
    pub(crate) fn least_penalty(&self) -> f64 {
        let Extra { covered, anchor, .. } = &self.extra;
        let of = |(s, bias): (usize, bool)| {
            let l2 = match covered.as_ref().is_none_or(|covered| covered[s]) {
                true if !bias || self.regularises_bias() => self.mean_l2(),
                _ => 0.0,
            };
            l2 + anchor.as_ref().map_or(0.0, |anchor| anchor.strengths[s])
        };
        self.network.biases().into_iter().enumerate().map(of).reduce(f64::min).unwrap_or(0.0)
    }

    /// How the gradient of the objective at its optimum `theta` falls when each of `groups` is removed, one vector each:
    /// `f sum_{i in group} g_i` with `f` the [`removal_factor_of`](Self::removal_factor_of) the group, and `g_i` the
    /// gradient of the loss, where removal renormalises plus `l2 theta`.
    pub fn removal_gradients(&self, theta: &Block<B>, groups: &[&[usize]]) -> Block<B> {
        let (network, backend) = (self.network, self.inputs.backend());
        let each = backend.map(groups.len(), |g| {
            let mut sum = Block::zeros(backend, network.layout(), 1);
            network.with_scratch(|scratch| {
                for rows in groups[g].chunks(B::ROW_BLOCK) {
                    self.add_gradient(scratch, theta, Rows::Indices(rows), false, &mut sum);
                }
            });
            if self.settings.removal == Removal::Renormalised {
                let mut penalty = Block::zeros(backend, network.layout(), 1);
                self.add_l2(theta, &mut penalty);
                sum.axpby(groups[g].len() as f64, &penalty, 1.0);
            }
            sum
        });
        let mut all = Block::zeros(backend, network.layout(), groups.len());
        for (g, sum) in each.iter().enumerate() {
            all.add_at(g, self.removal_factor_of(groups[g].len()), sum);
        }
        all
    }

    /// [`removal_gradients`](Self::removal_gradients) of a group of `size` examples to which every example belongs by
    /// `shares[i]`, from 0 to 1.
    pub fn shared_removal_gradient(&self, theta: &Block<B>, shares: &[f64], size: usize) -> Block<B> {
        let factor = self.removal_factor_of(size);
        let weights: Vec<f64> = shares.iter().map(|share| factor * share).collect();
        let mut gradient = self.reweighted(&weights).data_gradient(theta).1;
        if self.settings.removal == Removal::Renormalised {
            let mut penalty = Block::zeros(theta.backend(), theta.layout(), 1);
            self.add_l2(theta, &mut penalty);
            gradient.axpby(weights.iter().sum(), &penalty, 1.0);
        }
        gradient
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

impl<B: Backend> Anchor<B> {
    /// `theta - at`.
    fn offset(&self, theta: &Block<B>) -> Block<B> {
        let mut offset = theta.clone();
        offset.axpby(-1.0, &self.at, 1.0);
        offset
    }

    /// `y += strength x`, segment by segment.
    fn add_pull(&self, x: &Block<B>, y: &mut Block<B>) {
        for (s, strength) in self.strengths.iter().enumerate().filter(|(_, strength)| **strength != 0.0) {
            let (strengths, ones) = (vec![*strength; x.k()], vec![1.0; x.k()]);
            x.backend().row_axpby(&strengths, x.segment(s), &ones, y.segment_mut(s));
        }
    }
}
