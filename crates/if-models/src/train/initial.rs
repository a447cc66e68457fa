//! Parameters to start from.

use if_linalg::{Backend, Block};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Network;

impl<B: Backend> Network<B> {
    /// Parameters to train from: weights and biases uniform within `1/sqrt(fan-in)`, as PyTorch's dense layers
    /// and convolutions begin, or what the layer says it begins with (batch normalisation with 1 and 0).
    pub fn initial(&self, seed: u64) -> Block<B> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut theta = Vec::with_capacity(self.layout().dim());
        for layer in self.parameter_layers() {
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
        Block::from_f64(self.backend(), self.layout(), &theta)
    }
}
