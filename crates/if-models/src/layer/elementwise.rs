//! Elementwise activations, `y = f(x)`.
//!
//! ```text
//! R-forward    Ry  = f'(x) Rx
//! backward     dx  = f'(x) dy
//! R-backward   Rdx = f'(x) Rdy + f''(x) Rx dy
//! ```

use if_linalg::{Activation, Backend, View, ViewMut};

use super::{Delta, Direction, Layer, Primal, Scratch};

/// One [`Activation`] on every number of an example.
#[derive(Clone, Debug)]
pub struct Elementwise {
    activation: Activation,
    width: usize,
}

impl Elementwise {
    /// On `width` numbers per example.
    pub fn new(activation: Activation, width: usize) -> Self {
        Self { activation, width }
    }

    /// Input and output.
    fn at<'a, B: Backend>(&self, at: Primal<'a, B>) -> [View<'a, B>; 2] {
        [at.x, at.y].map(|view| view.col_range(0, self.width))
    }
}

impl<B: Backend> Layer<B> for Elementwise {
    fn width(&self) -> usize {
        self.width
    }

    fn forward(&self, scratch: &mut Scratch<B>, _: Option<View<B>>, x: View<B>, y: ViewMut<B>) {
        scratch.backend().activate(self.activation, x.col_range(0, self.width), y);
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
            Some(rx) => scratch.backend().activation_backward(self.activation, self.at(at), rx, ry),
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
        if let Some(dx) = dx {
            scratch.backend().activation_backward(self.activation, self.at(at), dy, dx);
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
        match (rdx, direction.rx) {
            (Some(rdx), Some(rx)) if !self.activation.is_piecewise_linear() => {
                let Delta { dy, rdy } = delta;
                scratch.backend().activation_r_backward(self.activation, self.at(at), [dy, rx, rdy], rdx);
            }
            (rdx, _) => self.backward(scratch, at, delta.rdy, rdx, dw),
        }
    }
}
