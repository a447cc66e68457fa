//! Layers: four handwritten products each, side by side in one file.

mod batch_norm;
mod conv2d;
mod dense;
mod elementwise;
mod embedding_bag;
mod frozen;
mod pool;
mod sum;

pub use batch_norm::BatchNorm;
pub use conv2d::Conv2d;
pub use dense::Dense;
pub use elementwise::Elementwise;
pub use embedding_bag::EmbeddingBag;
pub use frozen::Frozen;
pub use pool::{Pool2d, Pooling};
pub use sum::ResidualSum;

use if_linalg::{Backend, Segment, View, ViewMut};

use crate::scoring::{self, ScoringWay};
use crate::squares;

/// Numbers of intermediate products at once when scoring. A constant of the device, so that memory is bounded.
pub(crate) fn products<B: Backend>() -> usize {
    B::IN_HAND.unwrap_or(1 << 22)
}

/// Buffers for reuse within one task, so that a pass over many row blocks allocates once.
pub struct Scratch<B: Backend> {
    backend: B,
    free: Vec<B::Buffer>,
}

impl<B: Backend> Scratch<B> {
    /// Nothing allocated yet.
    pub fn new(backend: &B) -> Self {
        Self { backend: backend.clone(), free: Vec::new() }
    }

    /// The device.
    pub fn backend(&self) -> B {
        self.backend.clone()
    }

    /// A buffer of at least `len` numbers with arbitrary contents.
    pub fn take(&mut self, len: usize) -> B::Buffer {
        let fits = |b: &B::Buffer| (len..=2 * len).contains(&B::len(b));
        match self.free.iter().position(fits) {
            Some(i) => self.free.swap_remove(i),
            None => self.backend.zeros(len),
        }
    }

    /// Gives a buffer back.
    pub fn give(&mut self, buffer: B::Buffer) {
        self.free.push(buffer);
    }
}

/// What a layer saw and gave in the forward pass of one row block.
///
/// An activation of width `w` is a `rows x (w + 1)` matrix whose last column is 1, so that a bias is
/// one more weight. Tangents and output gradients are `(k rows) x w`: `k` directions of the same
/// examples, one direction after another, without that column.
pub struct Primal<'a, B: Backend> {
    /// Parameters, `out x (in + 1)` with the bias as last column (or `out x in` without).
    pub w: Option<View<'a, B>>,
    /// Input, `rows x (in + 1)`.
    pub x: View<'a, B>,
    /// Output, `rows x (out + 1)`.
    pub y: View<'a, B>,
}

impl<B: Backend> Clone for Primal<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Primal<'_, B> {}

impl<B: Backend> Primal<'_, B> {
    /// The examples `first..first + rows`.
    pub fn part(self, first: usize, rows: usize) -> Self {
        Self { w: self.w, x: self.x.row_range(first, rows), y: self.y.row_range(first, rows) }
    }
}

/// One layer `y = f(x; w)`, example by example.
///
/// `v` are `k` directions in the layer's parameters, stacked: `(k out) x (in + 1)`. `R` marks the
/// derivative along a direction (Pearlmutter 1994).
pub trait Layer<B: Backend>: Send + Sync {
    /// Name, as in `NAME.weight`; empty for a layer without parameters.
    fn name(&self) -> &str {
        ""
    }
    /// Shape of the parameters; by default there are none.
    fn segment(&self) -> Option<Segment> {
        None
    }
    /// Whether the last column of the parameters is a bias.
    fn has_bias(&self) -> bool {
        false
    }
    /// Shape of the tensor `NAME.weight`: the parameters without the bias.
    fn weight_shape(&self) -> Vec<usize> {
        let segment = self.segment().map(|s| vec![s.rows, s.cols - usize::from(self.has_bias())]);
        segment.unwrap_or_default()
    }
    /// Constants that a `state_dict()` holds beside the parameters, as `NAME.KEY`: running statistics.
    fn statistics(&self) -> Vec<(&'static str, &[f64])> {
        Vec::new()
    }
    /// Parameters to begin training with, where they are not the usual random ones.
    fn initial(&self) -> Option<Vec<f64>> {
        None
    }
    /// Numbers an example has after this layer.
    fn width(&self) -> usize;
    /// Whether this is `y = x~ W~^T` and nothing else, as [`Dense`]: a network of one such layer is a
    /// linear model, whose Hessian is never indefinite and can be formed without products.
    fn is_dense(&self) -> bool {
        false
    }

    /// Whether an earlier activation may be added to its output: then it may not look at that output again.
    fn takes_skip(&self) -> bool {
        false
    }

    /// Whether its kernels take one example after another, so that a network may as well take few at a time.
    fn by_example(&self) -> bool {
        false
    }

    /// Where the input is token ids, the number of different tokens: ids are whole and below it, or
    /// negative and then ignored. Such a layer comes first; its `dx` and `rdx` are zero, and `rx` does not
    /// matter.
    fn vocabulary(&self) -> Option<usize> {
        None
    }

    /// `y = f(x; w)` into the first `width` columns of `y`.
    fn forward(&self, scratch: &mut Scratch<B>, w: Option<View<B>>, x: View<B>, y: ViewMut<B>);

    /// `Ry = (df/dx) Rx + (df/dw) v`; no `rx` means that the input does not depend on parameters.
    fn jvp(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        v: Option<View<B>>,
        rx: Option<View<B>>,
        ry: ViewMut<B>,
    );

    /// `dx = (df/dx)^T dy`, and `dw += (df/dw)^T dy` summed over the examples, direction by direction.
    fn backward(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        dy: View<B>,
        dx: Option<ViewMut<B>>,
        dw: Option<ViewMut<B>>,
    );

    /// The derivative of [`backward`](Self::backward) along the directions: with `delta.dy` the plain output
    /// gradient and `delta.rdy` its derivative, `rdx = (df/dx)^T rdy + (R df/dx)^T dy`, and `dw` gains
    /// `(df/dw)^T rdy + (R df/dw)^T dy`.
    fn r_backward(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        direction: Direction<B>,
        delta: Delta<B>,
        rdx: Option<ViewMut<B>>,
        dw: Option<ViewMut<B>>,
    );

    /// `out[i] = (df/dw)^T dy_i`, one flattened parameter gradient per example.
    ///
    /// Like all that follow, never called on a layer without parameters.
    fn example_gradients(&self, _scratch: &mut Scratch<B>, _at: Primal<B>, _dy: View<B>, _out: ViewMut<B>) {
        unreachable!("a layer without parameters has no gradients")
    }

    /// The number of outer products that an example's gradient is a sum of, `(df/dw)^T dy_i =
    /// sum_r left_ir right_ir^T`, where it has that form.
    fn gradient_terms(&self) -> Option<usize> {
        None
    }

    /// Multiply-adds of one example's scores against `k` vectors, which are whole, or sums of `terms`
    /// outer products; `None` where the way does not apply.
    fn scoring_cost(&self, way: ScoringWay, k: usize, terms: Option<usize>) -> Option<f64> {
        let segment = self.segment()?;
        let own = self.gradient_terms().map(|terms| terms as f64);
        let (k, sides, size) =
            (k as f64, (segment.rows + segment.cols) as f64, (segment.rows * segment.cols) as f64);
        match way {
            ScoringWay::Pairwise => Some(k * own? * terms? as f64 * sides),
            ScoringWay::Ghost => Some(k * own? * size),
            ScoringWay::Materialised => Some((own.unwrap_or(1.0) + k) * size),
        }
    }

    /// The terms of every example's gradient: `left` is `(rows terms) x out`, `right` `(rows terms) x (in + 1)`.
    /// Like [`pairwise_scores`](Self::pairwise_scores) and the two moments only for layers whose gradients are such sums.
    fn gradient_factors(
        &self,
        _scratch: &mut Scratch<B>,
        _at: Primal<B>,
        _dy: View<B>,
        _factors: (ViewMut<B>, ViewMut<B>),
    ) {
        unreachable!("no outer products")
    }

    /// `out[i][j] += <(df/dw)^T dy_i, v_j>` for `k` directions, without forming the gradients. Only where
    /// [`scoring_cost`](Self::scoring_cost) says that there is such a way.
    fn ghost_scores(
        &self,
        _scratch: &mut Scratch<B>,
        _at: Primal<B>,
        _dy: View<B>,
        _v: View<B>,
        _out: ViewMut<B>,
    ) {
        unreachable!("no scores without gradients")
    }

    /// The same against `k` sums of outer products, `k` the columns of `out`.
    fn pairwise_scores(
        &self,
        _scratch: &mut Scratch<B>,
        _at: Primal<B>,
        _dy: View<B>,
        _v: Factors<B>,
        _out: ViewMut<B>,
    ) {
        unreachable!("no outer products")
    }

    /// `out[i] += |(df/dw)^T dy_i|^2`.
    fn squared_norms(&self, scratch: &mut Scratch<B>, at: Primal<B>, dy: View<B>, out: ViewMut<B>) {
        scoring::materialised_norms(self, scratch, at, dy, out);
    }

    /// `out += sum_ir right_ir right_ir^T`, second moments of what meets the weights: `(in + 1) x (in + 1)`.
    fn input_moments(&self, _scratch: &mut Scratch<B>, _at: Primal<B>, _out: ViewMut<B>) {
        unreachable!("no outer products")
    }

    /// `out += sum_ji (left g_ji right^T)^2`, element by element, over the gradients `g_ji` of stacked output gradients
    /// `dy` (`(k rows) x width`), in `basis` or, without one, as they are: `out x (in + 1)`, flattened to one row.
    fn squared_gradients(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        dy: View<B>,
        basis: Option<Basis<B>>,
        out: ViewMut<B>,
    ) {
        squares::of_gradients(self, scratch, at, dy, basis, out);
    }

    /// `out += sum_jir left_jir left_jir^T` over stacked output gradients `dy` (`(k rows) x width`): `out x out`.
    fn output_moments(&self, _scratch: &mut Scratch<B>, _dy: View<B>, _out: ViewMut<B>) {
        unreachable!("no outer products")
    }
}

/// `k` vectors in a layer's parameters, each a sum of `terms` outer products `left right^T`.
pub struct Factors<'a, B: Backend> {
    /// In each sum.
    pub terms: usize,
    /// `(k terms) x out`.
    pub left: View<'a, B>,
    /// `(k terms) x (in + 1)`.
    pub right: View<'a, B>,
}

impl<B: Backend> Clone for Factors<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Factors<'_, B> {}

/// An orthogonal basis of a layer's gradients: what is `g` in parameters is `left g right^T` in it.
pub struct Basis<'a, B: Backend> {
    /// `out x out`.
    pub left: View<'a, B>,
    /// `(in + 1) x (in + 1)`.
    pub right: View<'a, B>,
}

impl<B: Backend> Clone for Basis<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Basis<'_, B> {}

/// A direction in parameters and what it does to the layer's input.
pub struct Direction<'a, B: Backend> {
    /// In the layer's parameters.
    pub v: Option<View<'a, B>>,
    /// In the layer's input; `None`: the input does not depend on parameters.
    pub rx: Option<View<'a, B>>,
}

/// Gradient with respect to a layer's output, and its derivative along the directions.
pub struct Delta<'a, B: Backend> {
    /// `rows x width`.
    pub dy: View<'a, B>,
    /// `(k rows) x width`.
    pub rdy: View<'a, B>,
}
