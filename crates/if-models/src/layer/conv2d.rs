//! The two-dimensional convolution (cross-correlation, as PyTorch's), by patches.
//!
//! With the bias folded in, `W~ = [W b]` is `out x (K + 1)`, `K = channels kh kw`; `P~` is the image's
//! `K x L` matrix of patches ([`Window`]) with a row of ones below, `L` positions; an output is `out x L`:
//!
//! ```text
//! forward      Y   = W~ P~
//! R-forward    RY  = V~ P~ + W RP             RP = patches of Rx
//! backward     dP  = W^T dY                   dx = dP added where the patches came from;  dW~ = dY P~^T
//! R-backward   RdP = W^T RdY + V^T dY         RdW~ = RdY P~^T + dY [RP^T 0]
//! ```
//!
//! One example at a time: its patches stay in the cache while all directions use them. The gradient of one
//! example, `dY P~^T`, is a sum of `L` outer products; forming it costs as much as one direction of a score
//! without it.

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

    /// Numbers of a matrix of patches, the row of ones included.
    fn patches_len(&self) -> usize {
        self.cols() * self.window.positions()
    }

    /// A buffer for patches, its row of ones (if there is a bias) already filled.
    fn patches<B: Backend>(&self, scratch: &mut Scratch<B>) -> B::Buffer {
        let mut patches = scratch.take(self.patches_len());
        if self.bias {
            let positions = self.window.positions();
            let start = self.window.patch() * positions;
            scratch.backend().fill(1.0, ViewMut::new(&mut patches, start, 1, positions));
        }
        patches
    }

    /// Fills all but the row of ones with the patches of row `i` of `x`.
    fn fill<B: Backend>(&self, backend: &B, x: View<B>, i: usize, patches: &mut B::Buffer) {
        let image = x.row_range(i, 1).col_range(0, self.window.inputs());
        let target = ViewMut::new(patches, 0, self.window.patch(), self.window.positions());
        backend.im2col(&self.window, image, target);
    }

    /// `RY = V~ P~` of example `i` of `rows`, for all directions.
    fn along<B: Backend>(
        &self,
        backend: &B,
        v: View<B>,
        patches: View<B>,
        (i, rows): (usize, usize),
        ry: &mut ViewMut<B>,
    ) {
        let positions = self.window.positions();
        if rows == 1 {
            // The directions lie one after another: one product for all.
            let stacked = ViewMut::new(ry.buffer, ry.offset, v.rows, positions);
            backend.gemm(1.0, v, patches, 0.0, stacked);
            return;
        }
        for j in 0..ry.rows / rows {
            let v = v.row_range(j * self.outputs, self.outputs);
            backend.gemm(1.0, v, patches, 0.0, ry.row_as(j * rows + i, self.outputs, positions));
        }
    }

    /// `dW~ += dY P~^T` of example `i` of `rows`, for all directions.
    fn add_products<B: Backend>(
        &self,
        backend: &B,
        dy: View<B>,
        patches: View<B>,
        (i, rows): (usize, usize),
        dw: &mut ViewMut<B>,
    ) {
        if rows == 1 {
            let dy = View::new(dy.buffer, dy.offset, dw.rows, self.window.positions());
            backend.gemm(1.0, dy, patches.t(), 1.0, dw.reborrow());
            return;
        }
        for j in 0..dy.rows / rows {
            let target = dw.part(j * self.outputs, self.outputs, self.cols());
            backend.gemm(1.0, self.planes(dy, j * rows + i), patches.t(), 1.0, target);
        }
    }

    /// Calls `f` with every example and its `P~`.
    fn each_patches<B: Backend>(
        &self,
        scratch: &mut Scratch<B>,
        x: View<B>,
        mut f: impl FnMut(usize, View<B>),
    ) {
        let backend = scratch.backend();
        let mut patches = self.patches(scratch);
        for i in 0..x.rows {
            self.fill(&backend, x, i, &mut patches);
            f(i, self.view(&patches, self.cols()));
        }
        scratch.give(patches);
    }

    /// `P~`, or `P` without the row of ones.
    fn view<'a, B: Backend>(&self, patches: &'a B::Buffer, rows: usize) -> View<'a, B> {
        View::new(patches, 0, rows, self.window.positions())
    }

    /// Row `i` of an output or its gradient, `out x L`.
    fn planes<'a, B: Backend>(&self, y: View<'a, B>, i: usize) -> View<'a, B> {
        y.row_as(i, self.outputs, self.window.positions())
    }

    /// The weights without the bias.
    fn weights<'a, B: Backend>(&self, w: View<'a, B>) -> View<'a, B> {
        w.col_range(0, self.window.patch())
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

    fn forward(&self, scratch: &mut Scratch<B>, w: Option<View<B>>, x: View<B>, mut y: ViewMut<B>) {
        let (backend, w) = (scratch.backend(), w.expect("a convolution has parameters"));
        let mut patches = self.patches(scratch);
        for i in 0..x.rows {
            self.fill(&backend, x, i, &mut patches);
            let target = y.row_as(i, self.outputs, self.window.positions());
            backend.gemm(1.0, w, self.view(&patches, self.cols()), 0.0, target);
        }
        scratch.give(patches);
    }

    fn jvp(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        v: Option<View<B>>,
        rx: Option<View<B>>,
        mut ry: ViewMut<B>,
    ) {
        let (backend, rows) = (scratch.backend(), at.x.rows);
        let w = self.weights(at.w.expect("a convolution has parameters"));
        let mut patches = self.patches(scratch);
        let mut tangents = scratch.take(self.patches_len());
        for i in 0..rows {
            match v {
                Some(v) => {
                    self.fill(&backend, at.x, i, &mut patches);
                    self.along(&backend, v, self.view(&patches, self.cols()), (i, rows), &mut ry);
                }
                None if i == 0 => backend.fill(0.0, ry.reborrow()),
                None => {}
            }
            let Some(rx) = rx else { continue };
            for row in (i..ry.rows).step_by(rows) {
                self.fill(&backend, rx, row, &mut tangents);
                let target = ry.row_as(row, self.outputs, self.window.positions());
                backend.gemm(1.0, w, self.view(&tangents, self.window.patch()), 1.0, target);
            }
        }
        scratch.give(patches);
        scratch.give(tangents);
    }

    fn backward(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        dy: View<B>,
        mut dx: Option<ViewMut<B>>,
        mut dw: Option<ViewMut<B>>,
    ) {
        let (backend, rows) = (scratch.backend(), at.x.rows);
        let w = self.weights(at.w.expect("a convolution has parameters"));
        let mut patches = self.patches(scratch);
        let mut cols = scratch.take(self.patches_len());
        let (patch, positions) = (self.window.patch(), self.window.positions());
        for i in 0..rows {
            if let Some(dw) = &mut dw {
                self.fill(&backend, at.x, i, &mut patches);
                self.add_products(&backend, dy, self.view(&patches, self.cols()), (i, rows), dw);
            }
            let Some(dx) = &mut dx else { continue };
            for row in (i..dy.rows).step_by(rows) {
                let target = ViewMut::new(&mut cols, 0, patch, positions);
                backend.gemm(1.0, w.t(), self.planes(dy, row), 0.0, target);
                backend.col2im(&self.window, self.view(&cols, patch), dx.part(row, 1, self.window.inputs()));
            }
        }
        scratch.give(patches);
        scratch.give(cols);
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
        let (backend, rows) = (scratch.backend(), at.x.rows);
        let (patch, positions) = (self.window.patch(), self.window.positions());
        let w = self.weights(at.w.expect("a convolution has parameters"));
        let mut patches = self.patches(scratch);
        let mut tangents = scratch.take(self.patches_len());
        for i in 0..rows {
            let dy = self.planes(delta.dy, i);
            if let Some(dw) = &mut dw {
                self.fill(&backend, at.x, i, &mut patches);
                self.add_products(&backend, delta.rdy, self.view(&patches, self.cols()), (i, rows), dw);
            }
            for j in 0..delta.rdy.rows / rows {
                let row = j * rows + i;
                let rdy = self.planes(delta.rdy, row);
                if let (Some(dw), Some(rx)) = (&mut dw, direction.rx) {
                    self.fill(&backend, rx, row, &mut tangents);
                    let target = dw.part(j * self.outputs, self.outputs, patch);
                    backend.gemm(1.0, dy, self.view(&tangents, patch).t(), 1.0, target);
                }
                if let Some(rdx) = &mut rdx {
                    // The tangents' buffer is free again.
                    backend.gemm(1.0, w.t(), rdy, 0.0, ViewMut::new(&mut tangents, 0, patch, positions));
                    if let Some(v) = direction.v {
                        let v = self.weights(v.row_range(j * self.outputs, self.outputs));
                        backend.gemm(1.0, v.t(), dy, 1.0, ViewMut::new(&mut tangents, 0, patch, positions));
                    }
                    let image = rdx.part(row, 1, self.window.inputs());
                    backend.col2im(&self.window, self.view(&tangents, patch), image);
                }
            }
        }
        scratch.give(patches);
        scratch.give(tangents);
    }

    fn example_gradients(&self, scratch: &mut Scratch<B>, at: Primal<B>, dy: View<B>, mut out: ViewMut<B>) {
        let backend = scratch.backend();
        self.each_patches(scratch, at.x, |i, patches| {
            let target = out.row_as(i, self.outputs, self.cols());
            backend.gemm(1.0, self.planes(dy, i), patches.t(), 0.0, target);
        });
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
        let (backend, positions) = (scratch.backend(), self.window.positions());
        self.each_patches(scratch, at.x, |i, patches| {
            let first = i * positions;
            let planes = self.planes(dy, i);
            backend.swap_axes(
                [self.outputs, positions, 1],
                planes,
                left.part(first, positions, self.outputs),
            );
            backend.swap_axes(
                [self.cols(), positions, 1],
                patches,
                right.part(first, positions, self.cols()),
            );
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
        let (backend, k) = (scratch.backend(), out.cols);
        let len = self.outputs * self.window.positions();
        let mut products = scratch.take(k * len);
        self.each_patches(scratch, at.x, |i, patches| {
            // V_j P~ of all directions, then the dot with dY of each.
            let target = ViewMut::new(&mut products, 0, k * self.outputs, self.window.positions());
            backend.gemm(1.0, v, patches, 0.0, target);
            backend.row_dots(View::new(&products, 0, 1, k * len), dy.row_range(i, 1), 1.0, out.part(i, 1, k));
        });
        scratch.give(products);
    }

    fn pairwise_scores(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        dy: View<B>,
        v: Factors<B>,
        mut out: ViewMut<B>,
    ) {
        let (backend, k) = (scratch.backend(), out.cols);
        let (pairs, positions) = (v.left.rows, self.window.positions());
        let [mut lefts, mut rights] = [0, 1].map(|_| scratch.take(pairs * positions));
        self.each_patches(scratch, at.x, |i, patches| {
            let planes = self.planes(dy, i);
            backend.gemm(1.0, v.left, planes, 0.0, ViewMut::new(&mut lefts, 0, pairs, positions));
            backend.gemm(1.0, v.right, patches, 0.0, ViewMut::new(&mut rights, 0, pairs, positions));
            let [lefts, rights] = [&lefts, &rights].map(|all| View::new(all, 0, 1, pairs * positions));
            backend.paired_dots(lefts, rights, out.part(i, 1, k));
        });
        scratch.give(lefts);
        scratch.give(rights);
    }

    fn input_moments(&self, scratch: &mut Scratch<B>, at: Primal<B>, mut out: ViewMut<B>) {
        let backend = scratch.backend();
        self.each_patches(scratch, at.x, |_, patches| {
            backend.gemm(1.0, patches, patches.t(), 1.0, out.reborrow());
        });
    }

    fn output_moments(&self, scratch: &mut Scratch<B>, dy: View<B>, mut out: ViewMut<B>) {
        for row in 0..dy.rows {
            let planes = self.planes(dy, row);
            scratch.backend().gemm(1.0, planes, planes.t(), 1.0, out.reborrow());
        }
    }
}
