//! Pools: the maximum or the mean under a sliding window.
//!
//! Both are linear maps of the image, `y = M x`; that of max pooling, which picks the first maximum under
//! each window, changes with `x` only where two maxima tie. So
//!
//! ```text
//! R-forward    Ry  = M Rx
//! backward     dx  = M^T dy
//! R-backward   Rdx = M^T Rdy
//! ```

use if_linalg::{Backend, View, ViewMut, Window};

use super::{Delta, Direction, Layer, Primal, Scratch};

/// Which number stands for a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The maximum; padding is below everything.
    Max,
    /// The mean; padding counts as zeros.
    Mean,
}

/// One number per window and plane.
#[derive(Clone, Debug)]
pub struct Pool2d {
    window: Window,
    pooling: Pooling,
}

impl Pool2d {
    /// Pools the images that `window` describes.
    ///
    /// # Panics
    /// Where no window fits the image, or padding is more than half of the window.
    pub fn new(pooling: Pooling, window: Window) -> Self {
        let covered = window.kernel.iter().all(|kernel| 2 * window.padding <= *kernel);
        assert!(window.steps().is_some() && covered, "{window:?} does not fit its image");
        Self { window, pooling }
    }

    /// `out = M rx`, with `M` that of `x`.
    fn apply<B: Backend>(&self, backend: &B, x: View<B>, rx: View<B>, out: ViewMut<B>) {
        match self.pooling {
            Pooling::Max => backend.max_pool_gather(&self.window, x, rx, out),
            Pooling::Mean => backend.avg_pool(&self.window, rx, out),
        }
    }

    fn image<'a, B: Backend>(&self, x: View<'a, B>) -> View<'a, B> {
        x.col_range(0, self.window.inputs())
    }
}

impl<B: Backend> Layer<B> for Pool2d {
    fn width(&self) -> usize {
        self.window.channels * self.window.positions()
    }

    fn forward(&self, scratch: &mut Scratch<B>, _: Option<View<B>>, x: View<B>, y: ViewMut<B>) {
        self.apply(&scratch.backend(), self.image(x), self.image(x), y);
    }

    fn jvp(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        _: Option<View<B>>,
        rx: Option<View<B>>,
        ry: ViewMut<B>,
    ) {
        match rx {
            Some(rx) => self.apply(&scratch.backend(), self.image(at.x), rx, ry),
            None => scratch.backend().fill(0.0, ry),
        }
    }

    fn backward(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        dy: View<B>,
        dx: Option<ViewMut<B>>,
        _: Option<ViewMut<B>>,
    ) {
        let Some(dx) = dx else { return };
        match self.pooling {
            Pooling::Max => scratch.backend().max_pool_scatter(&self.window, self.image(at.x), dy, dx),
            Pooling::Mean => scratch.backend().avg_pool_transpose(&self.window, dy, dx),
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
        self.backward(scratch, at, delta.rdy, rdx, dw);
    }
}
