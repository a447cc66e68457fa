//! Losses of one row on the CPU.

use crate::{Loss, Real};

/// Writes `delta = dl/dz` and the curvature of the outputs `z`, and returns the loss: the row of
/// [`Backend::loss`](super::Backend::loss).
pub(super) fn evaluate<T: Real>(loss: Loss, z: &[T], target: T, delta: &mut [T], curvature: &mut [T]) -> T {
    match loss {
        Loss::CrossEntropy => cross_entropy(z, target, delta, curvature),
        Loss::LabelSmoothing { smoothing } => label_smoothing(smoothing, z, target, delta, curvature),
        Loss::Margin if z.len() > 1 => margin(z, target, delta, curvature),
        _ => elementwise(loss, z, target, delta, curvature),
    }
}

/// `p = softmax(z)` over all classes but `left_out`, whose `p` is 0; returns
/// `ln sum exp (z_c - max)` of the same, and the `max`: together they would lose digits where outputs are large.
fn softmax<T: Real>(z: &[T], left_out: Option<usize>, p: &mut [T]) -> (T, T) {
    let counts = |c: usize| Some(c) != left_out;
    let lowest = T::from_f64(f64::NEG_INFINITY);
    let max = z.iter().enumerate().filter(|(c, _)| counts(*c)).fold(lowest, |m, (_, z)| m.max(*z));
    let mut total = T::ZERO;
    for (c, (p, z)) in p.iter_mut().zip(z).enumerate() {
        *p = if counts(c) { (*z - max).exp() } else { T::ZERO };
        total += *p;
    }
    p.iter_mut().for_each(|p| *p /= total);
    (total.ln(), max)
}

/// `delta = p - e_y`.
fn cross_entropy<T: Real>(z: &[T], target: T, delta: &mut [T], p: &mut [T]) -> T {
    let class = target.to_f64() as usize;
    let (log_total, max) = softmax(z, None, p);
    delta.copy_from_slice(p);
    delta[class] -= T::ONE;
    log_total + (max - z[class])
}

/// With `t = e_y - s (e_y - 1/C)`, the loss is cross-entropy plus `s (z_y - mean z)` and `delta`
/// gains `s (e_y - 1/C)`. Differences to `z_y` are averaged, as they do not grow with a shift of all outputs.
fn label_smoothing<T: Real>(s: f64, z: &[T], target: T, delta: &mut [T], p: &mut [T]) -> T {
    let class = target.to_f64() as usize;
    let cross_entropy = cross_entropy(z, target, delta, p);
    let share = T::from_f64(s / z.len() as f64);
    delta.iter_mut().for_each(|d| *d -= share);
    delta[class] += T::from_f64(s);
    cross_entropy + share * z.iter().map(|other| z[class] - *other).sum()
}

/// `delta = q - e_y`, with `q` the softmax over the classes other than `y`.
fn margin<T: Real>(z: &[T], target: T, delta: &mut [T], q: &mut [T]) -> T {
    let class = target.to_f64() as usize;
    let (log_total, max) = softmax(z, Some(class), q);
    delta.copy_from_slice(q);
    delta[class] = -T::ONE;
    log_total + (max - z[class])
}

/// A sum over outputs; the target of each is its part of the one-hot row, or the number itself
/// where there is one output.
fn elementwise<T: Real>(loss: Loss, z: &[T], target: T, delta: &mut [T], second: &mut [T]) -> T {
    let mut total = 0.0;
    let single = z.len() == 1;
    for (c, z) in z.iter().enumerate() {
        let y = if single { target.to_f64() } else { f64::from(u8::from(target.to_f64() == c as f64)) };
        let [value, d1, d2] = loss.scalar(z.to_f64(), y);
        total += value;
        delta[c] = T::from_f64(d1);
        second[c] = T::from_f64(d2);
    }
    T::from_f64(total)
}
