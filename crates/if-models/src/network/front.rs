//! The layers before the first with parameters, and those after them.

use if_linalg::Backend;

use super::Network;

impl<B: Backend> Network<B> {
    /// Below this layer nothing depends on parameters.
    pub(super) fn first_with_parameters(&self) -> usize {
        self.segments.iter().position(Option::is_some).unwrap_or(self.layers.len())
    }

    /// The layer that a backward pass ends at.
    pub(super) fn lowest(&self, to_input: bool) -> usize {
        if to_input { 0 } else { self.first_with_parameters() }
    }

    /// Layers before the first with parameters: none where a skip leads from before it to after it.
    pub(crate) fn front(&self) -> usize {
        let Some(cut) = self.with_parameters().next() else { return 0 };
        let across = self.skips[cut..].iter().flatten().any(|source| *source < cut);
        if across { 0 } else { cut }
    }

    /// The layers from `cut` on, which is [`Self::front`].
    pub(crate) fn after(&self, cut: usize) -> Self {
        let layers = self.layers[cut..].to_vec();
        let skips = self.skips[cut..].iter().map(|skip| skip.map(|source| source - cut)).collect();
        Self { skips, ..Self::new(&self.backend, self.width_into(cut), layers, self.loss) }
    }
}
