//! Sums of squared gradients, in parameters or in a basis: the diagonal of a Fisher matrix, and the eigenvalue
//! correction of EK-FAC (George et al. 2018).
//!
//! With `g = sum_r d_r a_r^T` (`R` terms) and a basis `Q_L`, `Q_R` there are three ways to `(Q_L g Q_R^T)^2`:
//!
//! ```text
//! one term       (Q_L d)^2 ((Q_R a)^2)^T            out^2 + in^2, summed over examples by one product
//! terms first    sum_r (Q_L d_r) (Q_R a_r)^T        R (out^2 + in^2)
//! whole          Q_L g Q_R^T                        out in (out + in)
//! ```

use if_linalg::{Backend, Segment, View, ViewMut};

use crate::layer::{Basis, Layer, Primal, Scratch};
use crate::scoring::{GRADIENTS, each_gradients};

/// [`Layer::squared_gradients`] of any layer.
pub(crate) fn of_gradients<B: Backend, L: Layer<B> + ?Sized>(
    layer: &L,
    scratch: &mut Scratch<B>,
    at: Primal<B>,
    dy: View<B>,
    basis: Option<Basis<B>>,
    mut out: ViewMut<B>,
) {
    let Segment { rows, cols, .. } = layer.segment().expect("a layer without parameters has no gradients");
    let (out_size, in_size) = (rows as f64, cols as f64);
    let sides = out_size * out_size + in_size * in_size;
    let terms = layer.gradient_terms();
    let first = terms.filter(|terms| *terms as f64 * sides < out_size * in_size * (out_size + in_size));
    if terms == Some(1) {
        of_outer_products(layer, scratch, at, dy, basis, out);
        return;
    }
    for j in 0..dy.rows / at.x.rows {
        let dy = dy.row_range(j * at.x.rows, at.x.rows);
        match (first, basis) {
            (Some(terms), Some(basis)) => of_terms(layer, scratch, at, dy, (terms, basis), out.reborrow()),
            _ => of_whole(layer, scratch, at, dy, basis, out.reborrow()),
        }
    }
}

/// Gradients of one term each: squares of the factors multiply, those of the output gradients summed over the
/// directions first.
fn of_outer_products<B: Backend, L: Layer<B> + ?Sized>(
    layer: &L,
    scratch: &mut Scratch<B>,
    at: Primal<B>,
    dy: View<B>,
    basis: Option<Basis<B>>,
    out: ViewMut<B>,
) {
    let Segment { rows, cols, .. } = layer.segment().expect("it has gradients");
    let (backend, n) = (scratch.backend(), at.x.rows);
    let [own, right] = factors(layer, scratch, at, dy.row_range(0, n), 1);
    scratch.give(own);
    // With one term the output gradients are the left factors.
    let mut left = scratch.take(dy.rows * rows);
    backend.copy(dy, ViewMut::new(&mut left, 0, dy.rows, rows));
    let [left, right] = rotated(scratch, [(left, dy.rows), (right, n)], basis);
    let squared = [(left, n * rows, dy.rows / n), (right, n * cols, 1)].map(|(factor, len, stacked)| {
        let mut squares = scratch.take(len);
        backend.fill(0.0, ViewMut::new(&mut squares, 0, 1, len));
        for j in 0..stacked {
            let own = View::new(&factor, j * len, 1, len);
            backend.paired_dots(own, own, ViewMut::new(&mut squares, 0, 1, len));
        }
        scratch.give(factor);
        squares
    });
    let target = ViewMut::new(out.buffer, out.offset, rows, cols);
    let [left, right] = &squared;
    backend.gemm(1.0, View::new(left, 0, n, rows).t(), View::new(right, 0, n, cols), 1.0, target);
    squared.into_iter().for_each(|buffer| scratch.give(buffer));
}

/// Factors rotated, then multiplied example by example.
fn of_terms<B: Backend, L: Layer<B> + ?Sized>(
    layer: &L,
    scratch: &mut Scratch<B>,
    at: Primal<B>,
    dy: View<B>,
    (terms, basis): (usize, Basis<B>),
    mut out: ViewMut<B>,
) {
    let factors = factors(layer, scratch, at, dy, terms);
    let factors = rotated(scratch, factors.map(|factor| (factor, dy.rows * terms)), Some(basis));
    let backend = scratch.backend();
    let (rows, cols) = (basis.left.rows, basis.right.rows);
    let (size, n) = (rows * cols, dy.rows);
    let together = B::IN_HAND.map_or(1, |numbers| (numbers / size).clamp(1, n));
    let mut gradients = scratch.take(together * size);
    for first in (0..n).step_by(together) {
        let count = together.min(n - first);
        let [left, right] = [(&factors[0], rows), (&factors[1], cols)]
            .map(|(factor, width)| View::new(factor, first * terms * width, terms, width));
        let steps = [terms * rows, terms * cols, size];
        let target = ViewMut::new(&mut gradients, 0, rows, cols);
        backend.gemm_batch(count, steps, 1.0, [left.t(), right], 0.0, target);
        add_squares(scratch, View::new(&gradients, 0, count, size), out.reborrow());
    }
    factors.into_iter().chain([gradients]).for_each(|buffer| scratch.give(buffer));
}

/// Whole gradients, some at a time.
fn of_whole<B: Backend, L: Layer<B> + ?Sized>(
    layer: &L,
    scratch: &mut Scratch<B>,
    at: Primal<B>,
    dy: View<B>,
    basis: Option<Basis<B>>,
    mut out: ViewMut<B>,
) {
    let backend = scratch.backend();
    each_gradients(layer, scratch, (at, dy), GRADIENTS, |scratch, _, gradients| {
        let together = if B::IN_HAND.is_some() { gradients.rows } else { 1 };
        for first in (0..gradients.rows).step_by(together) {
            let group = gradients.row_range(first, together);
            let Some(Basis { left, right }) = basis else {
                add_squares(scratch, group, out.reborrow());
                continue;
            };
            let (rows, cols) = (left.rows, right.rows);
            let size = rows * cols;
            let [mut half, mut whole] = [0, 1].map(|_| scratch.take(together * size));
            let gradient = group.row_as(0, rows, cols);
            let target = ViewMut::new(&mut half, 0, rows, cols);
            backend.gemm_batch(together, [0, size, size], 1.0, [left, gradient], 0.0, target);
            let (turned, target) = (View::new(&half, 0, rows, cols), ViewMut::new(&mut whole, 0, rows, cols));
            backend.gemm_batch(together, [size, 0, size], 1.0, [turned, right.t()], 0.0, target);
            add_squares(scratch, View::new(&whole, 0, together, size), out.reborrow());
            scratch.give(half);
            scratch.give(whole);
        }
    });
}

/// The factors of the gradients, `(n terms) x out` and `(n terms) x (in + 1)`.
fn factors<B: Backend, L: Layer<B> + ?Sized>(
    layer: &L,
    scratch: &mut Scratch<B>,
    at: Primal<B>,
    dy: View<B>,
    terms: usize,
) -> [B::Buffer; 2] {
    let Segment { rows, cols, .. } = layer.segment().expect("it has gradients");
    let count = dy.rows * terms;
    let [mut left, mut right] = [rows, cols].map(|width| scratch.take(count * width));
    let targets = (ViewMut::new(&mut left, 0, count, rows), ViewMut::new(&mut right, 0, count, cols));
    layer.gradient_factors(scratch, at, dy, targets);
    [left, right]
}

/// Factors, with their numbers of rows, in the basis.
fn rotated<B: Backend>(
    scratch: &mut Scratch<B>,
    factors: [(B::Buffer, usize); 2],
    basis: Option<Basis<B>>,
) -> [B::Buffer; 2] {
    let Some(basis) = basis else { return factors.map(|(factor, _)| factor) };
    let [left, right] = factors;
    [(left, basis.left), (right, basis.right)].map(|((factor, count), q)| {
        let mut rotated = scratch.take(count * q.rows);
        let target = ViewMut::new(&mut rotated, 0, count, q.rows);
        scratch.backend().gemm(1.0, View::new(&factor, 0, count, q.rows), q.t(), 0.0, target);
        scratch.give(factor);
        rotated
    })
}

/// `out += sum_i x_i^2` over the rows of `x`, element by element: several by a product with ones, which sums many numbers
/// more exactly than one after another.
fn add_squares<B: Backend>(scratch: &mut Scratch<B>, x: View<B>, out: ViewMut<B>) {
    let backend = scratch.backend();
    if x.rows == 1 {
        backend.paired_dots(x, x, out);
        return;
    }
    let mut squares = scratch.take(x.rows * x.cols);
    let mut ones = scratch.take(x.rows);
    backend.fill(0.0, ViewMut::new(&mut squares, 0, x.rows, x.cols));
    backend.fill(1.0, ViewMut::new(&mut ones, 0, 1, x.rows));
    backend.paired_dots(x, x, ViewMut::new(&mut squares, 0, x.rows, x.cols));
    let ones_row = View::new(&ones, 0, 1, x.rows);
    backend.gemm(1.0, ones_row, View::new(&squares, 0, x.rows, x.cols), 1.0, out);
    scratch.give(squares);
    scratch.give(ones);
}
