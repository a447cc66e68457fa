//! Second moments of what meets a layer's weights and of what comes back to them: the statistics of K-FAC
//! (Martens & Grosse 2015; convolutions: Grosse & Martens 2016).
//!
//! With `g_i = sum_r d_ir a_ir^T` the gradient of one example in a layer's weights, bias folded into `a`:
//!
//! ```text
//! A = (1/n) sum_ir a_ir a_ir^T                     (in + 1) x (in + 1)
//! G = (1/n) sum_i E_y sum_r d_ir d_ir^T            out x out
//! ```
//!
//! and the layer's share of the Gauss-Newton matrix is about `G x A / R`, `R` the number of terms (1 for a dense
//! layer, the number of positions for a convolution). The expectation is over labels that the model itself
//! would draw. It is exact with one backward pass for every output, as the loss's Hessian is `S S^T` with
//! columns `S_c = sqrt(p_c) (e_c - p)`, and estimated with one pass where each example gets a sampled label.

use if_linalg::{Backend, Block, KroneckerFactors, Layout, Real, Segment, SymmetricMatrix, View, ViewMut};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::curvature::Curvature;
use crate::inputs::{Inputs, Rows};
use crate::layer::{Basis, Primal, Scratch};
use crate::network::Network;
use crate::tape::Point;

/// How the expectation over labels is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabelExpectation {
    /// Over all classes: as many backward passes as there are outputs.
    Exact,
    /// One label per example, drawn from the model's probabilities; one backward pass. Fails on a model
    /// that interpolates, whose own labels have hardly any gradient. Losses without probabilities are
    /// taken exactly.
    Sampled {
        /// Of the labels; every example has a stream of its own.
        seed: u64,
    },
    /// The label that each example has: the statistics of the empirical Fisher matrix.
    Observed,
}

/// Classes up to which the exact expectation is the default.
const FEW_CLASSES: usize = 20;

impl LabelExpectation {
    /// For `curvature` of a network with `outputs` outputs: exact where these are few, else sampled.
    pub fn of(curvature: Curvature, outputs: usize, seed: u64) -> Self {
        match curvature {
            Curvature::Fisher => Self::Observed,
            _ if outputs <= FEW_CLASSES => Self::Exact,
            _ => Self::Sampled { seed },
        }
    }
}

/// Output gradients that go back together, at the least: what of a layer does not depend on them is then shared.
const ROOTS: usize = 16;

/// The statistics of one layer.
#[derive(Clone, Debug)]
pub struct LayerMoments {
    /// The layer's name.
    pub name: String,
    /// Segment of its parameters.
    pub segment: usize,
    /// Outer products in an example's gradient, the `R` above.
    pub terms: usize,
    /// `A`.
    pub inputs: SymmetricMatrix,
    /// `G`.
    pub outputs: SymmetricMatrix,
}

impl<B: Backend> Network<B> {
    /// The moments of every layer whose gradients are sums of outer products, examples weighted by `1/n`.
    /// Layers without (batch normalisation, embeddings) are not among them.
    pub fn layer_moments(
        &self,
        inputs: &Inputs<B>,
        theta: &Block<B>,
        expectation: LabelExpectation,
    ) -> Vec<LayerMoments> {
        let layers: Vec<(usize, usize, usize)> = self
            .with_parameters()
            .enumerate()
            .filter_map(|(s, l)| Some((s, l, self.layers()[l].gradient_terms()?)))
            .collect();
        let square = |n: usize| Segment { name: String::new(), rows: n, cols: n };
        let segments = |(s, _, _): &(usize, usize, usize)| {
            let Segment { rows, cols, .. } = self.layout().segments()[*s];
            [square(cols), square(rows)]
        };
        let mut sums =
            Block::zeros(self.backend(), &Layout::new(layers.iter().flat_map(segments).collect()), 1);
        self.sum_labels(inputs, theta, expectation, &mut sums, |scratch, l, primal, dy, first, sum| {
            let Some(position) = layers.iter().position(|(_, layer, _)| *layer == l) else { return };
            if first {
                self.layers()[l].input_moments(scratch, primal, sum.stacked_mut(2 * position, 0, 1));
            }
            self.layers()[l].output_moments(scratch, dy, sum.stacked_mut(2 * position + 1, 0, 1));
        });
        let moments = |(position, (s, l, terms)): (usize, &(usize, usize, usize))| {
            let matrix = |at: usize| {
                let rows = sums.layout().segments()[at].rows;
                let numbers = self.backend().download(sums.stacked(at, 0, 1));
                let mean = numbers.into_iter().map(|v| v.to_f64() / inputs.len() as f64).collect();
                SymmetricMatrix::from_rows(rows, mean)
            };
            LayerMoments {
                name: self.layers()[*l].name().to_owned(),
                segment: *s,
                terms: *terms,
                inputs: matrix(2 * position),
                outputs: matrix(2 * position + 1),
            }
        };
        layers.iter().enumerate().map(moments).collect()
    }

    /// Adds to `sums` what `f` does of every layer on the way back of the output gradients of all labels, over all
    /// examples; see [`each_label`](Self::each_label).
    fn sum_labels(
        &self,
        inputs: &Inputs<B>,
        theta: &Block<B>,
        expectation: LabelExpectation,
        sums: &mut Block<B>,
        f: impl Fn(&mut Scratch<B>, usize, Primal<B>, View<B>, bool, &mut Block<B>) + Send + Sync,
    ) {
        self.sum_blocks(inputs.blocks(), sums, |scratch, b, _, sum| {
            let rows = inputs.block(b);
            for (first, count) in self.parts(rows.len()) {
                let examples = (inputs, rows.part(first, count));
                self.each_label(scratch, examples, theta, expectation, |scratch, l, primal, dy, first| {
                    f(scratch, l, primal, dy, first, sum);
                });
            }
        });
    }

    /// `(1/n) sum_i E_y g_i^2`, element by element, with the gradients of each layer in its basis or, without one, as
    /// they are: the diagonal of the Gauss-Newton or the empirical Fisher matrix, or EK-FAC's eigenvalues. `bases`
    /// says which of each segment.
    pub fn squared_gradients<'q>(
        &self,
        inputs: &Inputs<B>,
        theta: &Block<B>,
        expectation: LabelExpectation,
        bases: impl Fn(usize) -> Option<Basis<'q, B>> + Send + Sync,
    ) -> Block<B> {
        let mut sums = Block::zeros(self.backend(), self.layout(), 1);
        self.sum_labels(inputs, theta, expectation, &mut sums, |scratch, l, primal, dy, _, sum| {
            let Some(s) = self.segments[l] else { return };
            self.layers()[l].squared_gradients(scratch, primal, dy, bases(s), sum.segment_mut(s));
        });
        let unscaled = sums.clone();
        sums.axpby(1.0 / inputs.len() as f64, &unscaled, 0.0);
        sums
    }

    /// K-FAC's approximation, `G x A / R` for each layer; of layers that are no sums of outer products the diagonal.
    pub fn kfac(
        &self,
        inputs: &Inputs<B>,
        theta: &Block<B>,
        expectation: LabelExpectation,
    ) -> KroneckerFactors<B> {
        let moments = self.layer_moments(inputs, theta, expectation);
        let segments = self.layout().segments();
        let mut values = Block::zeros(self.backend(), self.layout(), 1);
        if moments.len() < segments.len() {
            values = self.squared_gradients(inputs, theta, expectation, |_| None);
        }
        let mut bases: Vec<Option<[B::Buffer; 2]>> = segments.iter().map(|_| None).collect();
        for layer in &moments {
            if !layer.outputs.is_finite() || !layer.inputs.is_finite() {
                self.backend().fill(f64::NAN, values.segment_mut(layer.segment));
                continue;
            }
            let [(left, q_left), (right, q_right)] =
                [&layer.outputs, &layer.inputs].map(|matrix| self.backend().eigen(matrix));
            bases[layer.segment] = Some([q_left, q_right]);
            let terms = layer.terms as f64;
            let products = left.iter().flat_map(|g| right.iter().map(move |a| (g * a / terms).max(0.0)));
            let products: Vec<B::Elem> = products.map(B::Elem::from_f64).collect();
            let products = self.backend().upload(&products);
            let target = values.segment_mut(layer.segment);
            self.backend().copy(View::new(&products, 0, 1, left.len() * right.len()), target);
        }
        KroneckerFactors::new(bases, values)
    }

    /// EK-FAC's: the basis of K-FAC, with the second moments of gradients along it.
    pub fn ekfac(
        &self,
        inputs: &Inputs<B>,
        theta: &Block<B>,
        expectation: LabelExpectation,
    ) -> KroneckerFactors<B> {
        let factors = self.kfac(inputs, theta, expectation);
        let values = self.squared_gradients(inputs, theta, expectation, |s| {
            factors.basis(s).map(|[left, right]| Basis { left, right })
        });
        factors.with_values(values)
    }

    /// The diagonal alone.
    pub fn diagonal(
        &self,
        inputs: &Inputs<B>,
        theta: &Block<B>,
        expectation: LabelExpectation,
    ) -> KroneckerFactors<B> {
        let values = self.squared_gradients(inputs, theta, expectation, |_| None);
        KroneckerFactors::new(self.layout().segments().iter().map(|_| None).collect(), values)
    }

    /// Calls `f(scratch, layer, primal, dy, first)` for every layer on the way back of the output gradients of all
    /// labels, some labels stacked in `dy` at a time, `first` the first time.
    fn each_label(
        &self,
        scratch: &mut Scratch<B>,
        (inputs, rows): (&Inputs<B>, Rows),
        theta: &Block<B>,
        expectation: LabelExpectation,
        mut f: impl FnMut(&mut Scratch<B>, usize, Primal<B>, View<B>, bool),
    ) {
        let batch = inputs.batch(rows);
        let tape = self.forward(scratch, theta, &batch);
        let at = Point::new(theta, &batch, &tape);
        let (count, outputs) = (rows.len(), self.outputs());
        let mut back = |scratch: &mut Scratch<B>, dz: View<B>, first: bool| {
            self.backward(scratch, at, dz, false, |scratch, l, primal, dy| f(scratch, l, primal, dy, first));
        };
        let sampled = match expectation {
            LabelExpectation::Sampled { seed } => self.sampled_delta(at, rows, seed),
            LabelExpectation::Exact | LabelExpectation::Observed => None,
        };
        match sampled {
            Some(delta) => back(scratch, View::new(&delta, 0, count, outputs), true),
            None if expectation == LabelExpectation::Observed => back(scratch, self.delta(&tape), true),
            None => {
                // Some outputs at a time, so that many classes do not multiply the memory.
                let together = self.group().max(ROOTS).min(outputs);
                let mut roots = scratch.take(together * count * outputs);
                for first in (0..outputs).step_by(together) {
                    let k = together.min(outputs - first);
                    let target = ViewMut::new(&mut roots, 0, k * count, outputs);
                    self.backend().loss_root(self.loss(), self.loss_curvature(&tape), first, target);
                    back(scratch, View::new(&roots, 0, k * count, outputs), first == 0);
                }
                scratch.give(roots);
            }
        }
        self.release(scratch, tape);
    }

    /// `p - e_y` with a label `y` drawn from `p` for every example, `rows x outputs`; `None` where the
    /// loss has no probabilities.
    fn sampled_delta(&self, at: Point<B>, rows: Rows, seed: u64) -> Option<B::Buffer> {
        if !self.loss().is_softmax() {
            return None;
        }
        let mut delta = self.backend().download(self.loss_curvature(at.tape));
        for (i, row) in delta.chunks_exact_mut(self.outputs()).enumerate() {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(rows.index(i) as u64);
            let mut left: f64 = rng.random();
            let drawn = row.iter().position(|p| {
                left -= p.to_f64();
                left < 0.0
            });
            let label = drawn.unwrap_or(row.len() - 1);
            row[label] -= B::Elem::ONE;
        }
        Some(self.backend().upload(&delta))
    }
}
