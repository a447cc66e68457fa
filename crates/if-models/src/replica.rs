//! A model on several devices.

use if_linalg::{Backend, Block, side_by_side};

use crate::passes::direction_major;
use crate::{Inputs, Network, Rows};

/// A network, its parameters and its examples once more, on another device.
pub struct Replica<B: Backend> {
    /// The same layers.
    pub network: Network<B>,
    /// The same parameters.
    pub theta: Block<B>,
    /// The same examples, all of them.
    pub inputs: Inputs<B>,
}

impl<B: Backend> Network<B> {
    /// [`scores`](Self::scores), shared with `replicas`: each device takes as many of the row blocks. The same bits as
    /// without, where devices are alike.
    pub fn scores_with(
        &self,
        replicas: &[Replica<B>],
        inputs: &Inputs<B>,
        theta: &Block<B>,
        v: &Block<B>,
    ) -> Vec<B::Elem> {
        let devices = (replicas.len() + 1).min(inputs.blocks());
        if devices <= 1 || v.k() == 0 {
            return self.scores(inputs, theta, v);
        }
        let bound = |device: usize| inputs.len().min(device * inputs.blocks() / devices * B::ROW_BLOCK);
        let shares = side_by_side(devices, |device| {
            let (first, last) = (bound(device), bound(device + 1));
            let rows = Rows::Range(first, last - first);
            let scores = match device.checked_sub(1) {
                None => self.scores_at(inputs, theta, rows, v),
                Some(other) => {
                    let Replica { network, theta, inputs } = &replicas[other];
                    network.scores_at(inputs, theta, rows, &v.to(network.backend()))
                }
            };
            (last - first, scores)
        });
        direction_major(shares.into_iter(), v.k(), inputs.len(), 1)
    }
}
