//! A layer whose parameters are constants: `y = f(x; w)` at fixed `w`.
//!
//! The products are those of the layer it holds, without a direction in `w` and without a gradient for it.

use std::sync::Arc;

use if_linalg::{Backend, View, ViewMut};

use super::{Delta, Direction, Layer, Primal, Scratch};

/// A layer that is not among those whose parameters are attributed.
pub struct Frozen<B: Backend> {
    layer: Arc<dyn Layer<B>>,
    /// `rows x cols` as the layer's segment.
    w: B::Buffer,
    shape: [usize; 2],
}

impl<B: Backend> Frozen<B> {
    /// `layer` at the parameters `w`.
    ///
    /// # Panics
    /// Where `layer` has no parameters, or parameters of another shape.
    pub fn new(backend: &B, layer: Arc<dyn Layer<B>>, w: View<B>) -> Self {
        let segment = layer.segment().expect("a layer with parameters");
        assert_eq!((segment.rows, segment.cols), (w.rows, w.cols), "parameters of another shape");
        let mut copy = backend.zeros(w.rows * w.cols);
        backend.copy(w, ViewMut::new(&mut copy, 0, w.rows, w.cols));
        Self { layer, w: copy, shape: [w.rows, w.cols] }
    }

    fn weights(&self) -> Option<View<'_, B>> {
        Some(View::new(&self.w, 0, self.shape[0], self.shape[1]))
    }
}

impl<B: Backend> Layer<B> for Frozen<B> {
    fn name(&self) -> &str {
        self.layer.name()
    }

    fn width(&self) -> usize {
        self.layer.width()
    }

    fn vocabulary(&self) -> Option<usize> {
        self.layer.vocabulary()
    }

    fn by_example(&self) -> bool {
        self.layer.by_example()
    }

    fn forward(&self, scratch: &mut Scratch<B>, _: Option<View<B>>, x: View<B>, y: ViewMut<B>) {
        self.layer.forward(scratch, self.weights(), x, y);
    }

    fn jvp(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        _: Option<View<B>>,
        rx: Option<View<B>>,
        ry: ViewMut<B>,
    ) {
        self.layer.jvp(scratch, Primal { w: self.weights(), ..at }, None, rx, ry);
    }

    fn backward(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        dy: View<B>,
        dx: Option<ViewMut<B>>,
        _: Option<ViewMut<B>>,
    ) {
        self.layer.backward(scratch, Primal { w: self.weights(), ..at }, dy, dx, None);
    }

    fn r_backward(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        direction: Direction<B>,
        delta: Delta<B>,
        rdx: Option<ViewMut<B>>,
        _: Option<ViewMut<B>>,
    ) {
        let direction = Direction { v: None, rx: direction.rx };
        self.layer.r_backward(scratch, Primal { w: self.weights(), ..at }, direction, delta, rdx, None);
    }
}
