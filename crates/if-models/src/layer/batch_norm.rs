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

    /// Numbers of `x` in a row, without ones.
    fn numbers(&self) -> usize {
        self.planes() * self.positions
    }

    /// A copy of `x`, whose rows may lie apart.
    fn together<B: Backend>(&self, scratch: &mut Scratch<B>, x: View<B>) -> Rows<B> {
        let (backend, width) = (scratch.backend(), self.numbers());
        let mut buffer = scratch.take(x.rows * width);
        backend.copy(x.col_range(0, width), ViewMut::new(&mut buffer, 0, x.rows, width));
        Rows { buffer, rows: x.rows, planes: self.planes(), positions: self.positions }
    }

    /// A number for every plane, on the device.
    fn column<B: Backend>(backend: &B, numbers: impl Iterator<Item = f64>) -> B::Buffer {
        backend.upload(&numbers.map(B::Elem::from_f64).collect::<Vec<_>>())
    }

    /// Multiplies every plane by its `r`.
    fn scale_by_rate<B: Backend>(&self, backend: &B, x: ViewMut<B>) {
        let rate = Self::column(backend, self.rate.iter().copied());
        backend.scale_rows(View::new(&rate, 0, self.planes(), 1), x);
    }

    /// Multiplies every plane by its `g r`.
    fn scale_through<B: Backend>(&self, scratch: &mut Scratch<B>, w: Option<View<B>>, x: ViewMut<B>) {
        let (backend, planes) = (scratch.backend(), self.planes());
        let scale = w.expect("batch normalisation has parameters").col_range(0, 1);
        let mut through = scratch.take(planes);
        backend.copy(scale, ViewMut::new(&mut through, 0, planes, 1));
        self.scale_by_rate(&backend, ViewMut::new(&mut through, 0, planes, 1));
        backend.scale_rows(View::new(&through, 0, planes, 1), x);
        scratch.give(through);
    }

    /// `x^` of all rows.
    fn normalised<B: Backend>(&self, scratch: &mut Scratch<B>, x: View<B>) -> Rows<B> {
        let backend = scratch.backend();
        let mut out = self.together(scratch, x);
        // The mean first: `r x - r m` would lose the digits that both have in common.
        let shift = Self::column(&backend, self.mean.iter().map(|m| -m));
        out.add(scratch, View::new(&shift, 0, self.planes(), 1));
        self.scale_by_rate(&backend, out.by_plane_mut());
        out
    }

    /// Adds the gradient of one direction to `dw`, its `planes x 2` parameters.
    fn add_gradient<B: Backend>(
        scratch: &mut Scratch<B>,
        (normalised, rows): (&Rows<B>, usize),
        dy: View<B>,
        mut dw: ViewMut<B>,
    ) {
        let [scale, shift] = normalised.gradients(scratch, dy);
        for (column, sums) in [scale, shift].into_iter().enumerate() {
            sum_rows(scratch, View::new(&sums, 0, rows, dw.rows), dw.col_part(column, 1));
            scratch.give(sums);
        }
    }
}

/// Rows of activations or gradients, one right after another.
struct Rows<B: Backend> {
    buffer: B::Buffer,
    rows: usize,
    planes: usize,
    positions: usize,
}

impl<B: Backend> Rows<B> {
    /// `(rows planes) x positions`.
    fn by_plane(&self) -> View<'_, B> {
        View::new(&self.buffer, 0, self.rows * self.planes, self.positions)
    }

    fn by_plane_mut(&mut self) -> ViewMut<'_, B> {
        ViewMut::new(&mut self.buffer, 0, self.rows * self.planes, self.positions)
    }

    /// The rows `first..first + rows`, `(rows planes) x positions`.
    fn part(&self, first: usize, rows: usize) -> View<'_, B> {
        self.by_plane().row_range(first * self.planes, rows * self.planes)
    }

    /// `rows x (planes positions)`.
    fn by_row(&self) -> View<'_, B> {
        View::new(&self.buffer, 0, self.rows, self.planes * self.positions)
    }

    /// Adds to every plane its `shift`, `planes x 1`.
    fn add(&mut self, scratch: &mut Scratch<B>, shift: View<B>) {
        let (backend, width) = (scratch.backend(), self.planes * self.positions);
        let mut row = ones(scratch, width);
        backend.scale_rows(shift, ViewMut::new(&mut row, 0, self.planes, self.positions));
        let every = View::new(&row, 0, self.rows, width).with_stride(0);
        backend.add_all(&[every], ViewMut::new(&mut self.buffer, 0, self.rows, width));
        scratch.give(row);
    }

    /// `<dy, x^>` and `sum dy` of every plane of every row, `(rows planes) x 1` each, where these are the `x^`.
    fn gradients(&self, scratch: &mut Scratch<B>, dy: View<B>) -> [B::Buffer; 2] {
        let (backend, count) = (scratch.backend(), self.rows * self.planes);
        let [mut scale, mut shift] = [(); 2].map(|()| scratch.take(count));
        backend.row_dots(self.by_plane(), dy, 0.0, ViewMut::new(&mut scale, 0, count, 1));
        let ones = ones(scratch, self.positions);
        let every = View::new(&ones, 0, count, self.positions).with_stride(0);
        backend.row_dots(dy, every, 0.0, ViewMut::new(&mut shift, 0, count, 1));
        scratch.give(ones);
        [scale, shift]
    }
}

fn ones<B: Backend>(scratch: &mut Scratch<B>, len: usize) -> B::Buffer {
    let mut ones = scratch.take(len);
    scratch.backend().fill(1.0, ViewMut::new(&mut ones, 0, 1, len));
    ones
}

/// Adds the sum of the rows of `x` to the column `out`.
fn sum_rows<B: Backend>(scratch: &mut Scratch<B>, x: View<B>, out: ViewMut<B>) {
    let (backend, mut sums) = (scratch.backend(), scratch.take(x.cols));
    backend.combine(&vec![1.0; x.rows], x, 0.0, ViewMut::new(&mut sums, 0, 1, x.cols));
    backend.add_all(&[View::new(&sums, 0, x.cols, 1)], out);
    scratch.give(sums);
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
        self.numbers()
    }

    fn forward(&self, scratch: &mut Scratch<B>, w: Option<View<B>>, x: View<B>, y: ViewMut<B>) {
        let (backend, w) = (scratch.backend(), w.expect("batch normalisation has parameters"));
        let mut out = self.normalised(scratch, x);
        backend.scale_rows(w.col_range(0, 1), out.by_plane_mut());
        out.add(scratch, w.col_range(1, 1));
        backend.copy(out.by_row(), y);
        scratch.give(out.buffer);
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
        match rx {
            Some(rx) => {
                let mut through = self.together(scratch, rx);
                self.scale_through(scratch, at.w, through.by_plane_mut());
                backend.copy(through.by_row(), ry.reborrow());
                scratch.give(through.buffer);
            }
            None => backend.fill(0.0, ry.reborrow()),
        }
        let Some(v) = v else { return };
        let normalised = self.normalised(scratch, at.x);
        for j in 0..ry.rows / rows {
            let v = v.row_range(j * planes, planes);
            let mut along = self.together(scratch, normalised.by_row());
            backend.scale_rows(v.col_range(0, 1), along.by_plane_mut());
            along.add(scratch, v.col_range(1, 1));
            backend.add_all(&[along.by_row()], ry.part(j * rows, rows, self.numbers()));
            scratch.give(along.buffer);
        }
        scratch.give(normalised.buffer);
    }

    fn backward(
        &self,
        scratch: &mut Scratch<B>,
        at: Primal<B>,
        dy: View<B>,
        dx: Option<ViewMut<B>>,
        dw: Option<ViewMut<B>>,
    ) {
        let (backend, rows, planes) = (scratch.backend(), at.x.rows, self.planes());
        let mut all = self.together(scratch, dy);
        if let Some(mut dw) = dw {
            let normalised = self.normalised(scratch, at.x);
            for j in 0..dy.rows / rows {
                let target = dw.part(j * planes, planes, 2);
                Self::add_gradient(scratch, (&normalised, rows), all.part(j * rows, rows), target);
            }
            scratch.give(normalised.buffer);
        }
        if let Some(dx) = dx {
            self.scale_through(scratch, at.w, all.by_plane_mut());
            backend.copy(all.by_row(), dx);
        }
        scratch.give(all.buffer);
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
        let directions = delta.rdy.rows / rows;
        // r dy, which both of what is left have.
        let mut dy = self.together(scratch, delta.dy);
        self.scale_by_rate(&backend, dy.by_plane_mut());
        if let (Some(mut rdx), Some(v)) = (rdx, direction.v) {
            for j in 0..directions {
                let mut through = self.together(scratch, dy.by_row());
                backend.scale_rows(v.row_range(j * planes, planes).col_range(0, 1), through.by_plane_mut());
                backend.add_all(&[through.by_row()], rdx.part(j * rows, rows, self.numbers()));
                scratch.give(through.buffer);
            }
        }
        if let (Some(mut dw), Some(rx)) = (dw, direction.rx) {
            let (rx, mut dots) = (self.together(scratch, rx), scratch.take(rows * planes));
            for j in 0..directions {
                let target = ViewMut::new(&mut dots, 0, rows * planes, 1);
                backend.row_dots(dy.by_plane(), rx.part(j * rows, rows), 0.0, target);
                let mut own = dw.part(j * planes, planes, 2);
                sum_rows(scratch, View::new(&dots, 0, rows, planes), own.col_part(0, 1));
            }
            scratch.give(dots);
            scratch.give(rx.buffer);
        }
        scratch.give(dy.buffer);
    }

    fn example_gradients(&self, scratch: &mut Scratch<B>, at: Primal<B>, dy: View<B>, out: ViewMut<B>) {
        let (backend, count) = (scratch.backend(), dy.rows * self.planes());
        let (normalised, dy) = (self.normalised(scratch, at.x), self.together(scratch, dy));
        let mut out = out.reshape(count, 2);
        for (column, own) in normalised.gradients(scratch, dy.by_plane()).into_iter().enumerate() {
            backend.copy(View::new(&own, 0, count, 1), out.col_part(column, 1));
            scratch.give(own);
        }
        scratch.give(normalised.buffer);
        scratch.give(dy.buffer);
    }
}
