//! The fully connected layer.
//!
//! With the bias folded in, `W~ = [W b]` (`out x (in + 1)`) and `x~ = [x 1]`:
//!
//! ```text
//! forward      y   = x~ W~^T
//! R-forward    Ry  = x~ V~^T + Rx W^T
//! backward     dx  = dy W                dW~ = dy^T x~
//! R-backward   Rdx = Rdy W + dy V        RdW~ = Rdy^T x~ + dy^T [Rx 0]
//! ```
//!
//! A gradient of one example has rank one, `dy_i x~_i^T`, so `<dW~_i, V~> = dy_i . (V~ x~_i)`: scoring
//! needs `x~ V~^T`, one product for all directions, and a dot over outputs. Where `V~` is `d a^T` as well,
//! it is `(dy_i . d) (x~_i . a)`.

use if_linalg::{Backend, Segment, View, ViewMut};

use super::{Delta, Direction, Factors, Layer, Primal, Scratch, products};

/// Outputs from which on each direction is work enough for a device.
const WIDE: usize = 64;

/// `y = W x + b`.
#[derive(Clone, Debug)]
pub struct Dense {
    name: String,
    inputs: usize,
    outputs: usize,
    bias: bool,
}

impl Dense {
    /// A layer with `inputs x outputs` weights and, where `bias`, one bias per output.
    pub fn new(name: impl Into<String>, inputs: usize, outputs: usize, bias: bool) -> Self {
        Self { name: name.into(), inputs, outputs, bias }
    }

    /// Columns of the parameter matrix.
    fn cols(&self) -> usize {
        self.inputs + usize::from(self.bias)
    }

    /// Whether each direction has a product of its own: few outputs are no work for a device that wants much.
    fn by_direction<B: Backend>(&self) -> bool {
        B::IN_HAND.is_some() && self.outputs >= WIDE
    }

    /// The columns of an activation that meet parameters: with the ones if there is a bias.
    fn seen<'a, B: Backend>(&self, x: View<'a, B>) -> View<'a, B> {
        x.col_range(0, self.cols())
    }

    /// `out = x~ V~^T` for `k` stacked directions: `rows x (k out)`.
    fn products<B: Backend>(&self, scratch: &mut Scratch<B>, x: View<B>, v: View<B>) -> (B::Buffer, usize) {
        let mut all = scratch.take(x.rows * v.rows);
        let target = ViewMut::new(&mut all, 0, x.rows, v.rows);
        scratch.backend().gemm(1.0, self.seen(x), v.t(), 0.0, target);
        (all, v.rows)
    }
}

impl<B: Backend> Layer<B> for Dense {
    fn name(&self) -> &str {
        &self.name
    }

    fn segment(&self) -> Option<Segment> {
        Some(Segment { name: self.name.clone(), rows: self.outputs, cols: self.cols() })
    }

    fn has_bias(&self) -> bool {
        self.bias
    }

    fn width(&self) -> usize {
        self.outputs
    }

    fn is_dense(&self) -> bool {
        true
    }

    fn forward(&self, scratch: &mut Scratch<B>, w: Option<View<B>>, x: View<B>, y: ViewMut<B>) {
        let w = w.expect("a dense layer has parameters");
        scratch.backend().gemm(1.0, self.seen(x), w.t(), 0.0, y);
    }

    fn jvp(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        v: Option<View<B>>,
        rx: Option<View<B>>,
        mut ry: ViewMut<B>,
    ) {
        let backend = scratch.backend();
        let (rows, out) = (at.x.rows, self.outputs);
        let mut beta = 0.0;
        if let Some(v) = v {
            let k = v.rows / out;
            if k == 1 {
                backend.gemm(1.0, self.seen(at.x), v.t(), 0.0, ry.reborrow());
            } else if self.by_direction::<B>() {
                // Each direction goes where it belongs.
                let (steps, own) = ([0, out * self.cols(), rows * out], v.row_range(0, out));
                let target = ry.part(0, rows, out);
                backend.gemm_batch(k, steps, 1.0, [self.seen(at.x), own.t()], 0.0, target);
            } else {
                let (products, width) = self.products(scratch, at.x, v);
                let source = View::new(&products, 0, rows, width);
                backend.swap_axes([rows, k, out], source, ry.reborrow().reshape(k, rows * out));
                scratch.give(products);
            }
            beta = 1.0;
        }
        match (rx, at.w) {
            (Some(rx), Some(w)) => backend.gemm(1.0, rx, w.col_range(0, self.inputs).t(), beta, ry),
            _ if beta == 0.0 => backend.fill(0.0, ry),
            _ => {}
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
        let backend = scratch.backend();
        if let (Some(dx), Some(w)) = (dx, at.w) {
            backend.gemm(1.0, dy, w.col_range(0, self.inputs), 0.0, dx);
        }
        if let Some(dw) = dw {
            let (rows, out, k) = (at.x.rows, self.outputs, dy.rows / at.x.rows);
            let x = self.seen(at.x);
            if k == 1 {
                backend.gemm(1.0, dy.t(), x, 1.0, dw);
                return;
            }
            if self.by_direction::<B>() {
                let steps = [rows * out, 0, out * self.cols()];
                let (mut dw, own) = (dw, dy.row_range(0, rows));
                backend.gemm_batch(k, steps, 1.0, [own.t(), x], 1.0, dw.part(0, out, self.cols()));
                return;
            }
            // All directions in one product: (k out) x rows times rows x (in + 1).
            let mut together = scratch.take(dy.rows * out);
            let target = ViewMut::new(&mut together, 0, rows, k * out);
            backend.swap_axes([k, rows, out], dy.reshape(k, rows * out), target);
            backend.gemm(1.0, View::new(&together, 0, rows, k * out).t(), x, 1.0, dw);
            scratch.give(together);
        }
    }

    fn r_backward(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        direction: Direction<B>,
        delta: Delta<B>,
        mut rdx: Option<ViewMut<B>>,
        mut dw: Option<ViewMut<B>>,
    ) {
        let backend = scratch.backend();
        let (rows, out) = (at.x.rows, self.outputs);
        let (first_rdx, first_dw) = (rdx.as_mut().map(ViewMut::reborrow), dw.as_mut().map(ViewMut::reborrow));
        self.backward(scratch, at, delta.rdy, first_rdx, first_dw);
        let k = delta.rdy.rows / rows;
        if let (Some(rdx), Some(v)) = (&mut rdx, direction.v) {
            let own = v.row_range(0, out).col_range(0, self.inputs);
            let (steps, cols) = ([0, out * self.cols(), rows * rdx.cols], rdx.cols);
            backend.gemm_batch(k, steps, 1.0, [delta.dy, own], 1.0, rdx.part(0, rows, cols));
        }
        if let (Some(dw), Some(rx)) = (&mut dw, direction.rx) {
            let (steps, own) = ([0, rows * rx.cols, out * self.cols()], rx.row_range(0, rows));
            backend.gemm_batch(k, steps, 1.0, [delta.dy.t(), own], 1.0, dw.part(0, out, self.inputs));
        }
    }

    fn example_gradients(&self, scratch: &mut Scratch<B>, at: Primal<B>, dy: View<B>, out: ViewMut<B>) {
        scratch.backend().outer_rows(dy, self.seen(at.x), out);
    }

    fn gradient_terms(&self) -> Option<usize> {
        Some(1)
    }

    fn gradient_factors(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        dy: View<B>,
        (left, right): (ViewMut<B>, ViewMut<B>),
    ) {
        scratch.backend().copy(dy, left);
        scratch.backend().copy(self.seen(at.x), right);
    }

    fn ghost_scores(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        dy: View<B>,
        v: View<B>,
        mut out: ViewMut<B>,
    ) {
        // All examples with a few vectors at a time: both are packed for a product, and vectors are the larger.
        let group = (products::<B>() / (dy.rows * self.outputs)).clamp(1, out.cols);
        for first in (0..out.cols).step_by(group) {
            let count = group.min(out.cols - first);
            let some = v.row_range(first * self.outputs, count * self.outputs);
            let (products, width) = self.products(scratch, at.x, some);
            let target = out.col_part(first, count);
            scratch.backend().row_dots(View::new(&products, 0, dy.rows, width), dy, 1.0, target);
            scratch.give(products);
        }
    }

    fn pairwise_scores(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        dy: View<B>,
        v: Factors<B>,
        out: ViewMut<B>,
    ) {
        let (backend, rows, pairs) = (scratch.backend(), dy.rows, v.left.rows);
        let [mut lefts, mut rights] = [0, 1].map(|_| scratch.take(rows * pairs));
        backend.gemm(1.0, dy, v.left.t(), 0.0, ViewMut::new(&mut lefts, 0, rows, pairs));
        backend.gemm(1.0, self.seen(at.x), v.right.t(), 0.0, ViewMut::new(&mut rights, 0, rows, pairs));
        backend.paired_dots(View::new(&lefts, 0, rows, pairs), View::new(&rights, 0, rows, pairs), out);
        scratch.give(lefts);
        scratch.give(rights);
    }

    fn input_moments(&self, scratch: &mut Scratch<B>, at: Primal<B>, out: ViewMut<B>) {
        scratch.backend().gemm(1.0, self.seen(at.x).t(), self.seen(at.x), 1.0, out);
    }

    fn output_moments(&self, scratch: &mut Scratch<B>, dy: View<B>, out: ViewMut<B>) {
        scratch.backend().gemm(1.0, dy.t(), dy, 1.0, out);
    }

    fn squared_norms(&self, scratch: &mut Scratch<B>, at: Primal<B>, dy: View<B>, out: ViewMut<B>) {
        let backend = scratch.backend();
        let (x, rows) = (self.seen(at.x), at.x.rows);
        let mut factors = scratch.take(2 * rows);
        backend.row_dots(x, x, 0.0, ViewMut::new(&mut factors, 0, rows, 1));
        backend.row_dots(dy, dy, 0.0, ViewMut::new(&mut factors, rows, rows, 1));
        let (inputs, deltas) = (View::new(&factors, 0, rows, 1), View::new(&factors, rows, rows, 1));
        backend.row_dots(inputs, deltas, 1.0, out);
        scratch.give(factors);
    }
}
