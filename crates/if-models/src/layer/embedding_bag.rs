//! The mean of token embeddings, PyTorch's `nn.EmbeddingBag(mode="mean")`: texts as bags of tokens.
//!
//! An example is a row of token ids, as long as the longest text; what is below 0 is padding (so a
//! `padding_idx` of PyTorch is stored as -1). Let `M` (`rows x vocab`) hold the share of every token in
//! every example, `m_t / c` where `m_t` of its `c` tokens are `t`, and 0 for an example without tokens.
//! With `W` (`vocab x dim`) and no bias
//!
//! ```text
//! forward      y   = M W
//! R-forward    Ry  = M V
//! backward     dx  = 0       dW  = M^T dy
//! R-backward   Rdx = 0       RdW = M^T Rdy
//! ```
//!
//! `M` is never formed, nor multiplied by: its rows have as many numbers as a text has tokens, so a
//! product gathers, or scatters, that many rows of `dim` numbers. Ids are no numbers to differentiate
//! by: `dx` is zero, and the layer is the first, so that `Rx` is too.
//!
//! A gradient of one example has rank one, `M_i^T dy_i`, so `<dW_i, V> = dy_i . (M_i V)`, the R-forward
//! product and a dot, and `|dW_i|^2 = |M_i|^2 |dy_i|^2`. No `vocab x dim` gradient is formed.

use if_linalg::{Backend, Segment, View, ViewMut};

use crate::scoring::ScoringWay;

use super::{Delta, Direction, Layer, Primal, Scratch, products};

/// `y = mean of W[token]` over an example's tokens.
#[derive(Clone, Debug)]
pub struct EmbeddingBag {
    name: String,
    vocabulary: usize,
    dim: usize,
}

impl EmbeddingBag {
    /// Ids from here on are not exact in single precision.
    pub const LARGEST_VOCABULARY: usize = 1 << 24;

    /// `dim` numbers for each of `vocabulary` tokens.
    ///
    /// # Panics
    /// With more than [`LARGEST_VOCABULARY`](Self::LARGEST_VOCABULARY) tokens.
    pub fn new(name: impl Into<String>, vocabulary: usize, dim: usize) -> Self {
        assert!(vocabulary <= Self::LARGEST_VOCABULARY, "{vocabulary} tokens are too many");
        Self { name: name.into(), vocabulary, dim }
    }

    /// An activation without its column of ones.
    fn ids<'a, B: Backend>(x: View<'a, B>) -> View<'a, B> {
        x.col_range(0, x.cols - 1)
    }
}

impl<B: Backend> Layer<B> for EmbeddingBag {
    fn name(&self) -> &str {
        &self.name
    }

    fn segment(&self) -> Option<Segment> {
        Some(Segment { name: self.name.clone(), rows: self.vocabulary, cols: self.dim })
    }

    fn width(&self) -> usize {
        self.dim
    }

    fn vocabulary(&self) -> Option<usize> {
        Some(self.vocabulary)
    }

    fn forward(&self, scratch: &mut Scratch<B>, w: Option<View<B>>, x: View<B>, y: ViewMut<B>) {
        let w = w.expect("an embedding bag has parameters");
        scratch.backend().bag_gather(Self::ids(x), w, y);
    }

    fn jvp(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        v: Option<View<B>>,
        _: Option<View<B>>,
        ry: ViewMut<B>,
    ) {
        match v {
            Some(v) => scratch.backend().bag_gather(Self::ids(at.x), v, ry),
            None => scratch.backend().fill(0.0, ry),
        }
    }

    fn backward(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        dy: View<B>,
        dx: Option<ViewMut<B>>,
        dw: Option<ViewMut<B>>,
    ) {
        if let Some(dx) = dx {
            scratch.backend().fill(0.0, dx);
        }
        if let Some(dw) = dw {
            scratch.backend().bag_scatter(Self::ids(at.x), dy, dw);
        }
    }

    fn r_backward(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        _: Direction<B>,
        delta: Delta<B>,
        rdx: Option<ViewMut<B>>,
        dw: Option<ViewMut<B>>,
    ) {
        // Linear in W, so that the direction does not matter.
        self.backward(scratch, at, delta.rdy, rdx, dw);
    }

    fn example_gradients(&self, scratch: &mut Scratch<B>, at: Primal<B>, dy: View<B>, mut out: ViewMut<B>) {
        let (backend, ids) = (scratch.backend(), Self::ids(at.x));
        backend.fill(0.0, out.reborrow());
        for i in 0..ids.rows {
            let gradient = out.row_as(i, self.vocabulary, self.dim);
            backend.bag_scatter(ids.row_range(i, 1), dy.row_range(i, 1), gradient);
        }
    }

    /// Without the whole gradient, of which almost all is zero.
    fn scoring_cost(&self, way: ScoringWay, k: usize, _: Option<usize>) -> Option<f64> {
        match way {
            ScoringWay::Pairwise => None,
            ScoringWay::Ghost => Some((k * self.dim) as f64),
            ScoringWay::Materialised => Some(((1 + k) * self.vocabulary * self.dim) as f64),
        }
    }

    fn ghost_scores(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        dy: View<B>,
        v: View<B>,
        mut out: ViewMut<B>,
    ) {
        let (backend, dim, k) = (scratch.backend(), self.dim, out.cols);
        let group = (products::<B>() / (k * dim)).clamp(1, at.x.rows);
        let [mut products, mut by_example] = [0, 1].map(|_| scratch.take(k * group * dim));
        for first in (0..at.x.rows).step_by(group) {
            let rows = group.min(at.x.rows - first);
            let ids = Self::ids(at.x.row_range(first, rows));
            backend.bag_gather(ids, v, ViewMut::new(&mut products, 0, k * rows, dim));
            let source = View::new(&products, 0, k, rows * dim);
            backend.swap_axes([k, rows, dim], source, ViewMut::new(&mut by_example, 0, rows, k * dim));
            let source = View::new(&by_example, 0, rows, k * dim);
            backend.row_dots(source, dy.row_range(first, rows), 1.0, out.part(first, rows, k));
        }
        scratch.give(products);
        scratch.give(by_example);
    }

    fn squared_norms(&self, scratch: &mut Scratch<B>, at: Primal<B>, dy: View<B>, out: ViewMut<B>) {
        let (backend, rows) = (scratch.backend(), at.x.rows);
        let mut factors = scratch.take(2 * rows);
        backend.bag_squares(Self::ids(at.x), ViewMut::new(&mut factors, 0, rows, 1));
        backend.row_dots(dy, dy, 0.0, ViewMut::new(&mut factors, rows, rows, 1));
        let (shares, deltas) = (View::new(&factors, 0, rows, 1), View::new(&factors, rows, rows, 1));
        backend.row_dots(shares, deltas, 1.0, out);
        scratch.give(factors);
    }
}
