//! The two-dimensional convolution (cross-correlation, as PyTorch's).
//!
//! With the bias folded in, `W~ = [W b]` is `out x (K + 1)`, `K = channels kh kw`; `P~` is the `K x g L` matrix of the
//! patches ([`Window`]) of `g` images with a row of ones below, `L` positions each; their outputs are `out x g L`:
//!
//! ```text
//! forward      Y   = W~ P~
//! R-forward    RY  = V~ P~ + W RP             RP = patches of Rx
//! backward     dP  = W^T dY                   dx = dP added where the patches came from;  dW~ = dY P~^T
//! R-backward   RdP = W^T RdY + V^T dY         RdW~ = RdY P~^T + dY [RP^T 0]
//! ```
//!
//! The gradient of one example, `dY P~^T`, is a sum of `L` outer products; forming it costs as much as one direction of a
//! score without it. A device that [convolves](if_linalg::Backend::convolves) needs no patches in memory for this.

mod patches;

use if_linalg::{Backend, Segment, View, ViewMut, Window};

use super::{Delta, Direction, Factors, Layer, Primal, Scratch};

/// `out` planes from a window that slides over all planes of the input.
#[derive(Clone, Debug)]
pub struct Conv2d {
    name: String,
    window: Window,
    outputs: usize,
    bias: bool,
}

impl Conv2d {
    /// `outputs` planes from images that `window` describes.
    ///
    /// # Panics
    /// Where no window fits the image.
    pub fn new(name: impl Into<String>, window: Window, outputs: usize, bias: bool) -> Self {
        assert!(window.steps().is_some(), "{window:?} does not fit its image");
        Self { name: name.into(), window, outputs, bias }
    }

    /// Columns of the parameter matrix.
    fn cols(&self) -> usize {
        self.window.patch() + usize::from(self.bias)
    }

    /// The weights without the bias.
    fn weights<'a, B: Backend>(&self, at: Primal<'a, B>) -> View<'a, B> {
        at.w.expect("a convolution has parameters").col_range(0, self.window.patch())
    }
}

impl<B: Backend> Layer<B> for Conv2d {
    fn name(&self) -> &str {
        &self.name
    }

    fn segment(&self) -> Option<Segment> {
        Some(Segment { name: self.name.clone(), rows: self.outputs, cols: self.cols() })
    }

    fn has_bias(&self) -> bool {
        self.bias
    }

    fn weight_shape(&self) -> Vec<usize> {
        let [height, width] = self.window.kernel;
        vec![self.outputs, self.window.channels, height, width]
    }

    fn width(&self) -> usize {
        self.outputs * self.window.positions()
    }

    fn by_example(&self) -> bool {
        true
    }

    fn forward(&self, scratch: &mut Scratch<B>, w: Option<View<B>>, x: View<B>, y: ViewMut<B>) {
        let (backend, w) = (scratch.backend(), w.expect("a convolution has parameters"));
        if !backend.convolves(&self.window) {
            return self.forward_by_patches(scratch, w, x, y);
        }
        backend.convolve(&self.window, w, x, 0.0, y);
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
        if v.is_none() && rx.is_none() {
            return backend.fill(0.0, ry);
        }
        if !backend.convolves(&self.window) {
            return self.jvp_by_patches(scratch, at, v, rx, ry);
        }
        if let Some(v) = v {
            backend.convolve(&self.window, v, at.x, 0.0, ry.reborrow());
        }
        if let Some(rx) = rx {
            let beta = f64::from(u8::from(v.is_some()));
            backend.convolve(&self.window, self.weights(at), rx, beta, ry);
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
        if !backend.convolves(&self.window) {
            return self.backward_by_patches(scratch, at, dy, dx, dw);
        }
        if let Some(dw) = dw {
            backend.convolve_weights(&self.window, dy, at.x, dw);
        }
        if let Some(dx) = dx {
            backend.convolve_transpose(&self.window, self.weights(at), dy, 0.0, dx);
        }
    }

    fn r_backward(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        direction: Direction<B>,
        delta: Delta<B>,
        rdx: Option<ViewMut<B>>,
        dw: Option<ViewMut<B>>,
    ) {
        let backend = scratch.backend();
        if !backend.convolves(&self.window) {
            return self.r_backward_by_patches(scratch, at, direction, delta, rdx, dw);
        }
        if let Some(mut dw) = dw {
            backend.convolve_weights(&self.window, delta.rdy, at.x, dw.reborrow());
            if let Some(rx) = direction.rx {
                let rows = dw.rows;
                backend.convolve_weights(&self.window, delta.dy, rx, dw.part(0, rows, self.window.patch()));
            }
        }
        if let Some(mut rdx) = rdx {
            backend.convolve_transpose(&self.window, self.weights(at), delta.rdy, 0.0, rdx.reborrow());
            if let Some(v) = direction.v {
                backend.convolve_transpose(&self.window, v, delta.dy, 1.0, rdx);
            }
        }
    }

    fn example_gradients(&self, scratch: &mut Scratch<B>, at: Primal<B>, dy: View<B>, mut out: ViewMut<B>) {
        let backend = scratch.backend();
        if !backend.convolves(&self.window) {
            return self.example_gradients_by_patches(scratch, at, dy, out);
        }
        // As if every example were a direction.
        backend.fill(0.0, out.reborrow());
        let gradients = out.reshape(dy.rows * self.outputs, self.cols());
        backend.convolve_weights(&self.window, dy, at.x, gradients);
    }

    fn gradient_terms(&self) -> Option<usize> {
        Some(self.window.positions())
    }

    fn gradient_factors(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        dy: View<B>,
        (mut left, mut right): (ViewMut<B>, ViewMut<B>),
    ) {
        let (backend, positions, rows) = (scratch.backend(), self.window.positions(), dy.rows);
        self.each_patches(scratch, at.x, self.pass(1), |scratch, (first, len), patches| {
            let (start, width) = (first * positions, len * positions);
            let planes = self.planes(scratch, dy, (first, len), rows);
            let [lefts, rights] = [(&mut left, self.outputs), (&mut right, self.cols())]
                .map(|(side, cols)| side.part(start, width, cols));
            backend.swap_axes([self.outputs, width, 1], planes.view(), lefts);
            backend.swap_axes([self.cols(), width, 1], patches, rights);
            planes.release(scratch);
        });
    }

    fn ghost_scores(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        dy: View<B>,
        v: View<B>,
        mut out: ViewMut<B>,
    ) {
        let backend = scratch.backend();
        if !backend.convolves(&self.window) {
            return self.ghost_scores_by_patches(scratch, at, dy, v, out);
        }
        let (k, width) = (out.cols, self.outputs * self.window.positions());
        for (first, len) in self.groups::<B>(dy.rows, 2 * k * width) {
            // V_j P~ of all directions, then the dot with dY of each.
            let mut products = scratch.take(k * len * width);
            let target = ViewMut::new(&mut products, 0, k * len, width);
            backend.convolve(&self.window, v, at.x.row_range(first, len), 0.0, target);
            let products = Self::by_example(scratch, products, [k, len, width]);
            let source = View::new(&products, 0, len, k * width);
            backend.row_dots(source, dy.row_range(first, len), 1.0, out.part(first, len, k));
            scratch.give(products);
        }
    }

    fn pairwise_scores(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        dy: View<B>,
        v: Factors<B>,
        mut out: ViewMut<B>,
    ) {
        let (backend, k, rows) = (scratch.backend(), out.cols, dy.rows);
        let (pairs, positions) = (v.left.rows, self.window.positions());
        let numbers = self.pass(0) + 4 * pairs * positions;
        self.each_patches(scratch, at.x, numbers, |scratch, (first, len), patches| {
            let planes = self.planes(scratch, dy, (first, len), rows);
            let [lefts, rights] = [(v.left, planes.view()), (v.right, patches)].map(|(own, other)| {
                let mut product = scratch.take(pairs * other.cols);
                backend.gemm(1.0, own, other, 0.0, ViewMut::new(&mut product, 0, pairs, other.cols));
                Self::by_example(scratch, product, [pairs, len, positions])
            });
            let views = [&lefts, &rights].map(|all| View::new(all, 0, len, pairs * positions));
            backend.paired_dots(views[0], views[1], out.part(first, len, k));
            scratch.give(lefts);
            scratch.give(rights);
            planes.release(scratch);
        });
    }

    fn input_moments(&self, scratch: &mut Scratch<B>, at: Primal<B>, mut out: ViewMut<B>) {
        self.each_patches(scratch, at.x, self.pass(0), |scratch, _, patches| {
            scratch.backend().gemm(1.0, patches, patches.t(), 1.0, out.reborrow());
        });
    }

    fn output_moments(&self, scratch: &mut Scratch<B>, dy: View<B>, mut out: ViewMut<B>) {
        for (first, len) in self.groups::<B>(dy.rows, self.pass(1)) {
            let planes = self.planes(scratch, dy, (first, len), dy.rows);
            scratch.backend().gemm(1.0, planes.view(), planes.view().t(), 1.0, out.reborrow());
            planes.release(scratch);
        }
    }
}
