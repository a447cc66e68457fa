//! A network as data: what `model.toml` holds.

use std::sync::Arc;

use if_linalg::{Backend, Loss};
use serde::{Deserialize, Serialize};

use crate::ModelError;
use crate::layer::{Dense, Layer};
use crate::network::Network;

/// Input shape, loss and layers in order. In TOML:
///
/// ```toml
/// input = [784]
/// loss = "cross-entropy"
///
/// [[layer]]
/// type = "dense"
/// name = "fc"
/// out = 10
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Shape of one example.
    pub input: Vec<usize>,
    /// The training loss.
    pub loss: Loss,
    /// First to last.
    #[serde(rename = "layer")]
    pub layers: Vec<LayerSpec>,
}

/// One layer and its settings. Names are those of the tensors, `NAME.weight`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum LayerSpec {
    /// Fully connected.
    Dense {
        /// Name of its tensors.
        name: String,
        /// Outputs.
        out: usize,
        /// Whether it has a bias.
        #[serde(default = "yes")]
        bias: bool,
    },
}

fn yes() -> bool {
    true
}

impl ModelSpec {
    /// The network on `backend`.
    ///
    /// # Errors
    /// A layer that does not fit what comes into it, named by its position.
    pub fn build<B: Backend>(&self, backend: &B) -> Result<Network<B>, ModelError> {
        let inputs = self.input.iter().product();
        if inputs == 0 || self.layers.is_empty() {
            let found = format!("input {:?} and {} layers", self.input, self.layers.len());
            return Err(ModelError::Spec(format!("expected an input and at least one layer, found {found}")));
        }
        let mut shape = self.input.clone();
        let mut layers: Vec<Arc<dyn Layer<B>>> = Vec::new();
        for (position, spec) in self.layers.iter().enumerate() {
            let at = |reason| ModelError::Spec(format!("layer {position}: {reason}"));
            layers.push(spec.build(&mut shape).map_err(at)?);
        }
        Ok(Network::new(backend, inputs, layers, self.loss))
    }
}

impl LayerSpec {
    /// The layer for inputs of `shape`, which becomes that of its outputs.
    fn build<B: Backend>(&self, shape: &mut Vec<usize>) -> Result<Arc<dyn Layer<B>>, String> {
        match self {
            Self::Dense { name, out, bias } => {
                let [inputs] = shape[..] else {
                    return Err(format!("dense {name:?} takes a flat input, found shape {shape:?}"));
                };
                if *out == 0 {
                    return Err(format!("dense {name:?} has no outputs"));
                }
                *shape = vec![*out];
                Ok(Arc::new(Dense::new(name, inputs, *out, *bias)))
            }
        }
    }
}
