//! A model on several devices.

use std::sync::Arc;

use if_linalg::{Backend, Block, side_by_side};

use crate::passes::direction_major;
use crate::{Inputs, Network, Rows, Vectors};

/// A network and its examples once more, on another device. Parameters are brought there when they are needed.
pub struct Replica<B: Backend> {
    /// The same layers.
    pub network: Network<B>,
    /// The same examples, all of them. Networks at several checkpoints may share them.
    pub inputs: Arc<Inputs<B>>,
}

/// Scores of some examples against vectors of some kind, such as [`Network::scores_at`].
type Scores<B, V> = fn(&Network<B>, &Inputs<B>, &Block<B>, Rows, &V) -> Vec<<B as Backend>::Elem>;

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
        self.shared(replicas, (inputs, theta), (v, v.k()), Block::to, Self::scores_at)
    }

    /// [`scores_of`](Self::scores_of), shared in the same way.
    pub fn scores_of_with(
        &self,
        replicas: &[Replica<B>],
        inputs: &Inputs<B>,
        theta: &Block<B>,
        v: &Vectors<B>,
    ) -> Vec<B::Elem> {
        let copied = |v: &Vectors<B>, to: &B| v.copied(self.backend(), to);
        self.shared(replicas, (inputs, theta), (v, v.k()), copied, Self::scores_of_at)
    }

    /// Of each device the scores of as many of the row blocks, against the `k` vectors `v`.
    fn shared<V: Send + Sync>(
        &self,
        replicas: &[Replica<B>],
        (inputs, theta): (&Inputs<B>, &Block<B>),
        (v, k): (&V, usize),
        copied: impl Fn(&V, &B) -> V,
        scores: Scores<B, V>,
    ) -> Vec<B::Elem> {
        let (n, blocks) = (inputs.len(), inputs.blocks());
        let replicas = &replicas[..replicas.len().min(blocks.saturating_sub(1))];
        // Before any device is at work, as it would wait for the first one's.
        let backends = replicas.iter().map(|other| other.network.backend());
        let copies: Vec<_> = backends.map(|backend| (theta.to(backend), copied(v, backend))).collect();
        let devices = replicas.len() + 1;
        let bound = |device: usize| n.min(device * blocks / devices * B::ROW_BLOCK);
        let shares = side_by_side(devices, |device| {
            let (first, last) = (bound(device), bound(device + 1));
            let rows = Rows::Range(first, last - first);
            let scores = match device.checked_sub(1) {
                None => scores(self, inputs, theta, rows, v),
                Some(other) => {
                    let (Replica { network, inputs }, (theta, v)) = (&replicas[other], &copies[other]);
                    scores(network, inputs, theta, rows, v)
                }
            };
            (last - first, scores)
        });
        direction_major(shares.into_iter(), k, n, 1)
    }
}
