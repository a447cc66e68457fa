//! Parameters to start from.

use if_linalg::{Backend, Block};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Network;

/// Weights and biases uniform within `1/sqrt(fan-in)`, or what the layer says it begins with.
pub(super) fn parameters<B: Backend>(network: &Network<B>, seed: u64) -> Block<B> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut theta = Vec::with_capacity(network.layout().dim());
    for layer in network.parameter_layers() {
        let segment = layer.segment().expect("a layer with parameters");
        match layer.initial() {
            Some(values) => theta.extend(values),
            None => {
                let fan_in = (segment.cols - usize::from(layer.has_bias())).max(1);
                let bound = 1.0 / (fan_in as f64).sqrt();
                let count = segment.rows * segment.cols;
                theta.extend((0..count).map(|_| rng.random_range(-bound..bound)));
            }
        }
    }
    Block::from_f64(network.backend(), network.layout(), &theta)
}
