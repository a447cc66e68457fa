//! A network as data: what `model.toml` holds.

use std::sync::Arc;

use if_linalg::{Activation, Backend, Loss, Window};
use serde::{Deserialize, Serialize};

use crate::ModelError;
use crate::layer::{Conv2d, Dense, Elementwise, Layer, Pool2d, Pooling};
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
    GlobalAvgPool,
    /// From `(c, h, w)` to `c h w` numbers; nothing moves.
    Flatten,
    /// Nothing, at inference.
    Dropout,
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

fn one() -> usize {
    1
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
            Self::Dropout => return Ok(None),
            Self::Conv2d { name, out, kernel, stride, padding, bias } => {
                let window = window(&format!("conv2d {name:?}"), shape, *kernel, *stride, *padding)?;
                if *out == 0 {
                    return Err(format!("conv2d {name:?} has no outputs"));
                }
                shape[0] = *out;
                return Ok(Some(Arc::new(Conv2d::new(name, window, *out, *bias))));
            }
            Self::MaxPool { size, stride, padding } => {
                return pool(Pooling::Max, "max_pool", shape, (*size, *stride, *padding));
            }
            Self::AvgPool { size, stride, padding } => {
                return pool(Pooling::Mean, "avg_pool", shape, (*size, *stride, *padding));
            }
            Self::GlobalAvgPool => {
                let image = image("global_avg_pool", shape)?;
                let kernel = [image[1], image[2]];
                let window = Window { channels: image[0], image: kernel, kernel, stride: 1, padding: 0 };
                *shape = vec![image[0], 1, 1];
                return Ok(Some(Arc::new(Pool2d::new(Pooling::Mean, window))));
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

fn image(layer: &str, shape: &[usize]) -> Result<[usize; 3], String> {
    shape
        .try_into()
        .map_err(|_| format!("{layer} takes an image (channels, height, width), found shape {shape:?}"))
}

/// The window over images of `shape`, whose height and width become the numbers of windows.
fn window(
    layer: &str,
    shape: &mut [usize],
    kernel: usize,
    stride: usize,
    padding: usize,
) -> Result<Window, String> {
    let [channels, height, width] = image(layer, shape)?;
    let window = Window { channels, image: [height, width], kernel: [kernel; 2], stride, padding };
    let steps = window.steps().ok_or_else(|| {
        format!("{layer}: no window of side {kernel} with stride {stride} fits {height} x {width} with padding {padding}")
    })?;
    shape[1..].copy_from_slice(&steps);
    Ok(window)
}

fn pool<B: Backend>(
    pooling: Pooling,
    layer: &str,
    shape: &mut [usize],
    (size, stride, padding): (usize, Option<usize>, usize),
) -> Result<Option<Arc<dyn Layer<B>>>, String> {
    if 2 * padding > size {
        return Err(format!("{layer}: padding {padding} is more than half of the window's side {size}"));
    }
    let window = window(layer, shape, size, stride.unwrap_or(size), padding)?;
    Ok(Some(Arc::new(Pool2d::new(pooling, window))))
}
