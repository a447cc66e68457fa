//! The conformance kit: what every operator and every solver must satisfy, for use in the tests of
//! any crate that writes one.

mod backend;
mod conformance;
mod wide;
mod zoo;

pub use backend::check_backend;
pub use conformance::{check_operator, check_solver};
pub use wide::Wide;
pub use zoo::{Expectation, Problem, zoo};

use crate::Activation;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Every activation.
pub const ACTIVATIONS: [Activation; 8] = [
    Activation::Relu,
    Activation::LeakyRelu { slope: 0.1 },
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::Softplus,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Selu,
];

/// `n` numbers uniform in [-1, 1), the same on every platform.
pub fn random(n: usize, seed: u64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}
