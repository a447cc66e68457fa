//! A network as data: what `model.toml` holds.

use std::fmt;

use if_linalg::{Backend, Block, Loss};
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::ModelError;
use crate::assembly::Assembly;
use crate::network::Network;
use crate::weights::Tensors;

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
    /// The training loss. One with a setting is written as a table:
    /// `loss = { label-smoothing = { smoothing = 0.1 } }`.
    pub loss: Loss,
    /// First to last.
    #[serde(rename = "layer", deserialize_with = "one_by_one")]
    pub layers: Vec<LayerSpec>,
}

/// One layer and its settings. Names are those of the tensors, `NAME.weight`.
// Braces without settings: of a variant without braces serde lets any pass.
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
    /// Mean of the embeddings of an example's tokens. The first layer; an example is a row of token ids,
    /// negative for padding.
    EmbeddingBag {
        /// Name of its tensor.
        name: String,
        /// Number of different tokens.
        vocab: usize,
        /// Numbers for each of them.
        dim: usize,
    },
    /// Convolution of an image `(c, h, w)`.
    Conv2d {
        /// Name of its tensors.
        name: String,
        /// Planes of the output.
        out: usize,
        /// Side of the square window.
        kernel: usize,
        /// Steps between windows.
        #[serde(default = "one")]
        stride: usize,
        /// Rows and columns of zeros beyond each edge.
        #[serde(default)]
        padding: usize,
        /// Whether it has a bias.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// Maximum under a window.
    MaxPool {
        /// Side of the square window.
        size: usize,
        /// Steps between windows; by default `size`.
        stride: Option<usize>,
        /// Rows and columns beyond each edge.
        #[serde(default)]
        padding: usize,
    },
    /// Mean under a window.
    AvgPool {
        /// Side of the square window.
        size: usize,
        /// Steps between windows; by default `size`.
        stride: Option<usize>,
        /// Rows and columns of zeros beyond each edge.
        #[serde(default)]
        padding: usize,
    },
    /// Mean of every plane: `(c, h, w)` to `(c, 1, 1)`.
    GlobalAvgPool {},
    /// Batch normalisation with frozen statistics, of planes or of single numbers.
    BatchNorm {
        /// Name of its tensors.
        name: String,
        /// Added to the variance.
        #[serde(default = "hundred_thousandth")]
        eps: f64,
    },
    /// The input of some layers added to their output.
    Residual {
        /// The layers, first to last.
        #[serde(rename = "layer", deserialize_with = "one_by_one")]
        layers: Vec<LayerSpec>,
    },
    /// From `(c, h, w)` to `c h w` numbers; nothing moves.
    Flatten {},
    /// Nothing, at inference.
    Dropout {},
    /// `max(0, x)`.
    Relu {},
    /// `x` above 0, else `slope x`.
    LeakyRelu {
        /// The factor below 0.
        #[serde(default = "hundredth")]
        slope: f64,
    },
    /// Hyperbolic tangent.
    Tanh {},
    /// `1 / (1 + exp(-x))`.
    Sigmoid {},
    /// `ln(1 + exp(x))`.
    Softplus {},
    /// By erf, or by its approximation with tanh.
    Gelu {
        /// PyTorch's `approximate`.
        #[serde(default)]
        approximate: Approximation,
    },
    /// Self-normalising exponential.
    Selu {},
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

/// Layers, with their position before errors: `layer 2: ...`, `layer 2.0: ...` inside a residual block.
fn one_by_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<LayerSpec>, D::Error> {
    struct Layers;
    impl<'de> Visitor<'de> for Layers {
        type Value = Vec<LayerSpec>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of layers")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Self::Value, A::Error> {
            let mut layers = Vec::new();
            while let Some(layer) = all.next_element().map_err(|e| at_layer(layers.len(), &e))? {
                layers.push(layer);
            }
            Ok(layers)
        }
    }
    deserializer.deserialize_seq(Layers)
}

fn at_layer<E: Error>(position: usize, error: &E) -> E {
    // What follows the first line repeats the name of a key.
    let text = error.to_string();
    let text = text.lines().next().unwrap_or_default();
    E::custom(match text.strip_prefix("layer ") {
        Some(inside) => format!("layer {position}.{inside}"),
        None => format!("layer {position}: {text}"),
    })
}

fn one() -> usize {
    1
}

fn hundred_thousandth() -> f64 {
    1e-5
}

fn hundredth() -> f64 {
    0.01
}

fn yes() -> bool {
    true
}

impl ModelSpec {
    /// The network on `backend`. Batch normalisation has the statistics of a new network, mean 0 and
    /// variance 1; [`load`](Self::load) takes them from a file.
    ///
    /// # Errors
    /// A loss that is a measurement or has a setting out of range; a layer that does not fit what comes
    /// into it, named by its position.
    pub fn build<B: Backend>(&self, backend: &B) -> Result<Network<B>, ModelError> {
        self.assemble(backend, None)
    }

    /// The network and its parameters, running statistics included, from a `state_dict()`.
    ///
    /// # Errors
    /// As [`build`](Self::build) and [`Network::parameters`].
    pub fn load<B: Backend>(
        &self,
        backend: &B,
        tensors: &Tensors,
    ) -> Result<(Network<B>, Block<B>), ModelError> {
        let network = self.assemble(backend, Some(tensors))?;
        let theta = network.parameters(tensors)?;
        Ok((network, theta))
    }

    fn assemble<B: Backend>(&self, backend: &B, tensors: Option<&Tensors>) -> Result<Network<B>, ModelError> {
        check_training_loss(self.loss)?;
        let inputs = match numbers(&self.input) {
            Some(inputs) if inputs > 0 && !self.input.is_empty() => inputs,
            _ => {
                return Err(ModelError::Spec(format!(
                    "expected an input of at least one number and at most {LARGEST}, found {:?}",
                    self.input
                )));
            }
        };
        let mut assembly = Assembly::new(self.input.clone(), tensors);
        assembly.add_all(&self.layers, "layer ")?;
        if assembly.layers.is_empty() {
            return Err(ModelError::Spec("expected a layer that computes something, found none".into()));
        }
        if assembly.layers.iter().all(|layer| layer.segment().is_none()) {
            return Err(ModelError::Spec("expected a layer with parameters, found none".into()));
        }
        if assembly.shape.iter().filter(|len| **len > 1).count() > 1 {
            return Err(ModelError::Spec(format!(
                "the last layer gives {:?}, expected a row of outputs: end with a dense layer after flatten or global_avg_pool",
                assembly.shape
            )));
        }
        let network = Network::new(backend, inputs, assembly.layers, self.loss);
        if self.loss.is_softmax() && network.outputs() == 1 {
            return Err(ModelError::Spec(
                "the loss is a softmax over classes, expected at least 2 outputs, found 1; logistic is the loss of one output"
                    .into(),
            ));
        }
        Ok(assembly
            .skips
            .into_iter()
            .fold(network, |network, (layer, source)| network.with_skip(layer, source)))
    }
}

/// Numbers in the parameters of a layer, or in an activation of one example, at most: what is larger is a mistake in
/// the description, and would be found out by running out of memory.
pub(crate) const LARGEST: usize = 1 << 30;

/// The product of `sizes`; `None` above [`LARGEST`].
pub(crate) fn numbers(sizes: &[usize]) -> Option<usize> {
    let product = sizes.iter().try_fold(1usize, |product, size| product.checked_mul(*size))?;
    (product <= LARGEST).then_some(product)
}

/// Refuses losses that cannot be trained on.
fn check_training_loss(loss: Loss) -> Result<(), ModelError> {
    match loss {
        Loss::LabelSmoothing { smoothing: s } if !(0.0..1.0).contains(&s) => {
            Err(ModelError::Setting { name: "smoothing", expected: "at least 0 and below 1", found: s })
        }
        Loss::SmoothHinge { temperature: t } if !(t > 0.0 && t.is_finite()) => {
            Err(ModelError::Setting { name: "temperature", expected: "a number above 0", found: t })
        }
        Loss::Logit | Loss::Margin => Err(ModelError::Spec(
            "logit and margin measure queries and are no training losses; expected cross-entropy, label-smoothing, logistic, squared, hinge or smooth-hinge"
                .into(),
        )),
        _ => Ok(()),
    }
}
