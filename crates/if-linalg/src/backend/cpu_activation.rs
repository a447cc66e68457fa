//! Elementwise functions on the CPU.
//!
//! Derivatives are taken from input and output together: where the output already holds the dear part (tanh,
//! sigmoid) nothing transcendental is evaluated again. The function is chosen outside the loops, so that the
//! cheap ones vectorise.

use super::{Cpu, View, ViewMut};
use crate::{Activation, Real};

/// `y = f(x)`, row by row.
#[inline(always)]
pub(super) fn activate<T: Real>(f: Activation, x: View<Cpu<T>>, mut y: ViewMut<Cpu<T>>) {
    for i in 0..x.rows {
        let (x, y) = (x.row(i), y.row(i));
        match f {
            // What is undefined stays so, and is named where losses are.
            Activation::Relu => map(x, y, |z| if z <= T::ZERO { T::ZERO } else { z }),
            Activation::LeakyRelu { slope } => {
                let slope = T::from_f64(slope);
                map(x, y, |z| if z > T::ZERO { z } else { slope * z });
            }
            Activation::Tanh => map(x, y, T::tanh),
            _ => map(x, y, |z| T::from_f64(f.scalar(z.to_f64())[0])),
        }
    }
}

/// Numbers whose derivatives are kept while all directions use them: a part of the first-level cache.
const CHUNK: usize = 512;

/// `out = f'(x) dy` for all directions of every example.
#[inline(always)]
pub(super) fn backward<T: Real>(
    f: Activation,
    [x, y]: [View<Cpu<T>>; 2],
    dy: View<Cpu<T>>,
    mut out: ViewMut<Cpu<T>>,
) {
    let mut slopes = [T::ZERO; CHUNK];
    for example in 0..x.rows {
        let points = x.row(example).chunks(CHUNK).zip(y.row(example).chunks(CHUNK));
        for (start, (x_part, y_part)) in points.enumerate().map(|(c, part)| (c * CHUNK, part)) {
            let first = &mut slopes[..x_part.len()];
            derivative(f, x_part, y_part, first);
            for i in (example..dy.rows).step_by(x.rows) {
                let out = &mut out.row(i)[start..start + first.len()];
                let dy = &dy.row(i)[start..start + first.len()];
                for ((out, dy), first) in out.iter_mut().zip(dy).zip(&*first) {
                    *out = *first * *dy;
                }
            }
        }
    }
}

/// `out = f'(x) rdy + f''(x) rx dy` for all directions of every example.
#[inline(always)]
pub(super) fn r_backward<T: Real>(
    f: Activation,
    [x, y]: [View<Cpu<T>>; 2],
    [dy, rx, rdy]: [View<Cpu<T>>; 3],
    mut out: ViewMut<Cpu<T>>,
) {
    let (mut slopes, mut curves) = ([T::ZERO; CHUNK], [T::ZERO; CHUNK]);
    for example in 0..x.rows {
        let points = x.row(example).chunks(CHUNK).zip(y.row(example).chunks(CHUNK));
        for (start, (x_part, y_part)) in points.enumerate().map(|(c, part)| (c * CHUNK, part)) {
            let end = start + x_part.len();
            let (first, second) = (&mut slopes[..x_part.len()], &mut curves[..x_part.len()]);
            derivative(f, x_part, y_part, first);
            second_derivative(f, x_part, y_part, second);
            second.iter_mut().zip(&dy.row(example)[start..end]).for_each(|(second, dy)| *second *= *dy);
            for i in (example..rdy.rows).step_by(x.rows) {
                let deltas = rdy.row(i)[start..end].iter().zip(&rx.row(i)[start..end]);
                let factors = first.iter().zip(&*second);
                for ((out, (rdy, rx)), (first, second)) in
                    out.row(i)[start..end].iter_mut().zip(deltas).zip(factors)
                {
                    *out = *first * *rdy + *second * *rx;
                }
            }
        }
    }
}

#[inline(always)]
fn derivative<T: Real>(f: Activation, x: &[T], y: &[T], out: &mut [T]) {
    match f {
        Activation::Relu => map(x, out, |z| if z > T::ZERO { T::ONE } else { T::ZERO }),
        Activation::LeakyRelu { slope } => {
            let slope = T::from_f64(slope);
            map(x, out, |z| if z > T::ZERO { T::ONE } else { slope });
        }
        Activation::Tanh => map(y, out, |y| T::ONE - y * y),
        Activation::Sigmoid => map(y, out, |y| y * (T::ONE - y)),
        _ => map(x, out, |z| T::from_f64(f.scalar(z.to_f64())[1])),
    }
}

#[inline(always)]
fn second_derivative<T: Real>(f: Activation, x: &[T], y: &[T], out: &mut [T]) {
    let two = T::from_f64(2.0);
    match f {
        Activation::Relu | Activation::LeakyRelu { .. } => out.fill(T::ZERO),
        Activation::Tanh => map(y, out, |y| -two * y * (T::ONE - y * y)),
        Activation::Sigmoid => map(y, out, |y| y * (T::ONE - y) * (T::ONE - two * y)),
        _ => map(x, out, |z| T::from_f64(f.scalar(z.to_f64())[2])),
    }
}

#[inline(always)]
fn map<T: Real>(x: &[T], out: &mut [T], f: impl Fn(T) -> T) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = f(*x));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_undefined_stays_so() {
        for f in [Activation::Relu, Activation::LeakyRelu { slope: 0.1 }, Activation::Tanh, Activation::Gelu]
        {
            let (x, mut y) = (vec![f32::NAN, 1.0], vec![0.0; 2]);
            activate(f, View::new(&x, 0, 1, 2), ViewMut::new(&mut y, 0, 1, 2));
            assert!(y[0].is_nan() && y[1] > 0.0, "{f:?}");
        }
    }
}
