//! Convolutions by matrices of patches, for what a device does not convolve directly.
//!
//! Where a cache counts, `g = 1`: an example's patches stay there while all directions use them, and its output is a
//! row of the activation as it lies. Else `g` is large, and outputs change places with examples
//! (`out x g x L` and `g x out x L`).

use if_linalg::{Backend, View, ViewMut};

use super::Conv2d;
use crate::inputs::Part;
use crate::layer::{Delta, Direction, Primal, Scratch};

impl Conv2d {
    /// Cuts `rows` examples into groups (first, length) that are taken together, each of `numbers` intermediate
    /// results: single ones where the device wants little in hand.
    pub(super) fn groups<B: Backend>(
        &self,
        rows: usize,
        numbers: usize,
    ) -> impl Iterator<Item = (usize, usize)> + use<B> {
        let group = B::IN_HAND.map_or(1, |all| (all / numbers).clamp(1, rows.max(1)));
        (0..rows).step_by(group).map(move |first| (first, group.min(rows - first)))
    }

    /// Intermediate results of an example in a pass with `k` directions.
    pub(super) fn pass(&self, k: usize) -> usize {
        self.window.positions() * (2 * self.cols() + (k + 1) * self.outputs)
    }

    /// `P~` of the images `x`: `(K + 1) x g L`.
    fn patches<B: Backend>(&self, scratch: &mut Scratch<B>, x: View<B>) -> B::Buffer {
        let width = x.rows * self.window.positions();
        let mut patches = scratch.take(self.cols() * width);
        let ones =
            ViewMut::new(&mut patches, self.window.patch() * width, self.cols() - self.window.patch(), width);
        scratch.backend().fill(1.0, ones);
        self.fill(&scratch.backend(), x, &mut patches);
        patches
    }

    /// Fills all but the row of ones with the patches of the images `x`.
    fn fill<B: Backend>(&self, backend: &B, x: View<B>, patches: &mut B::Buffer) {
        let (patch, width) = (self.window.patch(), x.rows * self.window.positions());
        backend.im2col(
            &self.window,
            x.col_range(0, self.window.inputs()),
            ViewMut::new(patches, 0, patch, width),
        );
    }

    /// The outputs `y` (or their gradients) of the examples `first..first + len` of `rows`, along all directions:
    /// `(k out) x (len L)`.
    pub(super) fn planes<'a, B: Backend>(
        &self,
        scratch: &mut Scratch<B>,
        y: View<'a, B>,
        (first, len): (usize, usize),
        rows: usize,
    ) -> Planes<'a, B> {
        let (positions, k) = (self.window.positions(), y.rows / rows);
        if rows == 1 {
            return Planes {
                part: Part::Borrowed(y.buffer, y.offset),
                rows: k * self.outputs,
                cols: positions,
            };
        }
        if len == 1 && k == 1 {
            let offset = y.offset + first * y.row_stride;
            return Planes { part: Part::Borrowed(y.buffer, offset), rows: self.outputs, cols: positions };
        }
        let mut planes = scratch.take(k * self.outputs * len * positions);
        for j in 0..k {
            let start = j * self.outputs * len * positions;
            let target = ViewMut::new(&mut planes, start, self.outputs, len * positions);
            let source = y.row_range(j * rows + first, len);
            scratch.backend().swap_axes([len, self.outputs, positions], source, target);
        }
        Planes { part: Part::Owned(planes), rows: k * self.outputs, cols: len * positions }
    }

    /// Calls `f` with every group and its `P~`.
    pub(super) fn each_patches<B: Backend>(
        &self,
        scratch: &mut Scratch<B>,
        x: View<B>,
        numbers: usize,
        mut f: impl FnMut(&mut Scratch<B>, (usize, usize), View<B>),
    ) {
        for (first, len) in self.groups::<B>(x.rows, numbers) {
            let patches = self.patches(scratch, x.row_range(first, len));
            f(scratch, (first, len), View::new(&patches, 0, self.cols(), len * self.window.positions()));
            scratch.give(patches);
        }
    }

    /// `rows x g x inner` as `g x rows x inner`, example by example.
    pub(super) fn by_example<B: Backend>(
        scratch: &mut Scratch<B>,
        x: B::Buffer,
        [rows, len, inner]: [usize; 3],
    ) -> B::Buffer {
        if len == 1 {
            return x;
        }
        let mut turned = scratch.take(rows * len * inner);
        let source = View::new(&x, 0, rows, len * inner);
        let target = ViewMut::new(&mut turned, 0, len, rows * inner);
        scratch.backend().swap_axes([rows, len, inner], source, target);
        scratch.give(x);
        turned
    }

    pub(super) fn forward_by_patches<B: Backend>(
        &self,
        scratch: &mut Scratch<B>,
        w: View<B>,
        x: View<B>,
        mut y: ViewMut<B>,
    ) {
        let backend = scratch.backend();
        let (out, positions) = (self.outputs, self.window.positions());
        self.each_patches(scratch, x, self.pass(1), |scratch, (first, len), patches| {
            if len == 1 {
                backend.gemm(1.0, w, patches, 0.0, y.row_as(first, out, positions));
                return;
            }
            let mut product = scratch.take(out * patches.cols);
            backend.gemm(1.0, w, patches, 0.0, ViewMut::new(&mut product, 0, out, patches.cols));
            let source = View::new(&product, 0, out, patches.cols);
            backend.swap_axes([out, len, positions], source, y.part(first, len, out * positions));
            scratch.give(product);
        });
    }

    pub(super) fn jvp_by_patches<B: Backend>(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        v: Option<View<B>>,
        rx: Option<View<B>>,
        mut ry: ViewMut<B>,
    ) {
        let (backend, rows, out) = (scratch.backend(), at.x.rows, self.outputs);
        let (k, positions) = (ry.rows / rows, self.window.positions());
        let w = self.weights(at);
        for (first, len) in self.groups::<B>(rows, self.pass(k)) {
            let width = len * positions;
            let mut own = (rows > 1).then(|| scratch.take(k * out * width));
            // A single example's outputs lie plane by plane: the products go where they belong.
            let mut planes = match &mut own {
                Some(own) => ViewMut::new(own, 0, k * out, width),
                None => ry.reborrow().reshape(k * out, width),
            };
            if let Some(v) = v {
                let patches = self.patches(scratch, at.x.row_range(first, len));
                backend.gemm(1.0, v, View::new(&patches, 0, self.cols(), width), 0.0, planes.reborrow());
                scratch.give(patches);
            }
            if let Some(rx) = rx {
                let mut tangents = scratch.take(self.window.patch() * width);
                for j in 0..k {
                    self.fill(&backend, rx.row_range(j * rows + first, len), &mut tangents);
                    let tangents = View::new(&tangents, 0, self.window.patch(), width);
                    let beta = f64::from(u8::from(v.is_some()));
                    backend.gemm(1.0, w, tangents, beta, planes.part(j * out, out, width));
                }
                scratch.give(tangents);
            }
            let Some(own) = own else { continue };
            for j in 0..k {
                let source = View::new(&own, j * out * width, out, width);
                let target = ry.part(j * rows + first, len, out * positions);
                backend.swap_axes([out, len, positions], source, target);
            }
            scratch.give(own);
        }
    }

    pub(super) fn backward_by_patches<B: Backend>(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        dy: View<B>,
        mut dx: Option<ViewMut<B>>,
        mut dw: Option<ViewMut<B>>,
    ) {
        let (backend, rows, out) = (scratch.backend(), at.x.rows, self.outputs);
        let (k, patch) = (dy.rows / rows, self.window.patch());
        let w = self.weights(at);
        for (first, len) in self.groups::<B>(rows, self.pass(k)) {
            let width = len * self.window.positions();
            let planes = self.planes(scratch, dy, (first, len), rows);
            if let Some(dw) = &mut dw {
                let patches = self.patches(scratch, at.x.row_range(first, len));
                let inputs = View::new(&patches, 0, self.cols(), width);
                backend.gemm(1.0, planes.view(), inputs.t(), 1.0, dw.reborrow());
                scratch.give(patches);
            }
            if let Some(dx) = &mut dx {
                let mut cols = scratch.take(patch * width);
                for j in 0..k {
                    let dy = planes.view().row_range(j * out, out);
                    backend.gemm(1.0, w.t(), dy, 0.0, ViewMut::new(&mut cols, 0, patch, width));
                    let images = dx.part(j * rows + first, len, self.window.inputs());
                    backend.col2im(&self.window, View::new(&cols, 0, patch, width), images);
                }
                scratch.give(cols);
            }
            planes.release(scratch);
        }
    }

    pub(super) fn r_backward_by_patches<B: Backend>(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        direction: Direction<B>,
        delta: Delta<B>,
        mut rdx: Option<ViewMut<B>>,
        mut dw: Option<ViewMut<B>>,
    ) {
        let (backend, rows, out) = (scratch.backend(), at.x.rows, self.outputs);
        let (k, patch) = (delta.rdy.rows / rows, self.window.patch());
        let w = self.weights(at);
        for (first, len) in self.groups::<B>(rows, self.pass(k)) {
            let width = len * self.window.positions();
            let dys = self.planes(scratch, delta.dy, (first, len), rows);
            let rdys = self.planes(scratch, delta.rdy, (first, len), rows);
            if let Some(dw) = &mut dw {
                let patches = self.patches(scratch, at.x.row_range(first, len));
                let inputs = View::new(&patches, 0, self.cols(), width);
                backend.gemm(1.0, rdys.view(), inputs.t(), 1.0, dw.reborrow());
                scratch.give(patches);
            }
            let mut tangents = scratch.take(patch * width);
            for j in 0..k {
                if let (Some(dw), Some(rx)) = (&mut dw, direction.rx) {
                    self.fill(&backend, rx.row_range(j * rows + first, len), &mut tangents);
                    let tangents = View::new(&tangents, 0, patch, width);
                    backend.gemm(1.0, dys.view(), tangents.t(), 1.0, dw.part(j * out, out, patch));
                }
                if let Some(rdx) = &mut rdx {
                    // The tangents' buffer is free again.
                    let rdy = rdys.view().row_range(j * out, out);
                    backend.gemm(1.0, w.t(), rdy, 0.0, ViewMut::new(&mut tangents, 0, patch, width));
                    if let Some(v) = direction.v {
                        let v = v.row_range(j * out, out).col_range(0, patch);
                        let target = ViewMut::new(&mut tangents, 0, patch, width);
                        backend.gemm(1.0, v.t(), dys.view(), 1.0, target);
                    }
                    let images = rdx.part(j * rows + first, len, self.window.inputs());
                    backend.col2im(&self.window, View::new(&tangents, 0, patch, width), images);
                }
            }
            scratch.give(tangents);
            dys.release(scratch);
            rdys.release(scratch);
        }
    }

    pub(super) fn example_gradients_by_patches<B: Backend>(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        dy: View<B>,
        mut out: ViewMut<B>,
    ) {
        let (backend, positions) = (scratch.backend(), self.window.positions());
        let numbers = self.pass(0);
        self.each_patches(scratch, at.x, numbers, |_, (first, len), patches| {
            // Example i: dY_i P~_i^T, with P~_i the columns of its positions.
            let steps = [dy.row_stride, positions, out.row_stride];
            let own = patches.col_range(0, positions).t();
            let target = out.row_as(first, self.outputs, self.cols());
            backend.gemm_batch(
                len,
                steps,
                1.0,
                [dy.row_as(first, self.outputs, positions), own],
                0.0,
                target,
            );
        });
    }

    pub(super) fn ghost_scores_by_patches<B: Backend>(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        dy: View<B>,
        v: View<B>,
        mut out: ViewMut<B>,
    ) {
        let (backend, k) = (scratch.backend(), out.cols);
        let each = self.outputs * self.window.positions();
        self.each_patches(scratch, at.x, self.pass(2 * k), |scratch, (first, len), patches| {
            // V_j P~ of all directions, then the dot with dY of each.
            let mut products = scratch.take(v.rows * patches.cols);
            backend.gemm(1.0, v, patches, 0.0, ViewMut::new(&mut products, 0, v.rows, patches.cols));
            let products = Self::by_example(scratch, products, [v.rows, len, self.window.positions()]);
            let source = View::new(&products, 0, len, k * each);
            backend.row_dots(source, dy.row_range(first, len), 1.0, out.part(first, len, k));
            scratch.give(products);
        });
    }
}

/// Outputs of some examples, plane by plane, which may have had to change places.
pub(super) struct Planes<'a, B: Backend> {
    part: Part<'a, B>,
    rows: usize,
    cols: usize,
}

impl<B: Backend> Planes<'_, B> {
    pub(super) fn view(&self) -> View<'_, B> {
        self.part.view(self.rows, self.cols)
    }

    pub(super) fn release(self, scratch: &mut Scratch<B>) {
        if let Part::Owned(buffer) = self.part {
            scratch.give(buffer);
        }
    }
}
