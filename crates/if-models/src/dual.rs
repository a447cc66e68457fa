//! The Gauss-Newton matrix as `U^T U`, for solves in the dual (Woodbury 1950), exact and cheap where examples times
//! outputs are few and parameters many.
//!
//! With `J_i = dz_i/dtheta` and the loss's Hessian in outputs `d2 l_i / dz2 = sum_c s_ic s_ic^T`:
//!
//! ```text
//! sum_i w_i J_i^T (d2 l_i / dz2) J_i = U^T U          row i m + c of U:  u_ic = sqrt(w_i) J_i^T s_ic
//! U x = sqrt(w_i) s_ic . (J_i x)                      a tangent pass, then the roots
//! U^T c = sum_i J_i^T sum_c c_ic sqrt(w_i) s_ic       the roots, then a backward pass
//! ```
//!
//! (`m` outputs). A layer whose gradients are single outer products, `u_ic = d_ic a_i^T` there, has
//! `u_ic . u_jd = (d_ic . d_jd) (a_i . a_j)`: `m^2 out + in` multiplications for two examples where whole rows take
//! `m^2 out in`. Other layers form the rows of some examples at a time.

use if_linalg::{Backend, Block, CurvatureRoot, Real, Segment, SymmetricMatrix, View, ViewMut};

use crate::inputs::Rows;
use crate::layer::{Primal, Scratch};
use crate::passes::direction_major;
use crate::risk::EmpiricalRisk;
use crate::tape::{Directions, Point};

/// The root `U` of the Gauss-Newton matrix of the data term of a risk at `theta`, `r = n m` rows of `m` outputs for
/// each of the `n` examples, in order. Rows of removed examples are zero.
pub struct GaussNewtonRoot<'r, 'a, B: Backend> {
    risk: &'r EmpiricalRisk<'a, B>,
    theta: &'r Block<B>,
    /// `sqrt(w_i)`, one column.
    weights: B::Buffer,
}

/// Numbers of a tile's rows. A constant, so that memory is bounded.
const TILE: usize = 1 << 23;

impl<'r, 'a, B: Backend> GaussNewtonRoot<'r, 'a, B> {
    /// Of the examples of `risk`, by their weights there; the loss must be convex in its outputs.
    pub fn new(risk: &'r EmpiricalRisk<'a, B>, theta: &'r Block<B>) -> Self {
        let weights: Vec<B::Elem> =
            risk.example_weights().into_iter().map(|w| B::Elem::from_f64(w.sqrt())).collect();
        let weights = risk.network().backend().upload(&weights);
        Self { risk, theta, weights }
    }

    /// The `m` rows of `U` of each of `examples`, one example after another.
    pub fn rows_of(&self, examples: &[usize]) -> Block<B> {
        let (network, m) = (self.risk.network(), self.outputs());
        let each = self.backend().map(examples.len(), |e| {
            let mut rows = Block::zeros(self.backend(), network.layout(), m);
            network.with_scratch(|scratch| {
                // Of a single example the roots are its output gradients, one below another.
                self.each_part(scratch, Rows::Indices(&examples[e..=e]), |scratch, _, at, roots| {
                    network.add_gradients(scratch, at, roots, (&mut rows, 0));
                });
            });
            rows
        });
        let mut all = Block::zeros(self.backend(), network.layout(), m * examples.len());
        each.iter().enumerate().for_each(|(e, rows)| all.add_at(e * m, 1.0, rows));
        all
    }

    fn outputs(&self) -> usize {
        self.risk.network().outputs()
    }

    fn backend(&self) -> &'a B {
        self.risk.network().backend()
    }

    /// Calls `f(scratch, part, at, roots)` for every part of `rows` that goes through all layers together: its
    /// first example among `rows`, its passes, and `sqrt(w_i) s_ic`, `(m count) x m` with one `c` after another.
    fn each_part(
        &self,
        scratch: &mut Scratch<B>,
        rows: Rows,
        mut f: impl FnMut(&mut Scratch<B>, usize, Point<B>, View<B>),
    ) {
        let (network, inputs, m) = (self.risk.network(), self.risk.inputs(), self.outputs());
        for (first, count) in network.parts(rows.len()) {
            let part = rows.part(first, count);
            let batch = inputs.batch(part);
            let tape = network.forward(scratch, self.theta, &batch);
            let mut roots = scratch.take(m * count * m);
            let target = ViewMut::new(&mut roots, 0, m * count, m);
            self.backend().loss_root(network.loss(), network.loss_curvature(&tape), 0, target);
            let weights = inputs.column(&self.weights, part);
            let target = ViewMut::new(&mut roots, 0, m * count, m);
            self.backend().scale_rows(weights.view(count, 1), target);
            let at = Point::new(self.theta, &batch, &tape);
            f(scratch, first, at, View::new(&roots, 0, m * count, m));
            scratch.give(roots);
            network.release(scratch, tape);
        }
    }

    /// `U x` of a part, `k x count x m`.
    fn project_part(&self, scratch: &mut Scratch<B>, at: Point<B>, roots: View<B>, x: &Block<B>) -> Vec<f64> {
        let (network, m, rows) = (self.risk.network(), self.outputs(), at.rows);
        let mut all = Vec::with_capacity(x.k() * rows * m);
        for start in (0..x.k()).step_by(network.group()) {
            let k = network.group().min(x.k() - start);
            let tangents = network.jvp(scratch, at, Directions { block: x, start, k });
            let mut by_example = scratch.take(rows * k * m);
            let target = ViewMut::new(&mut by_example, 0, rows, k * m);
            let rz = View::new(&tangents[tangents.len() - 1], 0, k * rows, m);
            self.backend().swap_axes([k, rows, m], rz.reshape(k, rows * m), target);
            let mut dots = scratch.take(m * rows * k);
            for c in 0..m {
                let target = ViewMut::new(&mut dots, c * rows * k, rows, k);
                let tangents = View::new(&by_example, 0, rows, k * m);
                self.backend().row_dots(tangents, roots.row_range(c * rows, rows), 0.0, target);
            }
            let host = self.backend().download(View::new(&dots, 0, m * rows, k));
            let each = (0..k).flat_map(|j| (0..rows).flat_map(move |i| (0..m).map(move |c| (j, i, c))));
            all.extend(each.map(|(j, i, c)| host[(c * rows + i) * k + j].to_f64()));
            tangents.into_iter().chain([by_example, dots]).for_each(|buffer| scratch.give(buffer));
        }
        all
    }

    /// Adds `U^T c` of a part to `sum`; `c(j, i, output)` are the coefficients.
    fn expand_part(
        &self,
        scratch: &mut Scratch<B>,
        at: Point<B>,
        roots: View<B>,
        c: impl Fn(usize, usize, usize) -> f64,
        sum: &mut Block<B>,
    ) {
        let (network, m, rows) = (self.risk.network(), self.outputs(), at.rows);
        for start in (0..sum.k()).step_by(network.group()) {
            let k = network.group().min(sum.k() - start);
            let mut dz = scratch.take(k * rows * m);
            for (j, output) in (0..k).flat_map(|j| (0..m).map(move |output| (j, output))) {
                let alpha: Vec<f64> = (0..rows).map(|i| c(start + j, i, output)).collect();
                let beta = vec![if output == 0 { 0.0 } else { 1.0 }; rows];
                let target = ViewMut::new(&mut dz, j * rows * m, rows, m);
                self.backend().row_axpby(&alpha, roots.row_range(output * rows, rows), &beta, target);
            }
            network.add_gradients(scratch, at, View::new(&dz, 0, k * rows, m), (&mut *sum, start));
            scratch.give(dz);
        }
    }
}

impl<B: Backend> CurvatureRoot<B> for GaussNewtonRoot<'_, '_, B> {
    fn rank(&self) -> usize {
        self.risk.n() * self.outputs()
    }

    fn gram(&self) -> SymmetricMatrix {
        let (n, m, r) = (self.risk.n(), self.outputs(), self.rank());
        let mut data = vec![0.0; r * r];
        let step = self.tile_rows();
        // Tile by tile of the lower triangle; tiles are formed anew for each strip, as memory is bounded.
        for own in (0..n).step_by(step) {
            let left = self.tile(Rows::Range(own, step.min(n - own)));
            let starts: Vec<usize> = (0..=own).step_by(step).collect();
            for wave in starts.chunks(2 * self.backend().concurrency()) {
                let products = self.backend().map(wave.len(), |t| {
                    let right = self.tile(Rows::Range(wave[t], step.min(n - wave[t])));
                    (right.rows, self.products(&left, &right))
                });
                for (other, (rows, products)) in wave.iter().zip(products) {
                    // Tiles run through all examples of an output, the matrix through all outputs of an example.
                    let place = |start: usize, rows: usize, at: usize| (start + at % rows) * m + at / rows;
                    for (at, value) in products.into_iter().enumerate() {
                        let (i, j) = (at / (m * rows), at % (m * rows));
                        let (i, j) = (place(own, left.rows, i), place(*other, rows, j));
                        if j <= i {
                            data[i * r + j] = value.to_f64();
                            data[j * r + i] = value.to_f64();
                        }
                    }
                }
            }
        }
        SymmetricMatrix::from_rows(r, data)
    }

    fn project(&self, x: &Block<B>) -> Vec<f64> {
        let (network, inputs) = (self.risk.network(), self.risk.inputs());
        let blocks = self.backend().map(inputs.blocks(), |b| {
            network.with_scratch(|scratch| {
                let mut parts = Vec::new();
                self.each_part(scratch, inputs.block(b), |scratch, _, at, roots| {
                    parts.push((at.rows, self.project_part(scratch, at, roots, x)));
                });
                parts
            })
        });
        direction_major(blocks.into_iter().flatten(), x.k(), inputs.len(), self.outputs())
    }

    fn expand(&self, c: &[f64], y: &mut Block<B>) {
        let (inputs, r, m) = (self.risk.inputs(), self.rank(), self.outputs());
        assert_eq!(c.len(), y.k() * r, "coefficients of another shape");
        y.clear();
        self.risk.network().sum_blocks(inputs.blocks(), y, |scratch, b, start, sum| {
            self.each_part(scratch, inputs.block(b), |scratch, first, at, roots| {
                let first = inputs.block(b).index(first);
                let coefficient =
                    |j: usize, i: usize, output: usize| c[(start + j) * r + (first + i) * m + output];
                self.expand_part(scratch, at, roots, coefficient, &mut *sum);
            });
        });
    }
}

/// The rows of `U` of some examples, layer by layer; one output after another.
struct Tile<B: Backend> {
    /// Number of examples.
    rows: usize,
    shares: Vec<Share<B>>,
}

/// The share of one layer.
enum Share<B: Backend> {
    /// `left` is `(m rows) x out`, `right` `rows x (in + 1)`.
    Outer { left: B::Buffer, right: B::Buffer },
    /// `(m rows) x (out (in + 1))`.
    Whole(B::Buffer),
}

impl<B: Backend> GaussNewtonRoot<'_, '_, B> {
    /// The layers with parameters: position, shape, and whether gradients are single outer products.
    fn layers(&self) -> Vec<(usize, [usize; 2], bool)> {
        let network = self.risk.network();
        let each = network.with_parameters().zip(network.layout().segments());
        each.map(|(l, Segment { rows, cols, .. })| {
            (l, [*rows, *cols], network.layers()[l].gradient_terms() == Some(1))
        })
        .collect()
    }

    /// Examples of a tile.
    fn tile_rows(&self) -> usize {
        let m = self.outputs();
        let numbers = |(_, [out, cols], single): (usize, [usize; 2], bool)| {
            if single { m * out + cols } else { m * out * cols }
        };
        let each: usize = self.layers().into_iter().map(numbers).sum();
        (TILE / each.max(1)).clamp(1, B::ROW_BLOCK)
    }

    fn tile(&self, rows: Rows) -> Tile<B> {
        let (network, backend, m) = (self.risk.network(), self.backend(), self.outputs());
        let (layers, total) = (self.layers(), rows.len());
        let zeros = |(_, [out, cols], single): &(usize, [usize; 2], bool)| match single {
            true => Share::Outer { left: backend.zeros(m * total * out), right: backend.zeros(total * cols) },
            false => Share::Whole(backend.zeros(m * total * out * cols)),
        };
        let mut tile = Tile { rows: total, shares: layers.iter().map(zeros).collect() };
        network.with_scratch(|scratch| {
            self.each_part(scratch, rows, |scratch, first, at, roots| {
                for c in (0..m).step_by(network.group()) {
                    let k = network.group().min(m - c);
                    let dz = roots.row_range(c * at.rows, k * at.rows);
                    network.backward(scratch, at, dz, false, |scratch, l, primal, dy| {
                        let Some(s) = layers.iter().position(|(layer, ..)| *layer == l) else { return };
                        let shape = layers[s].1;
                        for j in 0..k {
                            let dy = dy.row_range(j * at.rows, at.rows);
                            let place = (first, (c + j) * total + first);
                            self.put(scratch, (l, shape), (primal, dy), place, &mut tile.shares[s]);
                        }
                    });
                }
            });
        });
        tile
    }

    /// Writes what some examples have in layer `l` for one output; `place` is their first row on the right of outer
    /// products, and elsewhere.
    fn put(
        &self,
        scratch: &mut Scratch<B>,
        (l, [out, cols]): (usize, [usize; 2]),
        (primal, dy): (Primal<B>, View<B>),
        (example, row): (usize, usize),
        share: &mut Share<B>,
    ) {
        let (layer, rows) = (&self.risk.network().layers()[l], dy.rows);
        match share {
            Share::Outer { left, right } => {
                let left = ViewMut::new(left, row * out, rows, out);
                let right = ViewMut::new(right, example * cols, rows, cols);
                layer.gradient_factors(scratch, primal, dy, (left, right));
            }
            Share::Whole(whole) => {
                let size = out * cols;
                let target = ViewMut::new(whole, row * size, rows, size);
                layer.example_gradients(scratch, primal, dy, target);
            }
        }
    }

    /// Inner products of the rows of two tiles, `(m rows) x (m rows)`.
    fn products(&self, a: &Tile<B>, b: &Tile<B>) -> Vec<B::Elem> {
        let (backend, m) = (self.backend(), self.outputs());
        let (height, width) = (m * a.rows, m * b.rows);
        let mut sums = backend.zeros(height * width);
        let mut lefts = backend.zeros(height * width);
        let mut rights = backend.zeros(a.rows * b.rows);
        for ((_, [out, cols], _), shares) in self.layers().into_iter().zip(a.shares.iter().zip(&b.shares)) {
            match shares {
                (Share::Whole(a), Share::Whole(b)) => {
                    let size = out * cols;
                    let (a, b) = (View::new(a, 0, height, size), View::new(b, 0, width, size));
                    backend.gemm(1.0, a, b.t(), 1.0, ViewMut::new(&mut sums, 0, height, width));
                }
                (Share::Outer { left, right }, Share::Outer { left: left_b, right: right_b }) => {
                    let (x, y) = (View::new(left, 0, height, out), View::new(left_b, 0, width, out));
                    backend.gemm(1.0, x, y.t(), 0.0, ViewMut::new(&mut lefts, 0, height, width));
                    let (x, y) = (View::new(right, 0, a.rows, cols), View::new(right_b, 0, b.rows, cols));
                    backend.gemm(1.0, x, y.t(), 0.0, ViewMut::new(&mut rights, 0, a.rows, b.rows));
                    for (c, d) in (0..m).flat_map(|c| (0..m).map(move |d| (c, d))) {
                        let offset = c * a.rows * width + d * b.rows;
                        let part = View::new(&lefts, offset, a.rows, b.rows).with_stride(width);
                        let target = ViewMut::new(&mut sums, offset, a.rows, b.rows).with_stride(width);
                        backend.paired_dots(part, View::new(&rights, 0, a.rows, b.rows), target);
                    }
                }
                _ => unreachable!("both tiles hold a layer in the same way"),
            }
        }
        backend.download(View::new(&sums, 0, height, width))
    }
}
