//! Parameters under PyTorch's names: `NAME.weight` and `NAME.bias`, in PyTorch's layouts.

use std::collections::{BTreeMap, BTreeSet};

use if_linalg::{Backend, Block, Real};
use ndarray::ArrayD;

use crate::ModelError;
use crate::network::Network;

/// Tensors by name, as a `state_dict()` has them.
pub type Tensors = BTreeMap<String, ArrayD<f64>>;

/// PyTorch counts batches beside its running statistics; nothing depends on the count.
const IGNORED: &str = ".num_batches_tracked";

impl<B: Backend> Network<B> {
    /// Name and shape of every tensor, in the order of the parameters.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        self.parameter_layers()
            .flat_map(|layer| {
                let segment = layer.segment().expect("a layer with parameters");
                let weight = (format!("{}.weight", segment.name), layer.weight_shape());
                let bias = (format!("{}.bias", segment.name), vec![segment.rows]);
                std::iter::once(weight).chain(layer.has_bias().then_some(bias))
            })
            .collect()
    }

    /// The parameters that `tensors` hold, one vector.
    ///
    /// # Errors
    /// A tensor that is missing, one too many, one of another shape, or one that is not finite; running
    /// statistics other than the network's own (see [`ModelSpec::load`](crate::ModelSpec::load)).
    pub fn parameters(&self, tensors: &Tensors) -> Result<Block<B>, ModelError> {
        let expected = self.tensors();
        let known: BTreeSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        let statistics = self.statistics();
        let is_known = |name: &str| known.contains(name) || statistics.contains_key(name);
        let extra = tensors.keys().find(|name| !is_known(name) && !name.ends_with(IGNORED));
        if let Some(name) = extra {
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            return Err(ModelError::ExtraTensor { name: name.clone(), known });
        }
        let found: BTreeMap<&str, Vec<f64>> = expected
            .iter()
            .map(|(name, shape)| Ok((name.as_str(), checked::<B::Elem>(tensors, name, shape)?)))
            .collect::<Result<_, ModelError>>()?;
        for (name, built_with) in &statistics {
            if checked::<B::Elem>(tensors, name, &[built_with.len()])? != *built_with {
                return Err(ModelError::Spec(format!(
                    "tensor {name} differs from the statistics that the network was built with"
                )));
            }
        }
        let mut theta = Vec::with_capacity(self.layout().dim());
        for layer in self.parameter_layers() {
            let segment = layer.segment().expect("a layer with parameters");
            let weight = &found[format!("{}.weight", segment.name).as_str()];
            let bias = found.get(format!("{}.bias", segment.name).as_str());
            for (i, row) in weight.chunks_exact(weight.len() / segment.rows).enumerate() {
                theta.extend(row);
                theta.extend(bias.map(|bias| bias[i]));
            }
        }
        Ok(Block::from_f64(self.backend(), self.layout(), &theta))
    }

    /// `theta` as tensors by name: the inverse of [`parameters`](Self::parameters).
    pub fn state(&self, theta: &Block<B>) -> Tensors {
        let theta = theta.to_f64();
        let mut start = 0;
        let mut tensors = Tensors::new();
        for layer in self.parameter_layers() {
            let segment = layer.segment().expect("a layer with parameters");
            let rows = &theta[start..start + segment.rows * segment.cols];
            start += rows.len();
            let inputs = segment.cols - usize::from(layer.has_bias());
            let weight = rows.chunks_exact(segment.cols).flat_map(|row| &row[..inputs]).copied().collect();
            let bias: Vec<f64> =
                rows.chunks_exact(segment.cols).flat_map(|row| &row[inputs..]).copied().collect();
            let mut insert = |part: &str, shape: Vec<usize>, values: Vec<f64>| {
                let tensor = ArrayD::from_shape_vec(shape, values).expect("as many numbers as parameters");
                tensors.insert(format!("{}.{part}", segment.name), tensor);
            };
            insert("weight", layer.weight_shape(), weight);
            if layer.has_bias() {
                insert("bias", vec![segment.rows], bias);
            }
        }
        for (name, values) in self.statistics() {
            tensors
                .insert(name, ArrayD::from_shape_vec(vec![values.len()], values.to_vec()).expect("one axis"));
        }
        tensors
    }

    /// Constants that belong to the state beside the parameters, by tensor name.
    fn statistics(&self) -> BTreeMap<String, &[f64]> {
        self.parameter_layers()
            .flat_map(|layer| {
                layer
                    .statistics()
                    .into_iter()
                    .map(|(key, values)| (format!("{}.{key}", layer.name()), values))
            })
            .collect()
    }
}

/// The tensor `name`, if it is there, of this shape, and finite.
pub(crate) fn checked<T: Real>(
    tensors: &Tensors,
    name: &str,
    shape: &[usize],
) -> Result<Vec<f64>, ModelError> {
    let tensor = tensors.get(name).ok_or_else(|| ModelError::MissingTensor {
        name: name.to_owned(),
        expected: shape.to_vec(),
        present: tensors.keys().cloned().collect::<Vec<_>>().join(", "),
    })?;
    if tensor.shape() != shape {
        return Err(ModelError::TensorShape {
            name: name.to_owned(),
            found: tensor.shape().to_vec(),
            expected: shape.to_vec(),
        });
    }
    let values: Vec<f64> = tensor.iter().copied().collect();
    let Some(position) = values.iter().position(|v| !T::from_f64(*v).to_f64().is_finite()) else {
        return Ok(values);
    };
    let (name, value) = (name.to_owned(), values[position]);
    Err(match value.is_finite() {
        true => ModelError::LargeWeight { name, position, value },
        false => ModelError::NonFiniteWeight { name, position },
    })
}
