//! The conformance kit: what every layer, loss and network must satisfy, for use in the tests of any
//! crate that writes one. Every check panics on the first property that does not hold.
//!
//! Derivatives are compared with central differences in `f64`, products that should agree exactly
//! are compared at the level of rounding, and whatever is computed twice must give the same bits.

mod layer;
mod loss;
mod network;

pub use layer::{LayerCheck, check_layer};
pub use loss::check_loss;
pub use network::check_network;

/// Step `h` of a central difference: its two errors, `h^2 f''' / 6` and `f eps / h`, are both near
/// 1e-11 for functions of order one.
const STEP: f64 = 1e-5;
/// Relative error allowed to a central difference.
const DIFFERENCE: f64 = 1e-7;
/// Relative error allowed between two orders of summation.
const ROUNDING: f64 = 1e-12;

fn dot(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len());
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

/// `a + factor b`.
fn plus(a: &[f64], factor: f64, b: &[f64]) -> Vec<f64> {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a + factor * b).collect()
}

/// `(f(h) - f(-h)) / 2h`.
fn difference(f: impl Fn(f64) -> Vec<f64>) -> Vec<f64> {
    let (ahead, behind) = (f(STEP), f(-STEP));
    ahead.iter().zip(&behind).map(|(a, b)| (a - b) / (2.0 * STEP)).collect()
}

/// `|found - expected| <= relative |expected|`.
fn close(found: &[f64], expected: &[f64], relative: f64, what: &str) {
    within(found, expected, relative * norm(expected), what);
}

/// The same for a central difference: relative to its size, or where that is tiny to the errors that every
/// difference of functions of order one has.
fn near(found: &[f64], expected: &[f64], what: &str) {
    within(found, expected, DIFFERENCE * norm(expected) + 1e-10, what);
}

/// `|found - expected| <= allowed`, written so that a NaN fails.
fn within(found: &[f64], expected: &[f64], allowed: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: another number of values");
    let error = norm(&plus(found, -1.0, expected));
    assert!(error <= allowed, "{what}: off by {error:e}, allowed {allowed:e}");
}

fn same_bits(found: &[f64], expected: &[f64], what: &str) {
    let bits = |x: &[f64]| x.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert!(bits(found) == bits(expected), "{what}: other bits");
}
