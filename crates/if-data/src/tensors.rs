//! safetensors: weights by name, as PyTorch's `state_dict()` saves them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use ndarray::{ArrayD, ShapeError};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};

use crate::element::codec::{Codec, Order};
use crate::{Array, AtomicFile, DataError, Element};

/// Reads every tensor of a safetensors file by name.
///
/// F16 and BF16 are widened to F32 (exactly), integers to `I64` (such as PyTorch's
/// `num_batches_tracked`, which callers ignore).
///
/// # Errors
/// If the file cannot be read, is not a complete safetensors file, or holds a tensor of another type.
pub fn read_tensors(path: &Path) -> Result<BTreeMap<String, Array>, DataError> {
    let bytes = std::fs::read(path).map_err(DataError::io(path, "read"))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| {
        let found = format!("{} bytes that are not one ({e})", bytes.len());
        DataError::malformed(path, "header", "a complete safetensors file", found)
    })?;
    file.iter().map(|(name, view)| Ok((name.to_owned(), decode(path, name, &view)?))).collect()
}

/// Writes tensors by name as a safetensors file that appears whole or not at all.
///
/// # Errors
/// If the file cannot be written.
pub fn write_tensors(path: &Path, tensors: &BTreeMap<String, Array>) -> Result<(), DataError> {
    let file = AtomicFile::create(path)?;
    let encoded = tensors.iter().map(|(name, array)| (name, Encoded::new(array)));
    let bytes = safetensors::serialize(encoded, None).map_err(|e| {
        DataError::malformed(path, "header", "tensors that safetensors can describe", e.to_string())
    })?;
    file.finish_with(&bytes)
}

fn decode(path: &Path, name: &str, view: &TensorView<'_>) -> Result<Array, DataError> {
    let bytes = view.data();
    let half = |b: &[u8]| half::f16::from_le_bytes([b[0], b[1]]).to_f32();
    let brain = |b: &[u8]| half::bf16::from_le_bytes([b[0], b[1]]).to_f32();
    let at = format!("tensor {name:?}");
    let array = match view.dtype() {
        Dtype::F64 => plain::<f64>(view),
        Dtype::F32 => plain::<f32>(view),
        Dtype::F16 => shaped(view, bytes.chunks_exact(2).map(half).collect()),
        Dtype::BF16 => shaped(view, bytes.chunks_exact(2).map(brain).collect()),
        Dtype::I64 => plain::<i64>(view),
        Dtype::I32 => plain::<i32>(view),
        Dtype::I16 => plain::<i16>(view),
        Dtype::I8 => plain::<i8>(view),
        Dtype::U32 => plain::<u32>(view),
        Dtype::U16 => plain::<u16>(view),
        Dtype::U8 => plain::<u8>(view),
        other => {
            let expected = "F64, F32, F16, BF16 or an integer type";
            return Err(DataError::malformed(path, at, expected, other.to_string()));
        }
    };
    array.map_err(|e| DataError::malformed(path, at, "a shape that fits memory", e.to_string()))
}

fn plain<T: Element>(view: &TensorView<'_>) -> Result<Array, ShapeError> {
    shaped(view, view.data().chunks_exact(T::SIZE).map(|b| T::decode(b, Order::Little)).collect())
}

fn shaped<T: Element>(view: &TensorView<'_>, values: Vec<T>) -> Result<Array, ShapeError> {
    Ok(<T as Codec>::wrap(ArrayD::from_shape_vec(view.shape().to_vec(), values)?))
}

/// One tensor as the file stores it.
struct Encoded<'a> {
    array: &'a Array,
    bytes: Vec<u8>,
}

impl<'a> Encoded<'a> {
    fn new(array: &'a Array) -> Self {
        let bytes = match array {
            Array::U8(a) => encode(a),
            Array::I64(a) => encode(a),
            Array::F32(a) => encode(a),
            Array::F64(a) => encode(a),
        };
        Self { array, bytes }
    }
}

fn encode<T: Element>(array: &ArrayD<T>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(array.len() * T::SIZE);
    array.iter().for_each(|value| value.encode(&mut bytes));
    bytes
}

impl View for Encoded<'_> {
    fn dtype(&self) -> Dtype {
        match self.array {
            Array::U8(_) => Dtype::U8,
            Array::I64(_) => Dtype::I64,
            Array::F32(_) => Dtype::F32,
            Array::F64(_) => Dtype::F64,
        }
    }

    fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}
