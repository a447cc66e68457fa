//! A network as data: what `model.toml` holds.

use std::sync::Arc;

use if_linalg::{Activation, Backend, Loss};
use serde::{Deserialize, Serialize};

use crate::ModelError;
use crate::layer::{Dense, Elementwise, Layer};
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
    /// From `(c, h, w)` to `c h w` numbers; nothing moves.
    Flatten,
    /// `max(0, x)`.
    Relu,
    /// `x` above 0, else `slope x`.
    LeakyRelu {
        /// The factor below 0.
        #[serde(default = "hundredth")]
        slope: f64,
    },
    /// Hyperbolic tangent.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `ln(1 + exp(x))`.
    Softplus,
    /// By erf, or by its approximation with tanh.
    Gelu {
        /// PyTorch's `approximate`.
        #[serde(default)]
        approximate: Approximation,
    },
    /// Self-normalising exponential.
    Selu,
}

/// How gelu is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approximation {
    /// Exactly.
    #[default]
    None,
    /// By the form with tanh.
    Tanh,
}

fn hundredth() -> f64 {
    0.01
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
        if inputs == 0 {
            return Err(ModelError::Spec(format!(
                "expected an input of at least one number, found {:?}",
                self.input
            )));
        }
        let mut shape = self.input.clone();
        let mut layers: Vec<Arc<dyn Layer<B>>> = Vec::new();
        for (position, spec) in self.layers.iter().enumerate() {
            let at = |reason| ModelError::Spec(format!("layer {position}: {reason}"));
            layers.extend(spec.build(&mut shape).map_err(at)?);
        }
        if layers.is_empty() {
            return Err(ModelError::Spec("expected a layer that computes something, found none".into()));
        }
        Ok(Network::new(backend, inputs, layers, self.loss))
    }
}

impl LayerSpec {
    /// The layer for inputs of `shape`, which becomes that of its outputs; `None` where nothing is
    /// computed.
    fn build<B: Backend>(&self, shape: &mut Vec<usize>) -> Result<Option<Arc<dyn Layer<B>>>, String> {
        let activation = match self {
            Self::Flatten => {
                *shape = vec![shape.iter().product()];
                return Ok(None);
            }
            Self::Dense { name, out, bias } => {
                let [inputs] = shape[..] else {
                    return Err(format!("dense {name:?} takes a flat input, found shape {shape:?}"));
                };
                if *out == 0 {
                    return Err(format!("dense {name:?} has no outputs"));
                }
                *shape = vec![*out];
                return Ok(Some(Arc::new(Dense::new(name, inputs, *out, *bias))));
            }
            Self::Relu => Activation::Relu,
            Self::LeakyRelu { slope } if !slope.is_finite() => {
                return Err(format!("leaky_relu takes a finite slope, found {slope}"));
            }
            Self::LeakyRelu { slope } => Activation::LeakyRelu { slope: *slope },
            Self::Tanh => Activation::Tanh,
            Self::Sigmoid => Activation::Sigmoid,
            Self::Softplus => Activation::Softplus,
            Self::Gelu { approximate: Approximation::None } => Activation::Gelu,
            Self::Gelu { approximate: Approximation::Tanh } => Activation::GeluTanh,
            Self::Selu => Activation::Selu,
        };
        Ok(Some(Arc::new(Elementwise::new(activation, shape.iter().product()))))
    }
}
