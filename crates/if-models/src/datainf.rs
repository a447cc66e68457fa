//! DataInf (Kwon, Wu, Wu & Zou 2023, "DataInf: Efficiently Estimating Data Influence in LoRA-tuned LLMs and
//! Diffusion Models"): the inverse of the empirical Fisher matrix, layer by layer, with sum and inverse exchanged.
//!
//! With `g_il` the share of layer `l` in the loss gradient of example `i`, and `s = l2 + damping`:
//!
//! ```text
//! (sum_i w_i g_il g_il^T + s I)^-1  is taken for  sum_i w_i (g_il g_il^T + s I)^-1,     w_i = 1/n
//! x_l = (1/s) (b_l - sum_i w_i (g_il . b_l) / (s + |g_il|^2) g_il)
//! ```
//!
//! One pass for the norms, then one for each block of right-hand sides. No gradient is formed where a layer has
//! scores without it: the dots are those scores, and the sum is a backward pass with `dy` scaled by its coefficients.
//!
//! Deviations:
//! 1. One `s` for all layers, that of the system; the paper takes a tenth of the mean squared gradient of each.
//! 2. Examples count by their weight in the risk. Where weights sum to less than 1, as after fixed removal, the rest
//!    goes to the inverse of `s I`: a removed example is one without a gradient.
//! 3. `s` is that of parameters with l2, biases included even where l2 spares them.

use if_linalg::{
    Approximation, Backend, Block, Inverse, LinalgError, LinearOperator, Real, Termination, View, ViewMut,
};

use crate::layer::{Layer, Primal, Scratch, products};
use crate::risk::EmpiricalRisk;
use crate::scoring::{GRADIENTS, ScoringWay, each_gradients};
use crate::tape::Point;

/// The inverse above, for the examples of `risk` at `theta`. The shift `s` is the
/// [damping](LinearOperator::damping) of the operator that it is fitted to; where it is not positive there is no
/// inverse, [`Termination::Singular`].
pub struct DataInf<'r, 'a, B: Backend> {
    /// Examples and their weights.
    pub risk: &'r EmpiricalRisk<'a, B>,
    /// Where gradients are taken (`k = 1`).
    pub theta: &'r Block<B>,
}

impl<B: Backend> Approximation<B> for DataInf<'_, '_, B> {
    fn name(&self) -> &'static str {
        "datainf"
    }

    fn fit<'f>(
        &self,
        operator: &'f dyn LinearOperator<B>,
    ) -> Result<Result<Box<dyn Inverse<B> + 'f>, Termination>, LinalgError>
    where
        Self: 'f,
    {
        let shift = operator.damping();
        if shift <= 0.0 {
            return Ok(Err(Termination::Singular));
        }
        let Self { risk, theta } = *self;
        let (weights, backend) = (risk.example_weights(), risk.network().backend());
        let factors = |squares: Vec<f64>| {
            let each = weights.iter().zip(squares);
            let host: Vec<B::Elem> =
                each.map(|(w, square)| B::Elem::from_f64(w / (shift + square))).collect();
            backend.upload(&host)
        };
        let squares = risk.network().layer_squared_norms(risk.inputs(), theta);
        let factors = squares.into_iter().map(factors).collect();
        Ok(Ok(Box::new(Fitted { risk, theta, shift, factors })))
    }
}

struct Fitted<'r, 'a, B: Backend> {
    risk: &'r EmpiricalRisk<'a, B>,
    theta: &'r Block<B>,
    shift: f64,
    /// For each layer `w_i / (s + |g_il|^2)`, one column of length `n`.
    factors: Vec<B::Buffer>,
}

impl<B: Backend> Inverse<B> for Fitted<'_, '_, B> {
    fn apply(&self, b: &Block<B>, x: &mut Block<B>) {
        let (network, inputs) = (self.risk.network(), self.risk.inputs());
        x.clear();
        network.sum_blocks(inputs.blocks(), x, |scratch, block, start, sum| {
            let (rows, k) = (inputs.block(block), sum.k());
            let batch = inputs.batch(rows);
            let tape = network.forward(scratch, self.theta, &batch);
            let at = Point::new(self.theta, &batch, &tape);
            network.each_layer(scratch, at, |scratch, s, layer, primal, dy| {
                let factors = inputs.column(&self.factors[s], rows);
                let share = Share { layer, primal, dy, factors: factors.view(rows.len(), 1) };
                if ScoringWay::cheapest(layer, k, None) == ScoringWay::Ghost {
                    share.add_by_backward(scratch, b.stacked(s, start, k), (&mut *sum, s));
                } else {
                    share.add_by_gradients(scratch, b.stacked(s, start, k), sum.segment_mut(s));
                }
            });
            network.release(scratch, tape);
        });
        x.axpby(1.0 / self.shift, b, -1.0 / self.shift);
    }
}

/// One layer and some examples.
struct Share<'t, B: Backend> {
    layer: &'t dyn Layer<B>,
    primal: Primal<'t, B>,
    /// `rows x width`.
    dy: View<'t, B>,
    /// `rows x 1`.
    factors: View<'t, B>,
}

impl<B: Backend> Share<'_, B> {
    /// Adds `sum_i f_i (g_i . v_j) g_i` to the `k` vectors of segment `s` of `sum`: the coefficients of the
    /// gradients by the layer's ghost way, their sum by its backward pass.
    fn add_by_backward(&self, scratch: &mut Scratch<B>, v: View<B>, (sum, s): (&mut Block<B>, usize)) {
        let (backend, rows, k) = (scratch.backend(), self.dy.rows, sum.k());
        let mut coefficients = scratch.take(rows * k);
        backend.fill(0.0, ViewMut::new(&mut coefficients, 0, rows, k));
        let target = ViewMut::new(&mut coefficients, 0, rows, k);
        self.layer.ghost_scores(scratch, self.primal, self.dy, v, target);
        backend.scale_rows(self.factors, ViewMut::new(&mut coefficients, 0, rows, k));

        // Some vectors at a time, so that memory is bounded.
        let width = self.dy.cols;
        let group = (products::<B>() / (rows * width)).clamp(1, k);
        let mut scaled = scratch.take(group * rows * width);
        for first in (0..k).step_by(group) {
            let count = group.min(k - first);
            for j in 0..count {
                let column = View::new(&coefficients, 0, rows, k).col_range(first + j, 1);
                let mut target = ViewMut::new(&mut scaled, j * rows * width, rows, width);
                backend.copy(self.dy, target.reborrow());
                backend.scale_rows(column, target);
            }
            let dy = View::new(&scaled, 0, count * rows, width);
            self.layer.backward(scratch, self.primal, dy, None, Some(sum.stacked_mut(s, first, count)));
        }
        scratch.give(scaled);
        scratch.give(coefficients);
    }

    /// The same with the gradients formed; `sum` is `k x` the size of the layer.
    fn add_by_gradients(&self, scratch: &mut Scratch<B>, v: View<B>, mut sum: ViewMut<B>) {
        let (backend, k) = (scratch.backend(), sum.rows);
        let v = View::new(v.buffer, v.offset, k, sum.cols);
        let mut coefficients = scratch.take(self.dy.rows * k);
        each_gradients(self.layer, scratch, (self.primal, self.dy), GRADIENTS, |_, first, gradients| {
            let count = gradients.rows;
            backend.gemm(1.0, gradients, v.t(), 0.0, ViewMut::new(&mut coefficients, 0, count, k));
            let factors = self.factors.row_range(first, count);
            backend.scale_rows(factors, ViewMut::new(&mut coefficients, 0, count, k));
            let coefficients = View::new(&coefficients, 0, count, k);
            backend.gemm(1.0, coefficients.t(), gradients, 1.0, sum.reborrow());
        });
        scratch.give(coefficients);
    }
}
