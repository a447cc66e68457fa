//! Training of the last layers on what the frozen first ones give, which is computed once.

use if_linalg::{Backend, Block, HostArray};

use crate::{Dataset, Inputs, ModelError, Network};

/// The layers of a network from the first with parameters on, at what those before it make of a data set.
///
/// It has the parameters of the whole network, and the same losses and derivatives in them; passes leave out the layers
/// that do not change, such as those that [`Network::select`] freezes.
pub struct Unfrozen<B: Backend> {
    whole: Network<B>,
    theta: Block<B>,
    cut: usize,
    network: Network<B>,
    inputs: Inputs<B>,
}

impl<B: Backend> Unfrozen<B> {
    /// Passes the examples of `data` through the first layers of `network`; any of its parameters will do as `theta`.
    ///
    /// # Errors
    /// Data that do not fit the network.
    pub fn new(network: &Network<B>, theta: &Block<B>, data: &Dataset) -> Result<Self, ModelError> {
        let cut = network.front();
        let all = Inputs::new(network, data, usize::MAX)?;
        let rest = network.after(cut);
        let shape = vec![data.len(), rest.inputs()];
        let features = ndarray::ArrayD::from_shape_vec(shape, network.activations_into(&all, theta, cut));
        let features = HostArray::F64(features.expect("one row for each example"));
        let inputs = Inputs::new(&rest, &Dataset::new(features, data.labels().to_vec())?, usize::MAX)?;
        Ok(Self { whole: network.clone(), theta: theta.clone(), cut, network: rest, inputs })
    }

    /// The layers, with the parameters of the whole network.
    pub fn network(&self) -> &Network<B> {
        &self.network
    }

    /// What they take.
    pub fn inputs(&self) -> &Inputs<B> {
        &self.inputs
    }

    /// Example `examples[j]` becomes example `j` of `changed`, which are inputs of the whole network.
    ///
    /// # Panics
    /// Where the two differ in number.
    pub fn set_examples(&mut self, examples: &[usize], changed: &Inputs<B>) {
        assert_eq!(examples.len(), changed.len(), "one changed example for each");
        let features = self.whole.activations_into(changed, &self.theta, self.cut);
        for (&i, row) in examples.iter().zip(features.chunks_exact(self.network.inputs())) {
            self.inputs.set_features(i, row);
        }
    }
}
