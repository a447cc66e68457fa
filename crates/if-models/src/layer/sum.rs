//! The end of a residual block, `y = x + s`, with `s` an earlier activation.
//!
//! This layer passes `x` on; the network, which has all activations at hand, adds `s` and its tangent, and
//! on the way back hands `dy` to `s` as well as to `x`. The map is linear, so
//!
//! ```text
//! R-forward    Ry  = Rx (+ Rs)        backward     dx  = dy        R-backward   Rdx = Rdy
//! ```

use if_linalg::{Backend, View, ViewMut};

use super::{Delta, Direction, Layer, Primal, Scratch};

/// Passes `width` numbers per example on, to be added to.
#[derive(Clone, Debug)]
pub struct ResidualSum {
    width: usize,
}

impl ResidualSum {
    /// Of `width` numbers per example.
    pub fn new(width: usize) -> Self {
        Self { width }
    }
}

impl<B: Backend> Layer<B> for ResidualSum {
    fn width(&self) -> usize {
        self.width
    }

    fn takes_skip(&self) -> bool {
        true
    }

    fn forward(&self, scratch: &mut Scratch<B>, _: Option<View<B>>, x: View<B>, y: ViewMut<B>) {
        scratch.backend().copy(x.col_range(0, self.width), y);
    }

    fn jvp(
        &self,
        scratch: &mut Scratch<B>,
        _: Primal<B>,
        _: Option<View<B>>,
        rx: Option<View<B>>,
        ry: ViewMut<B>,
    ) {
        match rx {
            Some(rx) => scratch.backend().copy(rx, ry),
            None => scratch.backend().fill(0.0, ry),
        }
    }

    fn backward(
        &self,
        scratch: &mut Scratch<B>,
        _: Primal<B>,
        dy: View<B>,
        dx: Option<ViewMut<B>>,
        _: Option<ViewMut<B>>,
    ) {
        if let Some(dx) = dx {
            scratch.backend().copy(dy, dx);
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
