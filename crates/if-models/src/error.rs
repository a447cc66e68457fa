//! What can be wrong with data, weights and settings.

use thiserror::Error;

/// One line that says where, what was expected and what was found.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ModelError {
    /// Features and labels differ in number.
    #[error("{examples} examples but {labels} labels")]
    LabelCount {
        /// Rows of the features.
        examples: usize,
        /// Number of labels.
        labels: usize,
    },
    /// No examples at all.
    #[error("the data set has no examples")]
    Empty,
    /// A NaN or an infinity among the features.
    #[error("example {example} holds a number that is not finite (feature {feature})")]
    NonFiniteFeature {
        /// Position in the data set.
        example: usize,
        /// Position in the flattened example.
        feature: usize,
    },
    /// A label that the loss cannot take.
    #[error("example {example} has label {label}, expected {expected}")]
    Label {
        /// Position in the data set.
        example: usize,
        /// What was found.
        label: f64,
        /// What the model takes.
        expected: String,
    },
    /// A number that stands for no token.
    #[error(
        "example {example} has token id {found} at position {position}, expected a whole number below the vocabulary size {vocabulary}, negative for padding"
    )]
    TokenId {
        /// Position in the data set.
        example: usize,
        /// Position in the example.
        position: usize,
        /// What was found.
        found: f64,
        /// Number of tokens the model knows.
        vocabulary: usize,
    },
    /// Features of another size than the model's input.
    #[error("the examples have {found} features, the model takes {expected}")]
    FeatureCount {
        /// Numbers per example.
        found: usize,
        /// Inputs of the model.
        expected: usize,
    },
    /// Weights of another shape than the model's.
    #[error("tensor {name} has shape {found:?}, expected {expected:?}")]
    TensorShape {
        /// Name in the file.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape in the model.
        expected: Vec<usize>,
    },
    /// A tensor that the model needs is not there.
    #[error("tensor {name} of shape {expected:?} is missing; there are: {present}")]
    MissingTensor {
        /// Name in the file.
        name: String,
        /// Shape in the model.
        expected: Vec<usize>,
        /// Names that are there.
        present: String,
    },
    /// A tensor that the model does not have.
    #[error("tensor {name} belongs to no layer of the model; its tensors are: {known}")]
    ExtraTensor {
        /// Name in the file.
        name: String,
        /// Names of the model.
        known: String,
    },
    /// A layer that is asked for by a name it does not have.
    #[error("no layer with parameters is called {name:?}; there are: {known}")]
    UnknownLayer {
        /// What was asked for.
        name: String,
        /// Names of the model.
        known: String,
    },
    /// A weight that is not finite.
    #[error("tensor {name} holds a number that is not finite at position {position}")]
    NonFiniteWeight {
        /// Name in the file.
        name: String,
        /// Position in the flattened tensor.
        position: usize,
    },
    /// A weight that is finite, but not in the precision of the network.
    #[error("tensor {name} holds {value:e} at position {position}, too large for single precision")]
    LargeWeight {
        /// Name in the file.
        name: String,
        /// Position in the flattened tensor.
        position: usize,
        /// The number.
        value: f64,
    },
    /// A network that cannot be built as described.
    #[error("{0}")]
    Spec(String),
    /// A setting outside its range.
    #[error("{name} must be {expected}, found {found}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// What is allowed.
        expected: &'static str,
        /// What was given.
        found: f64,
    },
    /// Training that went astray.
    #[error("the loss of example {example} is not finite at step {step}: lower the learning rate")]
    Diverged {
        /// Position in the data set.
        example: usize,
        /// Counted from 1.
        step: usize,
    },
    /// A method that does not apply to this model.
    #[error("{0}")]
    Unsupported(String),
}
