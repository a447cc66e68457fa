//! A model: what the network is, and its parameters by name.

use std::path::Path;

use if_linalg::{Backend, Block, Cpu, sigmoid};
use if_models::{LayerSpec, Loss, ModelError, ModelSpec, Network, Tensors};

use crate::args::{ModelArgs, ModelName, Precision};
use crate::error::Failure;
use crate::source::Data;
use crate::spec_file::read_spec;

/// Temperature of the smooth hinge, Koh & Liang 2017, section 4.2.
const TEMPERATURE: f64 = 0.001;

/// What is between features and loss.
#[derive(Clone, Debug)]
pub enum Kind {
    /// One dense layer under a loss.
    Linear(Loss),
    /// A linear SVM: trained on the hinge, attributed at the smooth hinge.
    Svm {
        /// Of the smooth hinge.
        temperature: f64,
    },
    /// A network from a file.
    Network(ModelSpec),
}

impl Kind {
    /// What `--model` and `--temperature` say.
    pub fn new(args: &ModelArgs) -> Result<Self, Failure> {
        if args.temperature.is_some() && args.model != ModelName::Svm {
            return Err(Failure::input("--temperature belongs to --model svm"));
        }
        match &args.model {
            ModelName::Softmax => Ok(Self::Linear(Loss::CrossEntropy)),
            ModelName::Logistic => Ok(Self::Linear(Loss::Logistic)),
            ModelName::Svm => Ok(Self::Svm { temperature: args.temperature.unwrap_or(TEMPERATURE) }),
            ModelName::File(path) => read_spec(path).map(Self::Network),
            ModelName::Mlp(_) | ModelName::Cnn(_) => {
                Err(Failure::input("mlp and cnn name networks to be trained")
                    .hint("influence train writes W.toml beside the weights: give that as --model"))
            }
        }
    }

    /// The loss that influence differentiates.
    pub fn loss(&self) -> Loss {
        match self {
            Self::Linear(loss) => *loss,
            Self::Svm { temperature } => Loss::SmoothHinge { temperature: *temperature },
            Self::Network(spec) => spec.loss,
        }
    }

    /// Single precision is the habit of networks; optima are computed in double.
    pub fn default_precision(&self) -> Precision {
        if matches!(self, Self::Network(_)) { Precision::F32 } else { Precision::F64 }
    }

    /// How many outputs training examples ask for.
    pub fn outputs_for(&self, train: &Data) -> Result<usize, Failure> {
        if self.loss().is_softmax() { train.class_count() } else { Ok(1) }
    }
}

/// A network to be trained: from a file, or by sizes for the examples `train`, with `activation` between the layers;
/// `None` for a linear model.
pub fn network_spec(
    model: &ModelName,
    train: &Data,
    activation: &LayerSpec,
) -> Result<Option<ModelSpec>, Failure> {
    let dense = |position: usize, out| LayerSpec::Dense { name: position.to_string(), out, bias: true };
    let shape = &train.set.features().shape()[1..];
    // Layers are numbered as torch's Sequential numbers them.
    let mut layers = Vec::new();
    let input = match model {
        ModelName::File(path) => return read_spec(path).map(Some),
        ModelName::Mlp(widths) => {
            layers.push(LayerSpec::Flatten {});
            for width in widths {
                layers.push(dense(layers.len(), *width));
                layers.push(activation.clone());
            }
            shape.to_vec()
        }
        ModelName::Cnn(planes) => {
            for out in planes {
                layers.push(LayerSpec::Conv2d {
                    name: layers.len().to_string(),
                    out: *out,
                    kernel: 3,
                    stride: 1,
                    padding: 1,
                    bias: true,
                });
                layers.push(activation.clone());
                layers.push(LayerSpec::MaxPool { size: 2, stride: None, padding: 0 });
            }
            layers.push(LayerSpec::Flatten {});
            match *shape {
                [height, width] => vec![1, height, width],
                [channels, height, width] => vec![channels, height, width],
                _ => {
                    let found = format!("examples of shape {shape:?}");
                    return Err(Failure::input(format!(
                        "{}: cnn takes pictures, found {found}",
                        train.source
                    )));
                }
            }
        }
        _ => return Ok(None),
    };
    layers.push(dense(layers.len(), train.class_count()?));
    Ok(Some(ModelSpec { input, loss: Loss::CrossEntropy, layers }))
}

/// Whether examples have the shape that a network takes: flat, or the same but for axes of length 1. Another order of
/// the axes would have as many numbers, and another meaning.
pub fn check_shape(spec: &ModelSpec, data: &Data) -> Result<(), Failure> {
    let found = &data.set.features().shape()[1..];
    let long = |shape: &[usize]| shape.iter().copied().filter(|axis| *axis > 1).collect::<Vec<_>>();
    if found.len() <= 1 || spec.input.len() <= 1 || long(found) == long(&spec.input) {
        return Ok(());
    }
    let expected = &spec.input;
    Err(Failure::input(format!(
        "{}: expected examples of shape {expected:?}, found {found:?}",
        data.source.origin
    )))
}

/// The tensors of a safetensors file, widened. Integers are counters, such as PyTorch keeps of batches; a network that is
/// quantised to them would have its scales elsewhere.
pub fn read_weights(path: &Path) -> Result<Tensors, Failure> {
    let tensors = if_data::read_tensors(path)?.into_iter();
    let widened = tensors.map(|(name, array)| match array {
        if_data::Array::U8(_) | if_data::Array::I64(_) if !array.shape().is_empty() => Err(Failure::input(
            format!("{}: tensor {name}: expected F64, F32, F16 or BF16, found integers", path.display()),
        )),
        array => Ok((name, array.to_f64())),
    });
    widened.collect()
}

/// A network with parameters, in no particular precision yet.
#[derive(Clone, Debug)]
pub struct Model {
    /// The network.
    pub kind: Kind,
    /// Numbers per example.
    pub inputs: usize,
    /// Outputs, for linear models.
    pub outputs: usize,
    /// Whether there is a bias, for linear models.
    pub bias: bool,
    /// The parameters.
    pub tensors: Tensors,
}

impl Model {
    /// Parameters from a safetensors file, for the features of `train`. Whether a linear model has a
    /// bias, and for softmax how many classes, is read off the file.
    pub fn read(kind: &Kind, path: &Path, train: &Data) -> Result<Self, Failure> {
        let tensors = read_weights(path)?;
        let rows =
            tensors.get("fc.weight").filter(|weight| weight.ndim() == 2).map(|weight| weight.shape()[0]);
        let outputs = match rows {
            Some(rows) if rows > 0 && kind.loss().is_softmax() => rows,
            _ => kind.outputs_for(train)?,
        };
        // Names are numbered in their own order: rows of another number cannot be meant for them.
        if let (Some(names), Loss::CrossEntropy) = (&train.classes, kind.loss())
            && !matches!(kind, Kind::Network(_))
            && names.len() != outputs
        {
            return Err(Failure::input(format!(
                "{}: fc.weight has {outputs} rows, expected one for each of the {} classes of {} ({})",
                path.display(),
                names.len(),
                train.source.origin,
                names.join(", ")
            )));
        }
        let bias = tensors.contains_key("fc.bias");
        let model = Self { kind: kind.clone(), inputs: train.set.width(), outputs, bias, tensors };
        model.build(&Cpu::<f64>::new()).map_err(|error| {
            // The shapes inside a network have little to do with the examples.
            let shape = matches!(
                (&error, kind),
                (ModelError::TensorShape { .. }, Kind::Linear(_) | Kind::Svm { .. })
            );
            let failure = Failure::input(format!("{}: {error}", path.display()));
            let features =
                format!("{} has {} features for each example", train.source.origin, train.set.width());
            if shape { failure.hint(features) } else { failure }
        })?;
        Ok(model)
    }

    /// The network without parameters.
    pub fn network<B: Backend>(&self, backend: &B) -> Result<Network<B>, ModelError> {
        match &self.kind {
            // Running statistics are part of the network.
            Kind::Network(spec) => Ok(spec.load(backend, &self.tensors)?.0),
            kind => Ok(Network::linear(backend, self.inputs, self.outputs, self.bias, kind.loss())),
        }
    }

    /// The network and its parameters.
    pub fn build<B: Backend>(&self, backend: &B) -> Result<(Network<B>, Block<B>), ModelError> {
        let network = self.network(backend)?;
        let theta = network.parameters(&self.tensors)?;
        Ok((network, theta))
    }
}

/// What a model says about an example.
pub struct Prediction {
    /// In the numbering of the labels.
    pub label: f64,
    /// Probability of that label, where the loss knows probabilities.
    pub probability: Option<f64>,
}

impl Prediction {
    /// From a row of outputs; `labels` shows whether the negative class is called 0 or -1.
    pub fn new(loss: Loss, outputs: &[f64], labels: &[f64]) -> Self {
        if loss.is_binary() {
            let negative = if labels.contains(&-1.0) { -1.0 } else { 0.0 };
            let z = outputs[0];
            let label = if z > 0.0 { 1.0 } else { negative };
            let probability = (loss == Loss::Logistic).then(|| sigmoid(z.abs()));
            return Self { label, probability };
        }
        if let [value] = outputs {
            return Self { label: *value, probability: None };
        }
        let best = (0..outputs.len()).fold(0, |best, c| if outputs[c] > outputs[best] { c } else { best });
        let total: f64 = outputs.iter().map(|z| (z - outputs[best]).exp()).sum();
        Self { label: best as f64, probability: loss.is_softmax().then(|| 1.0 / total) }
    }
}
