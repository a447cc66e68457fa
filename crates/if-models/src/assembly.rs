//! From the description of a network to its layers, shape by shape.

use std::collections::BTreeSet;
use std::sync::Arc;

use if_linalg::{Activation, Backend, Window};

use crate::ModelError;
use crate::layer::{
    BatchNorm, Conv2d, Dense, Elementwise, EmbeddingBag, Layer, Pool2d, Pooling, ResidualSum,
};
use crate::spec::{Approximation, LARGEST, LayerSpec, numbers};
use crate::weights::{Tensors, checked};

/// What has been built so far.
pub(crate) struct Assembly<'a, B: Backend> {
    /// Shape of what comes out of the last layer.
    pub shape: Vec<usize>,
    /// Where running statistics are taken from.
    tensors: Option<&'a Tensors>,
    names: BTreeSet<String>,
    /// The layers.
    pub layers: Vec<Arc<dyn Layer<B>>>,
    /// For residual sums the layer and the activation that is added, as `Network::with_skip` takes them.
    pub skips: Vec<(usize, usize)>,
}

impl<'a, B: Backend> Assembly<'a, B> {
    /// Nothing yet, for inputs of `shape`.
    pub fn new(shape: Vec<usize>, tensors: Option<&'a Tensors>) -> Self {
        Self { shape, tensors, names: BTreeSet::new(), layers: Vec::new(), skips: Vec::new() }
    }

    /// Adds layers; errors begin with `place` and the position.
    pub fn add_all(&mut self, specs: &[LayerSpec], place: &str) -> Result<(), ModelError> {
        specs.iter().enumerate().try_for_each(|(position, spec)| {
            let place = format!("{place}{position}");
            if let LayerSpec::Residual { layers } = spec {
                return self.add_residual(layers, &place);
            }
            let refused = |reason| ModelError::Spec(format!("{place}: {reason}"));
            if let LayerSpec::BatchNorm { name, eps } = spec {
                self.claim(name).map_err(refused)?;
                return self.add_batch_norm(name, *eps);
            }
            let layer = self.layer(spec).map_err(refused)?;
            self.layers.extend(layer);
            if matches!(specs[..=position], [.., LayerSpec::Relu {}, LayerSpec::MaxPool { .. }]) {
                self.pool_before_relu();
            }
            Ok(())
        })
    }

    /// Swaps the last two layers: the larger of two numbers stays the larger, so the same numbers come out, and
    /// derivatives as well, as those at a maximum that is not positive are zero either way. There are fewer
    /// numbers to take the activation of.
    fn pool_before_relu(&mut self) {
        let last = self.layers.len() - 1;
        self.layers[last - 1] = self.layers[last].clone();
        self.layers[last] = Arc::new(Elementwise::new(Activation::Relu, self.shape.iter().product()));
    }

    fn add_residual(&mut self, specs: &[LayerSpec], place: &str) -> Result<(), ModelError> {
        let (shape, source) = (self.shape.clone(), self.layers.len());
        self.add_all(specs, &format!("{place}."))?;
        if self.layers.len() == source {
            return Err(ModelError::Spec(format!(
                "{place}: expected a residual block with a layer that computes something, found none"
            )));
        }
        if self.shape != shape {
            let found =
                format!("from {shape:?} to {:?} in {} layers", self.shape, self.layers.len() - source);
            return Err(ModelError::Spec(format!(
                "{place}: the layers of a residual block keep their input's shape, found {found}"
            )));
        }
        if source == 0 && self.layers[0].vocabulary().is_some() {
            return Err(ModelError::Spec(format!(
                "{place}: an embedding_bag cannot stand in a residual block: nothing is added to token ids"
            )));
        }
        self.skips.push((self.layers.len(), source));
        self.layers.push(Arc::new(ResidualSum::new(shape.iter().product())));
        Ok(())
    }

    fn add_batch_norm(&mut self, name: &str, eps: f64) -> Result<(), ModelError> {
        let planes = self.shape[0];
        let statistic = |key: &str, new: f64| match self.tensors {
            Some(tensors) => checked::<B::Elem>(tensors, &format!("{name}.{key}"), &[planes]),
            None => Ok(vec![new; planes]),
        };
        let (mean, variance) = (statistic("running_mean", 0.0)?, statistic("running_var", 1.0)?);
        if !(eps >= 0.0 && eps.is_finite()) {
            return Err(ModelError::Spec(format!("{name}: eps takes a number of at least 0, found {eps}")));
        }
        if let Some(plane) = variance.iter().position(|variance| variance + eps <= 0.0) {
            return Err(ModelError::Spec(format!(
                "{name}.running_var: expected variances of at least 0, found {} at position {plane}",
                variance[plane]
            )));
        }
        let positions = self.shape[1..].iter().product();
        self.layers.push(Arc::new(BatchNorm::new(name, positions, mean, variance, eps)));
        Ok(())
    }

    /// Tensors are found by name, so two layers cannot share one.
    fn claim(&mut self, name: &str) -> Result<(), String> {
        if name.is_empty() {
            return Err("a layer with parameters has an empty name".into());
        }
        if self.names.insert(name.to_owned()) { Ok(()) } else { Err(format!("the name {name:?} is taken")) }
    }

    /// A layer with the settings of `spec`; `None` where nothing is computed.
    fn layer(&mut self, spec: &LayerSpec) -> Result<Option<Arc<dyn Layer<B>>>, String> {
        let layer: Arc<dyn Layer<B>> = match spec {
            LayerSpec::Flatten {} => {
                self.shape = vec![self.shape.iter().product()];
                return Ok(None);
            }
            LayerSpec::Dropout {} => return Ok(None),
            LayerSpec::Dense { name, out, bias } => {
                self.claim(name)?;
                let [inputs] = self.shape[..] else {
                    return Err(format!("dense {name:?} takes a flat input, found shape {:?}", self.shape));
                };
                at_least_one(*out, "dense", name)?;
                fits(&[inputs + 1, *out], "dense", name)?;
                self.shape = vec![*out];
                Arc::new(Dense::new(name, inputs, *out, *bias))
            }
            LayerSpec::EmbeddingBag { name, vocab, dim } => {
                self.claim(name)?;
                self.embedding_bag(name, *vocab, *dim)?
            }
            LayerSpec::Conv2d { name, out, kernel, stride, padding, bias } => {
                self.claim(name)?;
                let window = self.slide(&format!("conv2d {name:?}"), *kernel, *stride, *padding)?;
                at_least_one(*out, "conv2d", name)?;
                fits(&[window.patch() + 1, *out], "conv2d", name)?;
                fits(&[window.patch() + 1, window.positions()], "conv2d", name)?;
                fits(&[window.positions(), *out], "conv2d", name)?;
                self.shape[0] = *out;
                Arc::new(Conv2d::new(name, window, *out, *bias))
            }
            LayerSpec::MaxPool { size, stride, padding } => {
                self.pool(Pooling::Max, "max_pool", *size, *stride, *padding)?
            }
            LayerSpec::AvgPool { size, stride, padding } => {
                self.pool(Pooling::Mean, "avg_pool", *size, *stride, *padding)?
            }
            LayerSpec::GlobalAvgPool {} => {
                let [channels, height, width] = self.image("global_avg_pool")?;
                let image = [height, width];
                self.shape = vec![channels, 1, 1];
                let window = Window { channels, image, kernel: image, stride: 1, padding: 0 };
                Arc::new(Pool2d::new(Pooling::Mean, window))
            }
            other => Arc::new(Elementwise::new(activation(other)?, self.shape.iter().product())),
        };
        Ok(Some(layer))
    }

    fn embedding_bag(&mut self, name: &str, vocab: usize, dim: usize) -> Result<Arc<dyn Layer<B>>, String> {
        if !self.layers.is_empty() {
            return Err(format!("embedding_bag {name:?} takes token ids: it can only be the first layer"));
        }
        if self.shape.len() != 1 {
            return Err(format!("embedding_bag {name:?} takes a row of ids, found shape {:?}", self.shape));
        }
        if !(1..=EmbeddingBag::LARGEST_VOCABULARY).contains(&vocab) {
            let largest = EmbeddingBag::LARGEST_VOCABULARY;
            return Err(format!(
                "embedding_bag {name:?} knows from 1 to {largest} tokens, found vocab {vocab}"
            ));
        }
        at_least_one(dim, "embedding_bag", name)?;
        fits(&[vocab, dim], "embedding_bag", name)?;
        self.shape = vec![dim];
        Ok(Arc::new(EmbeddingBag::new(name, vocab, dim)))
    }

    fn image(&self, layer: &str) -> Result<[usize; 3], String> {
        self.shape.as_slice().try_into().map_err(|_| {
            format!("{layer} takes an image (channels, height, width), found shape {:?}", self.shape)
        })
    }

    /// The window over the current images, whose height and width become the numbers of windows.
    fn slide(&mut self, layer: &str, kernel: usize, stride: usize, padding: usize) -> Result<Window, String> {
        let [channels, height, width] = self.image(layer)?;
        // Padding has no bound of its own, so a window may be larger than memory.
        if numbers(&[channels, kernel, kernel, 2]).is_none() {
            return Err(format!("{layer}: a window of side {kernel} is too large"));
        }
        let window = Window { channels, image: [height, width], kernel: [kernel; 2], stride, padding };
        let steps = window.steps().ok_or_else(|| {
            format!("{layer}: no window of side {kernel} with stride {stride} fits {height} x {width} with padding {padding}")
        })?;
        numbers(&[channels, steps[0], steps[1]]).ok_or_else(|| {
            format!(
                "{layer} would give {} x {} x {} numbers, expected at most {LARGEST}",
                channels, steps[0], steps[1]
            )
        })?;
        self.shape[1..].copy_from_slice(&steps);
        Ok(window)
    }

    fn pool(
        &mut self,
        pooling: Pooling,
        layer: &str,
        size: usize,
        stride: Option<usize>,
        padding: usize,
    ) -> Result<Arc<dyn Layer<B>>, String> {
        if 2 * padding > size {
            return Err(format!("{layer}: padding {padding} is more than half of the window's side {size}"));
        }
        let window = self.slide(layer, size, stride.unwrap_or(size), padding)?;
        Ok(Arc::new(Pool2d::new(pooling, window)))
    }
}

/// Refuses sizes that no memory holds, before anything is allocated.
fn fits(sizes: &[usize], layer: &str, name: &str) -> Result<(), String> {
    match numbers(sizes) {
        Some(_) => Ok(()),
        None => Err(format!(
            "{layer} {name:?} would take {} numbers, expected at most {LARGEST}",
            sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ")
        )),
    }
}

fn at_least_one(out: usize, layer: &str, name: &str) -> Result<(), String> {
    if out > 0 { Ok(()) } else { Err(format!("{layer} {name:?} has no outputs")) }
}

fn activation(spec: &LayerSpec) -> Result<Activation, String> {
    Ok(match spec {
        LayerSpec::Relu {} => Activation::Relu,
        LayerSpec::LeakyRelu { slope } if !slope.is_finite() => {
            return Err(format!("leaky_relu takes a finite slope, found {slope}"));
        }
        LayerSpec::LeakyRelu { slope } => Activation::LeakyRelu { slope: *slope },
        LayerSpec::Tanh {} => Activation::Tanh,
        LayerSpec::Sigmoid {} => Activation::Sigmoid,
        LayerSpec::Softplus {} => Activation::Softplus,
        LayerSpec::Gelu { approximate: Approximation::None } => Activation::Gelu,
        LayerSpec::Gelu { approximate: Approximation::Tanh } => Activation::GeluTanh,
        LayerSpec::Selu {} => Activation::Selu,
        other => unreachable!("{other:?} is no activation"),
    })
}
