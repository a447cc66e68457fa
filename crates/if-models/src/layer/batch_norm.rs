//! Batch normalisation with frozen statistics, as at inference.
//!
//! Per plane `c`, with running mean `m` and variance `s2`:
//!
//! ```text
//! x^ = (x - m) / sqrt(s2 + eps)      y = g x^ + b            r = 1 / sqrt(s2 + eps)
//! R-forward    Ry  = g r Rx + v_g x^ + v_b
//! backward     dx  = g r dy            dg = <dy, x^>          db = sum dy
//! R-backward   Rdx = g r Rdy + v_g r dy    Rdg = <Rdy, x^> + r <dy, Rx>    Rdb = sum Rdy
//! ```
//!
//! In training mode mean and variance are those of the minibatch, so an example's loss depends on the
//! other examples in it: there is no loss, and so no gradient, of one example, and influence of an
//! example is not defined. Frozen statistics are constants, and everything is.

use if_linalg::{Backend, Real, Segment, View, ViewMut};

use super::{Delta, Direction, Layer, Primal, Scratch};

/// Scale and shift of every plane, with frozen statistics.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    name: String,
    /// Numbers in a plane.
    positions: usize,
    mean: Vec<f64>,
    variance: Vec<f64>,
    /// `1 / sqrt(variance + eps)`.
    rate: Vec<f64>,
}

impl BatchNorm {
    /// Normalises `mean.len()` planes of `positions` numbers each.
    ///
    /// # Panics
    /// Where mean and variance differ in length.
    pub fn new(
        name: impl Into<String>,
        positions: usize,
        mean: Vec<f64>,
        variance: Vec<f64>,
        eps: f64,
    ) -> Self {
        assert_eq!(mean.len(), variance.len(), "one mean and one variance for each plane");
        let rate = variance.iter().map(|variance| 1.0 / (variance + eps).sqrt()).collect();
        Self { name: name.into(), positions, mean, variance, rate }
    }

    fn planes(&self) -> usize {
        self.mean.len()
    }

    /// Row `i` of an activation or a gradient, one plane a row.
    fn at<'a, B: Backend>(&self, x: View<'a, B>, i: usize) -> View<'a, B> {
        x.row_as(i, self.planes(), self.positions)
    }

    /// `out = scale x + shift`, plane by plane.
    fn affine<B: Backend>(
        &self,
        backend: &B,
        (scale, shift): (&[f64], &[f64]),
        x: View<B>,
        mut out: ViewMut<B>,
    ) {
        for (c, shift) in shift.iter().enumerate() {
            backend.fill(*shift, out.part(c, 1, self.positions));
        }
        backend.row_axpby(scale, x, &vec![1.0; self.planes()], out);
    }

    /// `x^` of row `i`.
    fn normalised<B: Backend>(&self, scratch: &mut Scratch<B>, x: View<B>, i: usize) -> B::Buffer {
        let mut out = scratch.take(self.planes() * self.positions);
        let shift: Vec<f64> = Self::products(&self.mean, &self.rate).iter().map(|shift| -shift).collect();
        let target = ViewMut::new(&mut out, 0, self.planes(), self.positions);
        self.affine(&scratch.backend(), (&self.rate, &shift), self.at(x, i), target);
        out
    }

    /// Scales and shifts `k` stacked directions of the parameters: `k` times the planes each.
    fn columns<B: Backend>(&self, backend: &B, w: View<B>) -> [Vec<f64>; 2] {
        let host: Vec<f64> = backend.download(w).into_iter().map(Real::to_f64).collect();
        [0, 1].map(|column| host.iter().skip(column).step_by(2).copied().collect())
    }

    /// `<x, y>` of every plane.
    fn dots<B: Backend>(&self, backend: &B, x: View<B>, y: View<B>) -> Vec<f64> {
        let mut out = vec![0.0; self.planes()];
        backend.dots(&[[x, y]], &mut out);
        out
    }

    /// Sum of every plane.
    fn sums<B: Backend>(&self, scratch: &mut Scratch<B>, x: View<B>) -> Vec<f64> {
        let backend = scratch.backend();
        let len = self.planes() * self.positions;
        let mut ones = scratch.take(len);
        backend.fill(1.0, ViewMut::new(&mut ones, 0, 1, len));
        let sums = self.dots(&backend, x, View::new(&ones, 0, self.planes(), self.positions));
        scratch.give(ones);
        sums
    }

    /// Gradients `[dg, db]` of row `i`, plane by plane interleaved as the parameters are.
    fn gradient<B: Backend>(
        &self,
        scratch: &mut Scratch<B>,
        normalised: &B::Buffer,
        dy: View<B>,
    ) -> Vec<f64> {
        let x = View::new(normalised, 0, self.planes(), self.positions);
        let scale = self.dots(&scratch.backend(), dy, x);
        let shift = self.sums(scratch, dy);
        scale.into_iter().zip(shift).flat_map(|(scale, shift)| [scale, shift]).collect()
    }

    /// Adds `planes x 2` host numbers to `dw`.
    fn add<B: Backend>(backend: &B, gradient: &[f64], dw: ViewMut<B>) {
        let host: Vec<B::Elem> = gradient.iter().map(|v| B::Elem::from_f64(*v)).collect();
        let device = backend.upload(&host);
        let (rows, cols) = (dw.rows, dw.cols);
        let ones = vec![1.0; rows];
        backend.row_axpby(&ones, View::new(&device, 0, rows, cols), &ones, dw);
    }

    fn products(a: &[f64], b: &[f64]) -> Vec<f64> {
        a.iter().zip(b).map(|(a, b)| a * b).collect()
    }
}

impl<B: Backend> Layer<B> for BatchNorm {
    fn name(&self) -> &str {
        &self.name
    }

    fn segment(&self) -> Option<Segment> {
        Some(Segment { name: self.name.clone(), rows: self.planes(), cols: 2 })
    }

    fn has_bias(&self) -> bool {
        true
    }

    fn weight_shape(&self) -> Vec<usize> {
        vec![self.planes()]
    }

    fn initial(&self) -> Option<Vec<f64>> {
        Some([1.0, 0.0].repeat(self.planes()))
    }

    fn statistics(&self) -> Vec<(&'static str, &[f64])> {
        vec![("running_mean", &self.mean), ("running_var", &self.variance)]
    }

    fn width(&self) -> usize {
        self.planes() * self.positions
    }

    fn forward(&self, scratch: &mut Scratch<B>, w: Option<View<B>>, x: View<B>, mut y: ViewMut<B>) {
        let backend = scratch.backend();
        let [scale, shift] = self.columns(&backend, w.expect("batch normalisation has parameters"));
        // y = (g r) x + (b - g r m)
        let scale = Self::products(&scale, &self.rate);
        let shift: Vec<f64> = Self::products(&scale, &self.mean)
            .iter()
            .zip(shift)
            .map(|(moved, shift)| shift - moved)
            .collect();
        for i in 0..x.rows {
            let row = y.row_as(i, self.planes(), self.positions);
            self.affine(&backend, (&scale, &shift), self.at(x, i), row);
        }
    }

    fn jvp(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        v: Option<View<B>>,
        rx: Option<View<B>>,
        mut ry: ViewMut<B>,
    ) {
        let (backend, rows, planes) = (scratch.backend(), at.x.rows, self.planes());
        let [scale, _] = self.columns(&backend, at.w.expect("batch normalisation has parameters"));
        let along = v.map(|v| self.columns(&backend, v));
        let through = Self::products(&scale, &self.rate);
        let ones = vec![1.0; planes];
        for i in 0..rows {
            let normalised = self.normalised(scratch, at.x, i);
            for j in 0..ry.rows / rows {
                let row = j * rows + i;
                let mut target = ry.row_as(row, planes, self.positions);
                match &along {
                    Some([v_scale, v_shift]) => {
                        let part = j * planes..(j + 1) * planes;
                        let x = View::new(&normalised, 0, planes, self.positions);
                        let moved = (&v_scale[part.clone()], &v_shift[part]);
                        self.affine(&backend, moved, x, target.reborrow());
                    }
                    None => backend.fill(0.0, target.reborrow()),
                }
                if let Some(rx) = rx {
                    backend.row_axpby(&through, self.at(rx, row), &ones, target);
                }
            }
            scratch.give(normalised);
        }
    }

    fn backward(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        dy: View<B>,
        mut dx: Option<ViewMut<B>>,
        mut dw: Option<ViewMut<B>>,
    ) {
        let (backend, rows, planes) = (scratch.backend(), at.x.rows, self.planes());
        let [scale, _] = self.columns(&backend, at.w.expect("batch normalisation has parameters"));
        let through = Self::products(&scale, &self.rate);
        for i in 0..rows {
            let normalised = self.normalised(scratch, at.x, i);
            for j in 0..dy.rows / rows {
                let row = j * rows + i;
                let dy = self.at(dy, row);
                if let Some(dx) = &mut dx {
                    let target = dx.row_as(row, planes, self.positions);
                    backend.row_axpby(&through, dy, &vec![0.0; planes], target);
                }
                if let Some(dw) = &mut dw {
                    let gradient = self.gradient(scratch, &normalised, dy);
                    Self::add(&backend, &gradient, dw.part(j * planes, planes, 2));
                }
            }
            scratch.give(normalised);
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
        let (first_rdx, first_dw) = (rdx.as_mut().map(ViewMut::reborrow), dw.as_mut().map(ViewMut::reborrow));
        self.backward(scratch, at, delta.rdy, first_rdx, first_dw);
        let (backend, rows, planes) = (scratch.backend(), at.x.rows, self.planes());
        let along = direction.v.map(|v| self.columns(&backend, v)[0].clone());
        for row in 0..delta.rdy.rows {
            let (j, dy) = (row / rows, self.at(delta.dy, row % rows));
            if let (Some(rdx), Some(v_scale)) = (&mut rdx, &along) {
                let through = Self::products(&v_scale[j * planes..(j + 1) * planes], &self.rate);
                let target = rdx.row_as(row, planes, self.positions);
                backend.row_axpby(&through, dy, &vec![1.0; planes], target);
            }
            if let (Some(dw), Some(rx)) = (&mut dw, direction.rx) {
                let scale = Self::products(&self.dots(&backend, dy, self.at(rx, row)), &self.rate);
                let gradient: Vec<f64> = scale.into_iter().flat_map(|scale| [scale, 0.0]).collect();
                Self::add(&backend, &gradient, dw.part(j * planes, planes, 2));
            }
        }
    }

    fn example_gradients(&self, scratch: &mut Scratch<B>, at: Primal<B>, dy: View<B>, mut out: ViewMut<B>) {
        let backend = scratch.backend();
        for i in 0..dy.rows {
            let normalised = self.normalised(scratch, at.x, i);
            let gradient = self.gradient(scratch, &normalised, self.at(dy, i));
            backend.fill(0.0, out.part(i, 1, 2 * self.planes()));
            Self::add(&backend, &gradient, out.part(i, 1, 2 * self.planes()));
            scratch.give(normalised);
        }
    }
}
