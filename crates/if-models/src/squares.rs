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
use crate::scoring::each_gradients;

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
            add_squares(&backend, View::new(&factor, j * len, 1, len), ViewMut::new(&mut squares, 0, 1, len));
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
    let mut gradient = scratch.take(rows * cols);
    for i in 0..dy.rows {
        let [left, right] = [(&factors[0], rows), (&factors[1], cols)]
            .map(|(factor, width)| View::new(factor, i * terms * width, terms, width));
        backend.gemm(1.0, left.t(), right, 0.0, ViewMut::new(&mut gradient, 0, rows, cols));
        add_squares(&backend, View::new(&gradient, 0, 1, rows * cols), out.reborrow());
    }
    factors.into_iter().chain([gradient]).for_each(|buffer| scratch.give(buffer));
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
    let mut rotated = basis.map(|basis| [0, 1].map(|_| scratch.take(basis.left.rows * basis.right.rows)));
    each_gradients(layer, scratch, at, dy, |_, gradients| {
        for i in 0..gradients.rows {
            let gradient = gradients.row_range(i, 1);
            let (Some(basis), Some([half, whole])) = (basis, &mut rotated) else {
                add_squares(&backend, gradient, out.reborrow());
                continue;
            };
            let (rows, cols) = (basis.left.rows, basis.right.rows);
            let gradient = View::new(gradient.buffer, gradient.offset, rows, cols);
            backend.gemm(1.0, basis.left, gradient, 0.0, ViewMut::new(half, 0, rows, cols));
            let half = View::new(half, 0, rows, cols);
            backend.gemm(1.0, half, basis.right.t(), 0.0, ViewMut::new(whole, 0, rows, cols));
            add_squares(&backend, View::new(whole, 0, 1, rows * cols), out.reborrow());
        }
    });
    rotated.into_iter().flatten().for_each(|buffer| scratch.give(buffer));
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

/// `out += x^2`, element by element.
fn add_squares<B: Backend>(backend: &B, x: View<B>, out: ViewMut<B>) {
    backend.paired_dots(x, x, out);
}
